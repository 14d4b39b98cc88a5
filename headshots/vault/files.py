"""Writes private files that appear whole or not at all; shared by the key files and the disk blob store."""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from headshots.faults import faultpoint
from headshots.vault.errors import BadKeyFile


def write_new(path: Path, data: bytes) -> None:
    """Make a file of mode 0600, durably. Raises FileExistsError and leaves an existing one alone."""
    part = start_part(path)
    finish_part(part, path, data)


def start_part(path: Path) -> Path:
    """An empty file of mode 0600 beside `path`, under a name that cannot be taken for a finished one.

    Raises FileNotFoundError when the folder is not there.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    return part


def finish_part(part: Path, path: Path, data: bytes | bytearray) -> None:
    """Fill the part and give it its final name; the part is gone afterwards, also on failure.

    Raises FileExistsError when the name is taken, FileNotFoundError when somebody deleted the part.
    """
    faultpoint("file.started")
    try:
        with open(os.open(part, os.O_WRONLY), "wb") as file:  # not "wb" by name: that would make it anew
            file.write(data)
            file.flush()
            faultpoint("file.filled")
            os.fsync(file.fileno())
        os.link(part, path)  # unlike rename, a link never replaces what is there
        faultpoint("file.linked")
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    sync_folder(path.parent)


def drop_parts(folder: Path, before: float) -> int:
    """Remove the parts that broken writes left in the folder before that time (seconds); how many.

    What a part holds may be a key. A folder that does not exist has none.
    """
    dropped = 0
    for part in folder.glob("*.part"):
        with suppress(FileNotFoundError):  # its writer has finished, or another pass was first
            if part.stat().st_mtime < before:
                part.unlink()
                dropped += 1
    if dropped:
        sync_folder(folder)
    return dropped


def sync_folder(folder: Path) -> None:
    """Make the folder's names durable. A folder that is gone meanwhile has none."""
    with suppress(FileNotFoundError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def require_private(path: Path, mode: int) -> None:
    """Raises BadKeyFile when users other than the owner may do anything with the file."""
    if stat.S_IMODE(mode) & 0o077:
        raise BadKeyFile(f"{path} is open to other users (mode {stat.S_IMODE(mode):04o}); make it 0600")
