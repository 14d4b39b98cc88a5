"""The queue's virtual times in the database: orders enter behind them, claims move them on."""

from datetime import datetime
from typing import Final

from django.db import connection
from django.db.models import F

from headshots.models import Order, QueueMark, Shot
from headshots.services import fair_queue

CLOCK: Final = "clock"  # the other marks are named as the tiers whose last finish they hold

_ADVANCE: Final = """
    UPDATE headshots_queuemark SET virtual_time = %(to)s WHERE name = %(name)s AND virtual_time < %(to)s"""


def enter(order: Order, now: datetime) -> None:
    """Give the shots of an order that starts their places, in the caller's transaction.

    They count as waiting from `now`.
    """
    shots = Shot.objects.filter(order=order)
    length = shots.order_by("-virtual_offset").values_list("virtual_offset", flat=True).first() or 0
    start = reserve(order.tier, length)
    shots.update(virtual_finish=F("virtual_offset") + start, not_before=now)


def reserve(tier: str, length: int) -> int:
    """Lengthen a tier's flow by `length`, in the caller's transaction; the virtual start of what enters."""
    while True:
        clock, last_finish = read(CLOCK), read(tier)
        start = fair_queue.start_of(clock, last_finish)
        moved = QueueMark.objects.filter(name=tier, virtual_time=last_finish).update(
            virtual_time=start + length
        )
        if moved:
            return start


def read(name: str) -> int:
    """The virtual time of the clock, or of a tier's last finish; its row is made when it is missing."""
    found = QueueMark.objects.filter(name=name).values_list("virtual_time", flat=True).first()
    if found is None:
        QueueMark.objects.bulk_create([QueueMark(name=name)], ignore_conflicts=True)
        return read(name)
    return found


def advance(to: int) -> None:
    """Move the clock on; it never goes back. As SQL, since every claim does it: see `queue_rows`."""
    with connection.cursor() as cursor:
        cursor.execute(_ADVANCE, {"name": CLOCK, "to": to})
