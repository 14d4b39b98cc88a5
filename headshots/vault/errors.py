"""What can go wrong in the vault; a customer is told the same thing for every kind of unreadable object."""

from typing import Final

_UNREADABLE: Final = "This object cannot be read."


class Unreadable(Exception):
    """Decryption failed. Final: do not retry, and tell the customer nothing more than that it is gone.

    Wrong key, wrong context, altered, truncated or missing key all say the same words, so that nobody can
    learn from an answer which of them it was.
    """

    def __init__(self) -> None:
        super().__init__(_UNREADABLE)


class KeyGone(Unreadable):
    """The epoch key is destroyed, past its life, or was never made.

    Reads like any `Unreadable`; code for operators may look at the class and at `epoch`.
    """

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch = epoch


class BadKeyFile(Exception):
    """A key file has the wrong content or is open to other users. The operator mends it; nothing started."""


class BlobMissing(Exception):
    """There is no blob of this name, or it was deleted while it was being written."""


class BlobExists(Exception):
    """A blob of this name is stored already and was left as it is."""


class StoreAway(OSError):
    """A store could not be reached or could not do what it was asked: nothing is known and nothing was lost.

    May be tried again. It never means that a key or a blob is gone, nor that it is still there.
    """


class UnsafeStore(Exception):
    """A store is set up so that what is deleted from it could survive. The operator mends it."""
