"""What goes wrong in a way that a person can do something about."""


class LocalError(Exception):
    """The message is one that the command prints before it ends with status 1."""
