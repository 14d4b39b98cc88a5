"""The rounds that happen whatever else runs: the purge each half minute, the inspection each quarter hour.

Every web and worker process has a thread for them, beside the scheduler and `manage.py purge --watch`. Any
one of these is enough. A process is not ready before a first pass since its start has succeeded.
"""

import logging
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from django.db import connections
from django.db.models import Q

from headshots.models import Heartbeat, Inspection
from headshots.services import (
    challenges,
    clock,
    farewells,
    incarnation,
    limits,
    purge,
    tombstones,
    verification,
)
from headshots.services.purge import Tally

log = logging.getLogger(__name__)

INTERVAL: Final = timedelta(seconds=30)
INSPECTION_INTERVAL: Final = timedelta(minutes=15)
# Longer than a round takes; what a process that died in the middle of one costs the others.
LEASE: Final = timedelta(minutes=5)
BOOT_PATIENCE: Final = timedelta(seconds=10)  # with a round that another process seems to be at
ROUND: Final = "maintenance"
INSPECTION: Final = "inspection"
BOOT_PROBLEM: Final = "no pass of the purge has succeeded since this process started"

_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RETRY_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Boot:
    started_at: datetime
    has_passed: threading.Event = field(default_factory=threading.Event)


_boot: list[_Boot] = []


def start() -> None:
    """Begin this process's thread, and its boot gate; a second call changes nothing.

    To be called in the process that serves, after any fork.
    """
    if _boot:
        return
    boot = _Boot(clock.system_time())
    _boot.append(boot)
    threading.Thread(target=_rounds, args=(boot,), name="maintenance", daemon=True).start()
    farewells.start()


def problem() -> str:
    """Why this process may not work yet, or no more; empty when it may. Asks the database."""
    if _boot and not _boot[0].has_passed.is_set():
        return BOOT_PROBLEM
    return incarnation.PROBLEM if incarnation.is_restored() else ""


def wait_for_boot(seconds: float) -> bool:
    """Whether the first pass is through, after waiting for it; True in a process without the thread."""
    return not _boot or _boot[0].has_passed.wait(seconds)


def run_pass(now: datetime) -> Tally:
    """What every caller of the purge does: one pass of it, the end of short-lived rows, a due inspection."""
    tally = purge.run(now)
    challenges.prune(now)
    limits.prune(now)
    if _claim(INSPECTION, now, INSPECTION_INTERVAL):
        try:
            verification.record(verification.inspect(now))
        finally:
            _release(INSPECTION)
    return tally


def last_inspection() -> Inspection | None:
    """What the last look found; None before the first."""
    return Inspection.objects.first()


def _rounds(boot: _Boot) -> None:
    pause = threading.Event()  # never set: a wait that the interpreter's end can break
    while True:
        try:
            _round(boot)
        except (
            Exception
        ) as error:  # the database or the store is away for a moment: the next round tries again
            log.error("maintenance failed: %s", type(error).__name__)
        finally:
            connections.close_all()
        pause.wait(INTERVAL.total_seconds() if boot.has_passed.is_set() else _RETRY_SECONDS)


def _round(boot: _Boot) -> None:
    now = clock.now()
    is_booting = not boot.has_passed.is_set()
    is_checked = not is_booting or _look_for_tombstones()
    # A little less than the interval: rounds drift, and none should be left out for a second.
    is_ours = _claim(ROUND, now, timedelta(0) if is_booting else INTERVAL * 0.8)
    # Two passes at once do no harm, and a lease may be that of a process which was killed.
    is_overdue = is_booting and clock.system_time() - boot.started_at > BOOT_PATIENCE
    if is_ours or is_overdue:
        try:
            run_pass(now)
        finally:
            if is_ours:
                _release(ROUND)
    if is_checked and Heartbeat.objects.filter(name=purge.HEARTBEAT, at__gte=boot.started_at).exists():
        boot.has_passed.set()


def _look_for_tombstones() -> bool:
    """Whether the store could say if the database is an older copy; what is due is ended all the same."""
    try:
        if any(tombstones.alive()):
            incarnation.distrust()
    except OSError as error:
        log.error("tombstones could not be looked at: %s", type(error).__name__)
        return False
    return True


def _claim(name: str, now: datetime, interval: timedelta) -> bool:
    """Take the round of that name, unless another process is at it or did it within `interval`."""
    Heartbeat.objects.get_or_create(name=name, defaults={"at": _NEVER})
    is_free = Q(leased_until=None) | Q(leased_until__lte=now)
    claimed = Heartbeat.objects.filter(is_free, name=name, at__lte=now - interval)
    return bool(claimed.update(at=now, leased_until=now + LEASE))


def _release(name: str) -> None:
    Heartbeat.objects.filter(name=name).update(leased_until=None)
