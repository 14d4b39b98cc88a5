"""Who works on which shot: claims under a lease, kept alive by a heartbeat, fenced by a token.

A lease that runs out frees its shot; a commit under an old token changes nothing.
"""

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q

from headshots.faults import faultpoint
from headshots.models import Order, Shot, ShotQuerySet
from headshots.services import fair_queue, guarantee, orders, queue_clock, queue_rows
from headshots.services.queue_rows import CLOSING_TIME
from headshots.states import WORKING_STATES, OrderState, ShotState

MAX_ATTEMPTS: Final = queue_rows.MAX_ATTEMPTS
ENGINE_BROKEN: Final = queue_rows.ENGINE_BROKEN
UNBLAMED_CODES: Final = queue_rows.UNBLAMED_CODES


@dataclass(frozen=True, slots=True)
class Claim:
    """One shot that is ours while the lease is kept alive; `lease_token` is the fence."""

    shot: Shot
    lease_token: int

    @property
    def seeds(self) -> tuple[int, ...]:
        """The planned seed and its spares."""
        return orders.seeds_of(self.shot.order, self.shot.style_version_id, self.shot.index)

    @property
    def is_apart(self) -> bool:
        """Whether nothing else may be claimed beside it."""
        return self.shot.attempts >= MAX_ATTEMPTS or self.shot.error_code in UNBLAMED_CODES


def claimable(now: datetime) -> ShotQuerySet:
    """The shots that wait for a worker: the rows of which `claim` takes the first."""
    return Shot.objects.filter(
        Q(state=ShotState.PENDING) | Q(state=ShotState.LEASED, lease_until__lt=now),
        virtual_finish__isnull=False,  # its order has entered the queue
        order__state__in=WORKING_STATES,
        order__expires_at__gt=now + guarantee.DEADLINE + CLOSING_TIME,
        attempts__lt=MAX_ATTEMPTS,
        not_before__lte=now,
    )


def claim(owner: str, limit: int, now: datetime, *, slots: int = 0) -> list[Claim]:
    """Up to `limit` shots, leased to `owner`; two workers never hold one. Who is next: `fair_queue.choose`.

    `slots` is how many the worker has in all; it has reserved places on top of them. With 0, it has none. The
    shots of one order come side by side, so that its photo is opened once.

    A shot that must have no company, see `queue_rows`, is claimed alone, by a worker that holds nothing; one
    that is busy claims nothing as long as such a shot is among the next. What it held before is soon done.
    """
    if not queue_rows.any_waiting(now):
        return []
    with transaction.atomic():
        in_flight = queue_rows.in_flight(owner, now)
        # Rows that another worker is just looking at are skipped, and waited for when there are no others.
        waiting = queue_rows.waiting(limit, in_flight, now, skip_locked=True)
        if not any(waiting.values()):
            waiting = queue_rows.waiting(limit, in_flight, now, skip_locked=False)
        chosen = fair_queue.choose(waiting, in_flight, limit=limit, slots=slots, now=now)
        chosen = _without_company(chosen, is_busy=any(in_flight.here_by_tier.values()))
        lease_until = now + timedelta(seconds=settings.LEASE_SECONDS)
        won = queue_rows.lease([each.shot for each in chosen], owner, now, lease_until)
        if won:
            queue_clock.advance(fair_queue.clock_after(waiting, chosen))
    if won:
        faultpoint("claim.won")
        queue_rows.begin({shot.order_id for shot in won if shot.order.state == OrderState.QUEUED}, now)
        faultpoint("claim.started")
    first_place: dict[uuid.UUID, int] = {}
    for place, each in enumerate(chosen):
        first_place.setdefault(each.order, place)
    won.sort(key=lambda shot: (first_place[shot.order_id], shot.index))
    return [Claim(shot, shot.lease_token) for shot in won]


def _without_company(chosen: list[fair_queue.Waiting], *, is_busy: bool) -> list[fair_queue.Waiting]:
    apart = [each for each in chosen if each.is_apart]
    if not apart:
        return chosen
    return [] if is_busy else apart[:1]


def has_claimable(now: datetime) -> bool:
    """Whether any shot waits for a worker."""
    return queue_rows.any_waiting(now)


def extend(owner: str, now: datetime, known: Collection[int] | None = None) -> int:
    """Heartbeat: keep what `owner` holds; the count of shots kept.

    With `known`, only these shots: a lease whose owner was never told of it, because the database went away
    in between, is to run out.
    """
    faultpoint("heartbeat.extending")
    held = Shot.objects.filter(state=ShotState.LEASED, lease_owner=owner)
    if known is not None:
        held = held.filter(pk__in=known)
    kept = held.update(lease_until=now + timedelta(seconds=settings.LEASE_SECONDS))
    faultpoint("heartbeat.extended")
    return kept


def wanted(claims: Collection[Claim]) -> set[int]:
    """The shots of those claims that still hold and whose orders were not fenced since; one query."""
    held = queue_rows.leases({claimed.shot.pk for claimed in claims})
    return {
        claimed.shot.pk
        for claimed in claims
        if (claimed.shot.pk, claimed.lease_token, claimed.shot.order.generation) in held
    }


def held(claimed: Claim) -> ShotQuerySet:
    """The claimed shot, if the claim still holds: what every write of its outcome is conditional on.

    No join: a writer that waited for the row looks at its columns again, but not at those of a joined table,
    nor at its own where it found the row through one.
    """
    unfenced = Order.objects.filter(
        pk=claimed.shot.order_id, state__in=WORKING_STATES, generation=claimed.shot.order.generation
    )
    return Shot.objects.filter(
        pk=claimed.shot.pk, state=ShotState.LEASED, lease_token=claimed.lease_token, order__in=unfenced
    )


def release(owner: str) -> int:
    """Give back what a worker that is shutting down still holds, without spending an attempt."""
    return Shot.objects.filter(state=ShotState.LEASED, lease_owner=owner).move(
        ShotState.PENDING, attempts=F("attempts") - 1, lease_owner=""
    )
