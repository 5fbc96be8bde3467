"""The one exception for bad input, and one-line messages of other exceptions."""

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def one_line(text: str) -> str:
    """Return a text with line breaks and other control characters escaped, as in Python's strings.

    File names may hold them: a break would cut a message, an escape would colour a terminal.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class UserError(Exception):
    """The user asked for something that cannot be done.

    The message is one line: what is wrong, and what to do. The commands print it and exit with code
    2. Any other exception is a defect of raydae and shows its traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def cause_of(error: BaseException) -> BaseException:
    """Return the error that was raised in another of Ray's processes, or the error itself."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    error = cause_of(error)
    return (str(error).strip() or type(error).__name__).splitlines()[0]
