"""The one clock of the service: it never goes back, and it says when the clocks around it disagree.

`now()` is the latest of four: this machine's clock, the database's, the high-water mark that every process of
this machine has left outside the main database, and the time that must have passed in this process since it
last asked. So neither a clock that is set back nor a restart with a wrong one gives an expired order another
hour.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from django.db import connection

from headshots.exceptions import Refusal
from headshots.services import marks

MAX_SKEW: Final = timedelta(seconds=60)
# Of a machine that judges leases, ahead of the database: a quarter of a lease, of which three are kept.
MAX_LEAD: Final = timedelta(seconds=15)
# Between two measurements the database's clock is this process's own count of seconds onwards from the first.
DATABASE_INTERVAL_SECONDS: Final = 10.0
MARK_STEP: Final = timedelta(seconds=5)  # how far the mark may lag behind; it is one small file write

_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Mark:
    """The latest time any process of this machine has seen.

    `era` counts the times an operator took it back.
    """

    era: int
    at: datetime


@dataclass(slots=True)
class _Seen:
    """What this process last knew, and its own count of seconds then."""

    era: int
    at: datetime
    ticks: float
    database_at: datetime | None = None
    database_ticks: float = -float("inf")


_seen: dict[Path, _Seen] = {}


def now() -> datetime:
    """The time, aware, in UTC; never earlier than any time it gave on this machine before."""
    path = _path()
    mark = read_mark(path)
    seen = _seen.get(path)
    ticks = _ticks()
    if seen is None or seen.era != mark.era:
        seen = _Seen(mark.era, mark.at, ticks)
    at = max(
        system_time(),
        mark.at,
        seen.at + timedelta(seconds=ticks - seen.ticks),
        _database_time(seen) or mark.at,
    )
    # After the database's answer, whose seconds `at` has in it already; and before `at`, for other threads.
    seen.ticks, seen.at = _ticks(), at
    _seen[path] = seen
    if at - mark.at >= MARK_STEP:
        _raise_mark(path, at, mark.era)
    return at


def skew() -> timedelta:
    """How far the clocks are apart at worst: ours, the database's, and what this machine has seen already."""
    current = now()
    own = system_time()
    database = _database_time(_seen[_path()]) or own
    return max(abs(own - database), current - max(own, database))


def problem() -> str:
    """Why no photo may be taken now; empty while the clocks agree to a minute."""
    apart = skew()
    if apart <= MAX_SKEW:
        return ""
    return f"the clocks of this machine, its past and the database are {apart.total_seconds():.0f} s apart"


def lead() -> timedelta:
    """How far `now()` is ahead of the database's clock; nothing where that has none of its own."""
    current = now()
    database = _database_time(_seen[_path()])
    return current - database if database else timedelta(0)


def lead_problem() -> str:
    """Why this machine may not judge leases: those that others keep alive look lapsed to it. Empty if it may.

    A clock that is behind does no harm, since `now()` is then the database's.
    """
    ahead = lead()
    if ahead <= MAX_LEAD:
        return ""
    return (
        f"the time of this machine is {ahead.total_seconds():.0f} s ahead of the database's: it takes no work"
    )


def require_agreement() -> None:
    """Raises Refusal("clock_skew") while nobody could say when a photo's 24 hours end."""
    if problem():
        raise Refusal("clock_skew")


def system_time() -> datetime:
    """What this machine's clock says."""
    return datetime.now(UTC)


def take_back() -> datetime:
    """Let the mark fall to what the clocks say now, after one of them was wrongly ahead; gives that time.

    The caller has ended everything that was due at the old mark; from here on `now()` may be earlier than
    before.
    """
    path = _path()
    seen = _seen.get(path)
    at = max(system_time(), (seen and _database_time(seen)) or _BEGINNING)
    with marks.locked(path):
        marks.write(path, era=read_mark(path).era + 1, at=at.isoformat())
    return at


def read_mark(path: Path) -> Mark:
    """The mark in the file; the beginning of time when there is none yet.

    Raises ValueError for a file that holds something else: what it held is not to be guessed.
    """
    fields = marks.read(path)
    if fields is None:
        return Mark(0, _BEGINNING)
    try:
        return Mark(int(fields["era"]), datetime.fromisoformat(fields["at"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path.name} holds no time") from error


def _path() -> Path:
    return marks.path_of("clock")


def _ticks() -> float:
    """Seconds that never go back and do not stop while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _database_time(seen: _Seen) -> datetime | None:
    """The database's clock, asked now and then and counted on in between.

    None where it has none of its own.
    """
    ticks = _ticks()
    if ticks - seen.database_ticks >= DATABASE_INTERVAL_SECONDS:
        # Counted from the answer on: a server that takes seconds over it must not set this machine ahead.
        answer = ask_database()
        seen.database_ticks = ticks = _ticks()
        seen.database_at = answer
    return seen.database_at and seen.database_at + timedelta(seconds=ticks - seen.database_ticks)


def ask_database() -> datetime | None:
    """What the database server's clock says; None for SQLite, which reads this machine's."""
    if connection.vendor == "sqlite":
        return None
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        at: datetime = cursor.fetchone()[0]
    return at


def _raise_mark(path: Path, at: datetime, era: int) -> None:
    """Move the mark up to `at`, unless another process was further or an operator took it back meanwhile."""
    with marks.locked(path):
        mark = read_mark(path)
        if mark.era == era and mark.at < at:
            marks.write(path, era=era, at=at.isoformat())
