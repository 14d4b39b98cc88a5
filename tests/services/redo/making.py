"""What a worker does for these orders, and what is looked at afterwards."""

import io
import zipfile
from datetime import datetime, timedelta
from typing import Any

from headshots.models import AuditEntry, Mail, Order, OrderKey, Payment, Refund, Shot, StoredObject
from headshots.services import claiming, delivery, shots
from headshots.tiers import TIERS
from pipelines.types import FailedShot, FinishedShot, QualityReport
from tests.rendered import rendered

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def commit_all(now: datetime, *, rank: int = 0) -> None:
    """A worker makes everything that waits."""
    for claimed in claiming.claim("worker", 100, now):
        assert shots.commit(claimed, picture(claimed, rank=rank), now)


def picture(claimed: claiming.Claim, *, rank: int = 0) -> FinishedShot:
    report = QualityReport(measures={}, rank=rank, likeness="fair likeness" if rank else "")
    index = claimed.shot.index
    return rendered(claimed, jpeg_of(index), b"small %d" % index, report=report)


def jpeg_of(index: int) -> bytes:
    return b"picture %d" % index


def fail_one(now: datetime) -> None:
    """The quality gate lets none of a shot's seeds pass."""
    (claimed,) = claiming.claim("worker", 1, now)
    failed = FailedShot(shot_id=str(claimed.shot.pk), code="quality_gate", is_retryable=False)
    shots.fail(claimed, failed, now)


def states(order: Order) -> dict[int, str]:
    """The states of an order's shots by index; of a pack, of its first picture and its redos."""
    found = Shot.objects.filter(order=order).values_list("index", "state")
    return {index: state for index, state in found if index in (1, 2, 3) or index > TIERS[order.tier].planned}


def rows() -> list[Any]:
    """Everything that a refused request could have changed."""
    tables = (Order, Shot, StoredObject, OrderKey, Mail, Payment, Refund, AuditEntry)
    return [list(table.objects.order_by("pk").values()) for table in tables]


def archived(order: Order, now: datetime) -> set[bytes]:
    packed = zipfile.ZipFile(io.BytesIO(b"".join(delivery.stream_archive(order, now))))
    return {packed.read(name) for name in packed.namelist() if name.endswith(".jpg")}


def current(order: Order) -> Order:
    return Order.objects.get(pk=order.pk)
