"""Whether the database is the one this machine knew, or an older copy that somebody put back.

A database only ever grows in two numbers: how often it was reconciled after a restore, and how many entries
its audit log has. This machine keeps the highest pair it has seen outside the database. A database with a
lower one has been restored from before: orders that were purged since then look alive in it, so nothing is
served until `manage.py restore_reconcile` has purged them again.
"""

from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from django.db import connection
from django.db.models import Max

from headshots.exceptions import Refusal
from headshots.models import AuditEntry, Incarnation
from headshots.services import marks

PROBLEM: Final = "the database was restored from an older copy; run manage.py restore_reconcile"


class Age(NamedTuple):
    """How old a database is; a later state of the same database compares greater."""

    number: int  # restores that were reconciled
    entries: int  # of the audit log


def age() -> Age:
    """The age of the database as it is now."""
    return Age(
        Incarnation.objects.aggregate(last=Max("number"))["last"] or 0,
        AuditEntry.objects.aggregate(last=Max("seq"))["last"] or 0,
    )


def is_restored() -> bool:
    """Whether this machine has seen a later state of the database; from then on until it was reconciled."""
    mark = _read_mark(
        _path()
    )  # before the age: one that another process leaves meanwhile would be ahead of it
    current = age()
    if current >= mark:
        return False
    if current.number == mark.number:
        _distrust_for_good()
    return True


def require_current() -> None:
    """Raises Refusal("restored") while the database is an older copy that was not reconciled."""
    if is_restored():
        raise Refusal("restored")


def observe() -> None:
    """Remember the database's age. Does nothing inside a transaction, whose rows may still be taken back."""
    if connection.in_atomic_block:
        return
    current = age()
    if current > _read_mark(_path()):
        with marks.locked(_path()):
            if current > _read_mark(_path()):
                _write_mark(current)


def distrust() -> None:
    """Take the database for an older copy: something outside it, such as a tombstone, says so."""
    with marks.locked(_path()):
        mark = _read_mark(_path())
        if age() >= mark:
            _write_mark(Age(age().number + 1, 0))


def _distrust_for_good() -> None:
    """What is logged in an older copy from here on must not make up for what it lost."""
    with marks.locked(_path()):
        mark, current = _read_mark(_path()), age()
        if current < mark and current.number == mark.number:  # not reconciled by another process meanwhile
            _write_mark(Age(current.number + 1, 0))


def renew(now: datetime) -> int:
    """Begin a new incarnation, once the database was reconciled; gives its number.

    All machines then accept it.
    """
    number = max(age().number, _read_mark(_path()).number) + 1
    Incarnation.objects.create(number=number, at=now)
    return number


def _path() -> Path:
    return marks.path_of("incarnation")


def _read_mark(path: Path) -> Age:
    fields = marks.read(path)
    if fields is None:
        return Age(0, 0)
    try:
        return Age(int(fields["number"]), int(fields["entries"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path.name} holds no age") from error


def _write_mark(seen: Age) -> None:
    marks.write(_path(), number=seen.number, entries=seen.entries)
