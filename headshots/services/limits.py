"""How many orders one network may place in an hour and in a day, and how many may write to one mail address.

Free and premium ones are counted apart. A premium one counts whether it is paid later or not: by then nobody
knows from which network it came. Mails are counted for free orders alone, since they can be placed with
anybody's address from many networks: a premium one writes to nobody before it is paid.

A count is kept under an HMAC of tier, window and network, or of the mail address. Its salt is drawn anew each
UTC day, is wrapped by the key of the hour it was drawn in, and is deleted with the day's counts once the day
is over: from then on nobody can try addresses against the digests. A copy of the database that was kept
cannot either, once that hour's key is destroyed, at most 24 hours after the salt was drawn.
"""

import hashlib
import hmac
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from django.conf import settings
from django.db.models import F

from headshots.exceptions import TooMany
from headshots.models import NetworkCount, NetworkSalt
from headshots.services import objects
from headshots.tiers import Tier
from headshots.vault.errors import Unreadable
from headshots.vault.keys import epoch_of

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)

# This process's clear salts by the wrapped ones; only today's is kept.
_clear: dict[tuple[date, bytes], bytes] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Allowance:
    per_hour: int
    per_day: int
    code: str  # what is refused with once it is used up


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    digest: str
    limit: int
    ends_at: datetime
    code: str


def require_room(network: str, tier: Tier, now: datetime, address: str = "") -> None:
    """Raises TooMany, which says when to come back, for a network that has had its orders of this tier, and
    for a mail address (empty for none) that has been in as many as it may."""
    for window in _windows(network, tier, now, address):
        if NetworkCount.objects.filter(digest=window.digest, count__gte=window.limit).exists():
            raise _too_many(window, now)


def count(network: str, tier: Tier, now: datetime, address: str = "") -> None:
    """Count one order, in the caller's transaction. Raises TooMany when others were faster."""
    for window in _windows(network, tier, now, address):
        NetworkCount.objects.get_or_create(digest=window.digest, defaults={"ends_at": window.ends_at})
        counted = NetworkCount.objects.filter(digest=window.digest, count__lt=window.limit)
        if not counted.update(count=F("count") + 1):
            raise _too_many(window, now)


def prune(now: datetime) -> int:
    """Delete the counts of windows that are over, and the salts of days that are; how many rows."""
    today = now.astimezone(UTC).date()
    for kept in list(_clear):  # a copy: other threads count meanwhile
        if kept[0] < today:
            _clear.pop(kept, None)
    salts = NetworkSalt.objects.filter(day__lt=today).delete()[0]
    return salts + NetworkCount.objects.filter(ends_at__lte=now).delete()[0]


def _too_many(window: _Window, now: datetime) -> TooMany:
    return TooMany(max(1, -(-(window.ends_at - now) // timedelta(seconds=1))), window.code)


def _allowance(tier: Tier) -> _Allowance:
    if tier.price_cents:
        return _Allowance(
            per_hour=settings.PREMIUM_PER_HOUR, per_day=settings.PREMIUM_PER_DAY, code="too_many_premium"
        )
    return _Allowance(per_hour=settings.FREE_PER_HOUR, per_day=settings.FREE_PER_DAY, code="too_many")


def _windows(network: str, tier: Tier, now: datetime, address: str) -> Iterator[_Window]:
    """The day that `now` lies in and its hour; the longer wait is told first. Then the mail address's day."""
    salt, allowed = _salt(now), _allowance(tier)
    midnight = datetime.combine(now.astimezone(UTC).date(), time(), UTC)
    hour = midnight + (now - midnight) // HOUR * HOUR

    def window(counted: str, start: datetime, length: timedelta, limit: int, code: str) -> _Window:
        digest = hmac.digest(salt, counted.encode(), hashlib.sha256).hex()
        return _Window(digest=digest, limit=limit, ends_at=start + length, code=code)

    for name, start, length, limit in (
        ("day", midnight, DAY, allowed.per_day),
        ("hour", hour, HOUR, allowed.per_hour),
    ):
        yield window(f"{tier.slug}|{name}|{start.isoformat()}|{network}", start, length, limit, allowed.code)
    if address and not tier.price_cents:
        counted = f"mail|{midnight.isoformat()}|{_mailbox(address)}"
        yield window(counted, midnight, DAY, settings.FREE_PER_ADDRESS, "too_many_mails")


def _mailbox(address: str) -> str:
    """Where mail for an address arrives: without what follows a plus sign (RFC 5233), in lower case."""
    local, _, domain = address.casefold().rpartition("@")
    return f"{local.partition('+')[0]}@{domain}"


def _salt(now: datetime) -> bytes:
    """Today's salt, 32 bytes, the same in every process.

    Raises as `objects.create_keys` does. One that can no longer be opened, in a database put back from a copy
    or by a process whose keys ended with it, is replaced, and the day's counts begin anew.
    """
    today = now.astimezone(UTC).date()
    row = NetworkSalt.objects.filter(day=today).first()
    if row is not None:
        try:
            return _opened(row)
        except Unreadable:
            NetworkSalt.objects.filter(day=today, wrapped=row.wrapped).delete()
    return _opened(_made(today, now))


def _made(today: date, now: datetime) -> NetworkSalt:
    holder, epoch = uuid.uuid4(), epoch_of(now)
    made = {"id": holder, "epoch": epoch, "wrapped": objects.wrap_salt(holder, epoch, now)}
    row, _ = NetworkSalt.objects.get_or_create(day=today, defaults=made)  # another process may be first
    return row


def _opened(row: NetworkSalt) -> bytes:
    wrapped = bytes(row.wrapped)
    if (row.day, wrapped) not in _clear:
        _clear[row.day, wrapped] = objects.open_salt(wrapped, row.id, row.epoch)
    return _clear[row.day, wrapped]
