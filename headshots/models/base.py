"""What rows of several kinds share."""


class Immutable(RuntimeError):
    """Our own code tried to change or delete a row that must stay as it was written."""
