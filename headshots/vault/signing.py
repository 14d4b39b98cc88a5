"""The files of receipt keys: one private key, and beside it the public keys that were used before.

They are no part of the encryption's hierarchy and outlive it: a receipt must still be checkable years later.
"""

import os
import secrets
import string
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from headshots.vault import files
from headshots.vault.errors import BadKeyFile
from headshots.vault.notes import Signer, Verifier

_SEED_BYTES: Final = 32


def key_name(host: str, year: int, used: Iterable[Verifier] = ()) -> str:
    """A new key's name, such as headshots.example/deletion/2026a: the year's first letter not yet used.

    Raises ValueError when the year has no letter left.
    """
    taken = {verifier.name for verifier in used}
    for letter in string.ascii_lowercase:
        if (name := f"{host}/deletion/{year}{letter}") not in taken:
            return name
    raise ValueError(f"{host} has used up its key names of {year}")


def make_signer(path: Path, name: str) -> Signer:
    """A new random key in a new file of mode 0600. Raises FileExistsError; the file is left alone then."""
    signer = Signer(name=name, seed=secrets.token_bytes(_SEED_BYTES))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.write_new(path, signer.written().encode() + b"\n")
    return signer


def load_signer(path: Path) -> Signer:
    """The key in the file. Raises BadKeyFile when it holds none or others may read it, or OSError."""
    with path.open("rb") as file:
        files.require_private(path, os.fstat(file.fileno()).st_mode)
        data = file.read()
    try:
        return Signer.parse(data.decode().strip())
    except ValueError:  # not chained: the cause may quote the key
        raise BadKeyFile(f"{path} holds no receipt key") from None


def load_or_make_signer(path: Path, name: str) -> Signer:
    """The key in the file, made under this name if there is none; the same for all who ask at once."""
    if not path.exists():
        with suppress(FileExistsError):  # another process was first: its key is the key
            return make_signer(path, name)
    return load_signer(path)


def retired_path(path: Path) -> Path:
    """Where the verifier keys stand that were used before the key in `path`, one a line."""
    return path.with_name(f"{path.name}.retired")


def load_retired(path: Path) -> tuple[Verifier, ...]:
    """The verifier keys used before the key in `path`; none without their file.

    Raises BadKeyFile that names the line, or OSError.
    """
    try:
        lines = retired_path(path).read_text().splitlines()
    except FileNotFoundError:
        return ()
    return tuple(_parse(path, number, line.strip()) for number, line in enumerate(lines, 1) if line.strip())


def _parse(path: Path, number: int, line: str) -> Verifier:
    try:
        return Verifier.parse(line)
    except ValueError as error:
        raise BadKeyFile(f"{retired_path(path)}, line {number}: {error}") from error
