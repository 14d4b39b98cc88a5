"""Giving a customer their pictures: one at a time, or all as a ZIP that never exists as a file."""

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from django.db.models import Q

from headshots.exceptions import NotFound, Refusal
from headshots.models import Order, Shot
from headshots.services import guarantee, licences, objects, payments, purge, tombstones, zips
from headshots.states import ShotState
from headshots.vault.envelope import Kind

# A redo is kept for its customer to look at, whatever its rank; all others are kept to be compared.
SHOWN: Final = Q(state=ShotState.DONE) | Q(state=ShotState.KEPT, replaces__isnull=False)


def open_headshot(order: Order, index: int, kind: Kind, now: datetime) -> bytes:
    """The JPEG of one finished picture, full size (Kind.HEADSHOT) or small (Kind.PREVIEW).

    Finished is also one that was made again and waits to be chosen.

    Raises Refusal("headshot_not_found") while it does not exist, Refusal("payment_disputed"), NotFound once
    the order is gone.
    """
    purge.nudge(now)
    tombstones.require_none(order)
    payments.require_undisputed(order)
    shot = (
        Shot.objects.filter(SHOWN, order=order, index=index)
        .select_related("headshot__order", "preview__order")
        .first()
    )
    stored = shot and (shot.headshot if kind == Kind.HEADSHOT else shot.preview)
    if not stored:
        raise Refusal("headshot_not_found")
    return objects.read(stored, now)


def file_name(place: int, shot: Shot) -> str:
    """What a picture is called on the customer's disk: place and style, nothing about the person."""
    return f"headshot-{place:02d}-{shot.style_version.style.slug}.jpg"


def place_of(order: Order, index: int) -> int:
    """Which of the order's pictures one is, the best being 1; for a redo, which one it was made in place of.

    Raises Refusal("headshot_not_found") when there is no such picture.
    """
    again = Shot.objects.filter(order=order, index=index, state=ShotState.KEPT, replaces__isnull=False)
    replaced = again.values_list("replaces__index", flat=True).first()
    delivered = Shot.objects.filter(order=order, state=ShotState.DONE)
    fields = delivered.only("index", "rank", "style_version")
    for place, shot in enumerate(guarantee.best_first(fields), start=1):
        if shot.index == (replaced or index):
            return place
    raise Refusal("headshot_not_found")


def finished_shots(order: Order) -> list[Shot]:
    """The pictures that were delivered, the best first."""
    delivered = Shot.objects.filter(order=order, state=ShotState.DONE)
    return guarantee.best_first(delivered.select_related("style_version__style", "headshot__order"))


def stream_archive(order: Order, now: datetime) -> Iterator[bytes]:
    """The ZIP of all finished pictures and the licence, piece by piece; one picture is in memory at a time.

    Raises, before the first byte, Refusal("headshot_not_found") when no picture exists yet,
    Refusal("payment_disputed"), and NotFound once the order is gone.
    """
    purge.nudge(now)
    if not Order.objects.live(now).filter(pk=order.pk).exists():
        raise NotFound
    tombstones.require_none(order)
    payments.require_undisputed(order)
    shots = finished_shots(order)
    if not shots:
        raise Refusal("headshot_not_found")
    return zips.stream(_entries(order, shots, now))


def _entries(order: Order, shots: list[Shot], now: datetime) -> Iterator[tuple[str, bytes]]:
    yield licences.FILE_NAME, licences.grant(order, now).text.encode()
    for place, shot in enumerate(shots, start=1):
        assert shot.headshot is not None  # a DONE shot has one; the purge ends the order first
        yield file_name(place, shot), objects.read(shot.headshot, now)
