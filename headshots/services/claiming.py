"""Who works on which shot: claims under a lease, kept alive by a heartbeat, fenced by a token.

A lease that runs out frees its shot; a commit under an old token changes nothing.
"""

import uuid
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.db import transaction
from django.db.models import Count, F, Q

from headshots.faults import faultpoint
from headshots.models import Order, Shot, ShotQuerySet
from headshots.services import fair_queue, orders, queue_clock
from headshots.states import WORKING_STATES, OrderState, ShotState
from headshots.tiers import TIERS

MAX_ATTEMPTS: Final = 3
CLOSING_TIME: Final = timedelta(minutes=2)  # nothing new is started this shortly before an order expires


@dataclass(frozen=True, slots=True)
class Claim:
    """One shot that is ours while the lease is kept alive; `lease_token` is the fence."""

    shot: Shot
    lease_token: int

    @property
    def seeds(self) -> tuple[int, ...]:
        """The planned seed and its spares."""
        return orders.seeds_of(self.shot.order, self.shot.style_version_id, self.shot.index)


def _is_free(now: datetime) -> Q:
    return Q(state=ShotState.PENDING) | Q(state=ShotState.LEASED, lease_until__lt=now)


def claimable(now: datetime) -> ShotQuerySet:
    """The shots that wait for a worker."""
    return _queued(now).filter(_is_free(now))


def _queued(now: datetime) -> ShotQuerySet:
    """What may be in the queue now, whether or not somebody holds it."""
    return Shot.objects.filter(
        virtual_finish__isnull=False,  # its order has entered the queue
        order__state__in=WORKING_STATES,
        order__expires_at__gt=now + CLOSING_TIME,
        attempts__lt=MAX_ATTEMPTS,
        not_before__lte=now,
    )


def claim(owner: str, limit: int, now: datetime, *, slots: int = 0) -> list[Claim]:
    """Up to `limit` shots, leased to `owner`; two workers never hold one. Who is next: `fair_queue.choose`.

    `slots` is how many the worker has in all: some of them are reserved. With 0, none is. The shots of one
    order come side by side, so that its photo is opened once.
    """
    if not claimable(now).exists():
        return []
    with transaction.atomic():
        in_flight = _in_flight(owner, now)
        # Rows that another worker is just looking at are skipped, and waited for when there are no others.
        waiting = _waiting(limit, in_flight, now, skip_locked=True)
        if not any(waiting.values()):
            waiting = _waiting(limit, in_flight, now, skip_locked=False)
        chosen = fair_queue.choose(waiting, in_flight, limit=limit, slots=slots, now=now)
        won = _lease([each.shot for each in chosen], owner, now)
        if won:
            queue_clock.advance(fair_queue.clock_after(waiting, chosen))
    if won:
        faultpoint("claim.won")
        for order_id in sorted({shot.order_id for shot in won if shot.order.state == OrderState.QUEUED}):
            Order.objects.filter(pk=order_id).move(OrderState.RENDERING, started_at=now)
        faultpoint("claim.started")
    first_place: dict[uuid.UUID, int] = {}
    for place, each in enumerate(chosen):
        first_place.setdefault(each.order, place)
    won.sort(key=lambda shot: (first_place[shot.order_id], shot.index))
    return [Claim(shot, shot.lease_token) for shot in won]


def _in_flight(owner: str, now: datetime) -> fair_queue.InFlight:
    leased = Shot.objects.filter(state=ShotState.LEASED, lease_until__gte=now)
    counts = leased.values_list("order_id", "order__tier").annotate(
        anywhere=Count("pk"), here=Count("pk", filter=Q(lease_owner=owner))
    )
    by_order: Counter[uuid.UUID] = Counter()
    here_by_tier: Counter[str] = Counter()
    for order_id, tier, anywhere, here in counts.order_by():
        by_order[order_id] += anywhere
        here_by_tier[tier] += here
    return fair_queue.InFlight(by_order=by_order, here_by_tier=here_by_tier)


def _waiting(
    limit: int, in_flight: fair_queue.InFlight, now: datetime, *, skip_locked: bool
) -> dict[str, list[fair_queue.Waiting]]:
    """The first shots of each tier, locked where the database can: enough for `choose` to take `limit`.

    Two queries a tier, since each then reads its index in order and stops.
    """
    locked = _queued(now).select_for_update(skip_locked=skip_locked, of=("self",), no_key=True)
    locked = locked.order_by("virtual_finish", "pk")
    locked = locked.only("pk", "order_id", "work", "virtual_finish", "not_before")
    lost = locked.filter(state=ShotState.LEASED, lease_until__lt=now)
    pending = locked.filter(state=ShotState.PENDING)
    return {
        slug: _lane(
            slug,
            [
                *lost.filter(order__tier=slug)[:limit],
                *_heads(pending.filter(order__tier=slug), tier.in_flight_cap, limit, in_flight),
            ],
        )
        for slug, tier in TIERS.items()
    }


def _heads(shots: ShotQuerySet, cap: int, limit: int, in_flight: fair_queue.InFlight) -> Collection[Shot]:
    """`limit` of the shots, and as many again behind each order that its cap would stop among them."""
    found: dict[int, Shot] = {}
    capped: set[uuid.UUID] = set()
    while True:
        more = list(shots.exclude(order_id__in=capped)[:limit])
        found |= {shot.pk: shot for shot in more}
        counts = Counter(shot.order_id for shot in more)
        stopped = {order for order, count in counts.items() if in_flight.by_order.get(order, 0) + count > cap}
        if len(more) < limit or not stopped:
            return found.values()
        capped |= stopped


def _lane(tier: str, heads: Iterable[Shot]) -> list[fair_queue.Waiting]:
    waiting = [
        fair_queue.Waiting(
            shot=shot.pk,
            order=shot.order_id,
            tier=tier,
            work=shot.work,
            virtual_finish=shot.virtual_finish,
            since=shot.not_before,
        )
        for shot in heads
        if shot.virtual_finish is not None
    ]
    return sorted(waiting, key=lambda each: (each.virtual_finish, each.shot))


def _lease(shot_ids: Collection[int], owner: str, now: datetime) -> list[Shot]:
    """One conditional UPDATE; the shots that are `owner`'s from here on.

    Its conditions are columns of the shot alone: a second writer that waited for the row then looks at them
    again, which no database does for conditions on a joined table.
    """
    if not shot_ids:
        return []
    lease_until = now + timedelta(seconds=settings.LEASE_SECONDS)
    Shot.objects.filter(_is_free(now), pk__in=shot_ids).move(
        ShotState.LEASED,
        attempts=F("attempts") + 1,
        lease_token=F("lease_token") + 1,
        lease_owner=owner,
        lease_until=lease_until,
    )
    won = Shot.objects.filter(
        pk__in=shot_ids, state=ShotState.LEASED, lease_owner=owner, lease_until=lease_until
    )
    return list(won.select_related("order", "style_version__style"))


def has_claimable(now: datetime) -> bool:
    """Whether any shot waits for a worker."""
    return claimable(now).exists()


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
    leased = Shot.objects.filter(
        pk__in=[claimed.shot.pk for claimed in claims],
        state=ShotState.LEASED,
        order__state__in=WORKING_STATES,
    )
    held = set(leased.order_by().values_list("pk", "lease_token", "order__generation"))
    return {
        claimed.shot.pk
        for claimed in claims
        if (claimed.shot.pk, claimed.lease_token, claimed.shot.order.generation) in held
    }


def held(claimed: Claim) -> ShotQuerySet:
    """The claimed shot, if the claim still holds: what every write of its outcome is conditional on."""
    return Shot.objects.filter(
        pk=claimed.shot.pk,
        state=ShotState.LEASED,
        lease_token=claimed.lease_token,
        order__state__in=WORKING_STATES,
        order__generation=claimed.shot.order.generation,
    )


def release(owner: str) -> int:
    """Give back what a worker that is shutting down still holds, without spending an attempt."""
    return Shot.objects.filter(state=ShotState.LEASED, lease_owner=owner).move(
        ShotState.PENDING, attempts=F("attempts") - 1, lease_owner=""
    )
