"""The processes that work: whether this one may, and those that render, as their rows show them."""

import logging
import socket
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from headshots.logs import Public
from headshots.models import Heartbeat, Shot
from headshots.services import claiming, clock, maintenance
from headshots.states import ShotState

log = logging.getLogger(__name__)

REPORT_INTERVAL: Final = timedelta(seconds=15)
SILENCE: Final = timedelta(minutes=1)  # four reports are missing: it is gone, cut off, or its device is stuck
FORGOTTEN: Final = timedelta(hours=1)  # a worker that ended leaves its row

# More than machines are apart whose clocks are kept, less than MAX_LEAD by the seconds between two reports.
NOTICEABLE_LEAD: Final = timedelta(seconds=5)

_PREFIX: Final = "worker "
_told_of_lead = threading.Event()  # in the log: once, not every few seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A process that renders. `moved_at` stands still while its engine does, and when it ended."""

    name: str
    moved_at: datetime
    leased_shots: int

    def is_silent(self, now: datetime) -> bool:
        """Whether nothing has been heard of it for longer than it is ever busy between two steps."""
        return now - self.moved_at > SILENCE

    def is_ahead(self, now: datetime) -> bool:
        """Whether its clock is ahead of the one that says it is `now`."""
        return self.moved_at - now > NOTICEABLE_LEAD


def problem() -> str:
    """Why this process may take no work yet, or no more; empty when it may. Asks the database."""
    ahead = clock.lead_problem()
    if not ahead:
        _told_of_lead.clear()
    elif not _told_of_lead.is_set():
        _told_of_lead.set()
        log.critical("%s", Public(ahead))
    return maintenance.problem() or ahead


def host() -> str:
    """This machine among all that have workers; the end of its name is what tells pods apart."""
    return socket.gethostname()[-20:]


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


def has_moved_here(now: datetime) -> bool:
    """Whether a worker of this machine is ready, and was heard of a moment ago."""
    return any(not worker.is_silent(now) for worker in known(now) if worker.name.startswith(f"{host()}:"))


def complaints(now: datetime) -> list[str]:
    """Why pictures are not made, or by fewer workers than there are; none while nothing waits for them."""
    heard = known(now)
    found = []
    if all(worker.is_silent(now) for worker in heard) and claiming.has_claimable(now):
        found.append("pictures wait, and no worker has moved for a minute")
    if stopped := sum(worker.is_silent(now) and worker.leased_shots > 0 for worker in heard):
        found.append(f"{_counted(stopped)} stopped with pictures in hand")
    if ahead := sum(worker.is_ahead(now) for worker in heard):
        found.append(f"the clock of {_counted(ahead)} is ahead of ours")
    return found


def _counted(number: int) -> str:
    return f"{number} worker{'' if number == 1 else 's'}"
