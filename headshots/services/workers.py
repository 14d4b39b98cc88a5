"""The processes that render, as their rows show them: when each last moved, and how much it holds."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from headshots.models import Heartbeat, Shot
from headshots.states import ShotState

REPORT_INTERVAL: Final = timedelta(seconds=15)
SILENCE: Final = timedelta(minutes=1)  # four reports are missing: it is gone, cut off, or its device is stuck
FORGOTTEN: Final = timedelta(hours=1)  # a worker that ended leaves its row

_PREFIX: Final = "worker "


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A process that renders. `moved_at` stands still while its engine does, and when it ended."""

    name: str
    moved_at: datetime
    leased_shots: int

    def is_silent(self, now: datetime) -> bool:
        """Whether nothing has been heard of it for longer than it is ever busy between two steps."""
        return now - self.moved_at > SILENCE


def report(name: str, now: datetime) -> None:
    """Record that the engine of worker `name` (at most 33 characters) moved, or has nothing to do."""
    _, is_new = Heartbeat.objects.update_or_create(name=_PREFIX + name, defaults={"at": now})
    if is_new:
        Heartbeat.objects.filter(name__startswith=_PREFIX, at__lt=now - FORGOTTEN).delete()


def known(now: datetime) -> list[Worker]:
    """The workers heard of within the last hour, by name."""
    rows = Heartbeat.objects.filter(name__startswith=_PREFIX, at__gte=now - FORGOTTEN).order_by("name")
    return [
        Worker(
            name=(name := row.name.removeprefix(_PREFIX)),
            moved_at=row.at,
            leased_shots=Shot.objects.filter(
                state=ShotState.LEASED, lease_owner__startswith=f"{name}:"
            ).count(),
        )
        for row in rows
    ]
