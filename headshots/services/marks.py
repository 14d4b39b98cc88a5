"""High-water marks: small private files beside the keys, outside the main database and every backup of it.

What a restored database or a clock that was set back has forgotten is still known here.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings


def path_of(name: str) -> Path:
    """Where the mark of that name lies on this machine."""
    return Path(settings.DATA) / "keys" / f"{name}.json"


def read(path: Path) -> Mapping[str, Any] | None:
    """The mark's fields; None when there is none yet.

    Raises ValueError for a file that holds something else: what it held is not to be guessed.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no mark")
    return content


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep all other processes of this machine from writing the mark while the body runs."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write(path: Path, **fields: int | str) -> None:
    """Replace the mark, durably and at once, by the holder of the lock."""
    part = path.with_suffix(".part")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(fields, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
