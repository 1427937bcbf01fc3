"""The error that a user can mend."""


class UserError(ValueError):
    """An error that the user can fix. The commands print it as one line and exit with code 2."""
