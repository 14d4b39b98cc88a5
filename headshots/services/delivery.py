"""Giving a customer their pictures: one at a time, or all as a ZIP that never exists as a file."""

import io
import zipfile
from collections.abc import Iterator
from datetime import datetime
from typing import IO, Final, cast

from typing_extensions import Buffer  # pydantic brings it; collections.abc has it from Python 3.12

from headshots.exceptions import Refusal
from headshots.models import Order, Shot
from headshots.services import objects
from headshots.services.licences import licence_text
from headshots.states import ShotState
from headshots.vault.envelope import Kind

_ZIP_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


def open_headshot(order: Order, index: int, kind: Kind, now: datetime) -> bytes:
    """The JPEG of one finished picture, full size (Kind.HEADSHOT) or small (Kind.PREVIEW).

    Raises Refusal("headshot_not_found") while it does not exist, NotFound once the order is gone.
    """
    shot = (
        Shot.objects.filter(order=order, index=index, state=ShotState.DONE)
        .select_related("headshot__order", "preview__order")
        .first()
    )
    stored = shot and (shot.headshot if kind == Kind.HEADSHOT else shot.preview)
    if not stored:
        raise Refusal("headshot_not_found")
    return objects.read(stored, now)


def file_name(shot: Shot) -> str:
    """What a picture is called on the customer's disk: place and style, nothing about the person."""
    return f"headshot-{shot.index:02d}-{shot.style_version.style.slug}.jpg"


def finished_shots(order: Order) -> list[Shot]:
    """The pictures that exist, in order."""
    return list(
        Shot.objects.filter(order=order, state=ShotState.DONE).select_related(
            "style_version__style", "headshot__order"
        )
    )


def stream_archive(order: Order, now: datetime) -> Iterator[bytes]:
    """The ZIP of all finished pictures and the licence, piece by piece; one picture is in memory at a time.

    Raises Refusal("headshot_not_found") before the first byte when no picture exists yet.
    """
    shots = finished_shots(order)
    if not shots:
        raise Refusal("headshot_not_found")
    return _archive(order, shots, now)


def _archive(order: Order, shots: list[Shot], now: datetime) -> Iterator[bytes]:
    sink = _Drain()
    with zipfile.ZipFile(cast(IO[bytes], sink), "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("LICENCE.txt", _ZIP_EPOCH), licence_text(order))
        for shot in shots:
            assert shot.headshot is not None  # a DONE shot has one; the purge ends the order first
            archive.writestr(zipfile.ZipInfo(file_name(shot), _ZIP_EPOCH), objects.read(shot.headshot, now))
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
