"""A question about the blob store that only deletion and its inspection ask."""

from headshots.services import objects
from headshots.vault.errors import BlobMissing


def exists(name: str) -> bool:
    """Whether the store has the object, asked by its name: in some stores a listing may lag behind."""
    try:
        objects.blobs().get(name)
    except BlobMissing:
        return False
    return True
