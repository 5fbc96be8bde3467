"""The one exception that a user can cause: bad input, said in one line."""


class UserError(Exception):
    """Something the user asked for cannot be done.

    The message is one line: what was wrong, and what to do. The jobs print it and exit with 2;
    any other exception is a defect of raydae and shows its traceback.
    """
