"""ZIP archives that are made while they are sent: they never exist as a file, nor whole in memory."""

import io
import zipfile
from collections.abc import Iterable, Iterator
from typing import IO, Final, cast

from typing_extensions import Buffer  # pydantic brings it; collections.abc has it from Python 3.12

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the earliest time a ZIP can say: when a file was made is not told


def stream(entries: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """The archive of these (name, content) pairs, uncompressed, a piece for each of them and one at the end.

    `entries` is read as the pieces are taken, so of contents made on the way one is in memory at a time.
    """
    sink = _Drain()
    with zipfile.ZipFile(cast(IO[bytes], sink), "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content)
            yield sink.take()
    yield sink.take()


class _Drain(io.RawIOBase):
    """A write-only, unseekable file: ZipFile then writes sizes after the data instead of going back."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer) -> int:
        self._pieces.append(bytes(data))
        return len(self._pieces[-1])

    def take(self) -> bytes:
        """What was written since the last call."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken
