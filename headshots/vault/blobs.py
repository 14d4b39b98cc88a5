"""Keeps sealed bytes under random names; the disk store of the embedded mode and the seam for others."""

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from headshots.faults import faultpoint
from headshots.vault import files
from headshots.vault.errors import BlobExists, BlobMissing

_NAME: Final = re.compile(r"o/[0-9a-f]{32}/[0-9a-f]{32}|t/[0-9a-f]{32}")
_PREFIX: Final = re.compile(r"o/[0-9a-f]{32}/|o/|t/|")
_ORDER: Final = re.compile(r"o/[0-9a-f]{32}/")
# What list() can show, so that whatever lies in an order's folder can be deleted from it.
_STORED: Final = re.compile(r"[ot](/(?!\.{1,2}(/|\Z))[^/\0]+)+")


class BlobStore(Protocol):
    """Sealed bytes by name: `o/<order>/<object>`, or `t/<order>` for a tombstone; 32 hex digits each."""

    def put(self, name: str, data: bytes | bytearray) -> None:
        """Store durably. Raises BlobExists and changes nothing when the name is taken.

        Raises BlobMissing when a purge deleted the unfinished blob; the writer is late and should stop.
        """

    def get(self, name: str) -> bytes:
        """The stored bytes. Raises BlobMissing."""

    def delete(self, name: str) -> bool:
        """Delete durably what `list` showed or `put` stored; True if something was there."""

    def delete_all(self, prefix: str) -> int:
        """Delete durably all that `list` shows under "o/<order>/"; how many names that were.

        Raises OSError when something is left, after everything else was deleted.
        """

    def list(self, prefix: str) -> Iterator[str]:
        """Every stored name under "", "o/", "o/<order>/" or "t/", in no order.

        Remains of broken writes are shown too. Raises OSError when it could not look everywhere, so that an
        empty answer always means that nothing is there.
        """

    def hidden(self, prefix: str) -> tuple[int, int]:
        """How many old versions and delete markers, and how many unfinished uploads, `list` counts in.

        (0, 0) for a store that keeps no such things. Raises as `list` does.
        """

    def weaknesses(self) -> Sequence[str]:
        """What in the store's settings could let something survive its deletion or be seen: sentences."""


def require_name(name: str) -> str:
    """The name, which can be put and got. Raises ValueError for any other."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a name of this store: {name!r}")
    return name


def require_prefix(prefix: str) -> None:
    """Raises ValueError for what cannot be listed."""
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(f"not a prefix of this store: {prefix!r}")


def require_order_prefix(prefix: str) -> None:
    """Raises ValueError for anything but the prefix of one order."""
    if not _ORDER.fullmatch(prefix):
        raise ValueError(f"not an order's prefix: {prefix!r}")


class DiskBlobStore:
    """A folder (mode 0700) of files (mode 0600), each written beside its place and linked into it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for top in ("o", "t"):
            (root / top).mkdir(mode=0o700, exist_ok=True)

    def put(self, name: str, data: bytes | bytearray) -> None:
        path = self._root / require_name(name)
        part = self._start_part(path)
        try:
            files.finish_part(part, path, data)
        except FileExistsError as error:
            raise BlobExists(name) from error
        except FileNotFoundError as error:
            raise BlobMissing(name) from error
        except OSError:
            self._drop_folder(path.parent)
            raise

    def get(self, name: str) -> bytes:
        try:
            return (self._root / require_name(name)).read_bytes()
        except FileNotFoundError as error:
            raise BlobMissing(name) from error

    def delete(self, name: str) -> bool:
        if not _STORED.fullmatch(name):
            raise ValueError(f"not a name of this store: {name!r}")
        path = self._root / name
        was_there = _unlink(path)
        if not self._drop_folder(path.parent) and was_there:
            files.sync_folder(path.parent)
        return was_there

    def delete_all(self, prefix: str) -> int:
        require_order_prefix(prefix)
        left: OSError | None = None
        deleted = 0
        folders = {self._root / prefix}
        for path in [self._root / name for name in self.list(prefix)]:
            folders.add(path.parent)
            try:
                deleted += _unlink(path)
                faultpoint("purge.object_deleted")
            except OSError as error:
                left = error
        # Made durable once for each folder instead of for each file; the deepest go first.
        for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
            if not self._drop_folder(folder):
                files.sync_folder(folder)
        if left is not None:
            raise left
        return deleted

    def list(self, prefix: str) -> Iterator[str]:
        require_prefix(prefix)
        # These two are made at the start and never removed: without them this is not our disk, and
        # "nothing there" would be a false witness.
        for top in ("o", "t"):
            (self._root / top).stat()
        return self._walk(self._root / prefix)

    def hidden(self, prefix: str) -> tuple[int, int]:
        require_prefix(prefix)
        return 0, 0

    def weaknesses(self) -> Sequence[str]:
        return ()

    def _walk(self, start: Path) -> Iterator[str]:
        for folder, _, names in os.walk(start, onerror=_raise_unless_gone):
            place = Path(folder).relative_to(self._root)
            for name in names:
                yield str(place / name)

    def _start_part(self, path: Path) -> Path:
        folder = path.parent
        if folder.parent == self._root:
            return files.start_part(path)
        while True:
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
                files.sync_folder(folder.parent)
            # A delete of the folder's last blob may remove the folder at this point; then it is made again.
            with suppress(FileNotFoundError):
                return files.start_part(path)

    def _drop_folder(self, folder: Path) -> bool:
        """Remove an order's folder if it is empty; a writer who has begun keeps it from being so."""
        if folder.parent == self._root:
            return False
        try:
            folder.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise
            return False
        files.sync_folder(folder.parent)
        return True


def _unlink(path: Path) -> bool:
    """Whether there was something to remove."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
