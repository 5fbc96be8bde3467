"""The one exception for bad input, and one-line messages of other exceptions."""


class UserError(Exception):
    """The user asked for something that cannot be done.

    The message is one line: what is wrong, and what to do. The commands print it and exit with code
    2. Any other exception is a defect of raydae and shows its traceback.
    """


def cause_of(error: BaseException) -> BaseException:
    """Return the error that was raised in another of Ray's processes, or the error itself."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    error = cause_of(error)
    return (str(error).strip() or type(error).__name__).splitlines()[0]
