"""When an order will start and be ready, from what was measured; None where nothing is known.

The speed is the work of the newest finished shots over the time in which any of them was being made, so it
holds whatever workers, slots and engine there are. What is ahead of an order is the work before it in the
fair order. Nobody who comes later is counted: they may pass, or be passed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Final

from django.db.models import Max, Min, Sum

from headshots.exceptions import Refusal
from headshots.models import Order, Shot, ShotQuerySet
from headshots.services import fair_queue, guarantee, queue_clock
from headshots.states import MADE_STATES, WORKING_STATES, OrderState, ShotState
from headshots.tiers import Tier

SAMPLE: Final = 100  # shots: two premium packs
LEAST_SAMPLE: Final = 3
WINDOW: Final = timedelta(minutes=30)  # older shots may have been made by workers that are gone
SILENCE: Final = timedelta(minutes=3)  # no lease and no picture for so long: nobody is working
USUAL_STEPS: Final = 30  # of an order that has no plan yet
PAYMENT_MARGIN: Final = guarantee.DEADLINE  # what would come later is not worth paying for


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What the workers did lately: work per second, and the seconds that one shot of a tier was in flight."""

    work_per_second: float
    shot_seconds: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Seconds from now; `start_seconds` is 0 once a picture was begun."""

    start_seconds: float
    ready_seconds: float


def speed(now: datetime) -> Speed | None:
    """How fast pictures are made; None when too few were finished lately, or when nobody works any more."""
    done = Shot.objects.filter(
        state__in=MADE_STATES,
        render_seconds__isnull=False,
        finished_at__gt=now - WINDOW,
        finished_at__lte=now,
    ).order_by("-finished_at")
    newest = [
        (finished_at, seconds, work, tier)
        for finished_at, seconds, work, tier in done.values_list(
            "finished_at", "render_seconds", "work", "order__tier"
        )[:SAMPLE]
        if finished_at is not None and seconds is not None
    ]
    if len(newest) < LEAST_SAMPLE or not _is_served(newest[0][0], now):
        return None
    spans = [(at - timedelta(seconds=seconds), at) for at, seconds, _, _ in newest]
    busy_seconds = _covered_seconds(spans)
    work = sum(work for _, _, work, _ in newest)
    if not (busy_seconds and work):
        return None
    return Speed(
        work_per_second=work / busy_seconds,
        shot_seconds={
            slug: median(seconds for _, seconds, _, tier in newest if tier == slug)
            for slug in {tier for _, _, _, tier in newest}
        },
    )


def _is_served(last_finished: datetime, now: datetime) -> bool:
    """Whether a picture was finished a moment ago, a worker holds a lease, or there is nothing to do."""
    if now - last_finished < SILENCE or live_workers(now):
        return True
    return not _waiting().filter(not_before__lt=now - SILENCE).exists()


def live_workers(now: datetime) -> int:
    """How many workers hold a lease."""
    leased = Shot.objects.filter(state=ShotState.LEASED, lease_until__gte=now).order_by()
    return leased.values("lease_owner").distinct().count()


def _covered_seconds(spans: Iterable[tuple[datetime, datetime]]) -> float:
    """The length of the union of time spans."""
    seconds = 0.0
    covered_until = datetime.min.replace(tzinfo=UTC)
    for began, ended in sorted(spans):
        seconds += max((ended - max(began, covered_until)).total_seconds(), 0.0)
        covered_until = max(covered_until, ended)
    return seconds


def of_order(order: Order, now: datetime) -> Estimate | None:
    """When an order that waits or renders will start and be ready; None for all others, or when unknown.

    One that was ready before, and has a picture made again, stays as ready as it was.
    """
    if order.state not in WORKING_STATES:
        return None
    left = Shot.objects.planned().filter(order=order, state__in=(ShotState.PENDING, ShotState.LEASED))
    places = left.aggregate(first=Min("virtual_finish"), last=Max("virtual_finish"))
    measured = speed(now)
    if places["last"] is None or measured is None:
        return None
    under_way = _work_under_way(now)
    start_seconds = 0.0
    if order.state == OrderState.QUEUED:
        start_seconds = (_work_before(places["first"]) + under_way) / measured.work_per_second
    ready_seconds = (_work_before(places["last"] + 1) + under_way) / measured.work_per_second
    if left.filter(state=ShotState.PENDING).exists():
        ready_seconds = max(ready_seconds, start_seconds + measured.shot_seconds.get(order.tier, 0.0))
    return Estimate(start_seconds=start_seconds, ready_seconds=ready_seconds)


def of_newcomer(tier: Tier, now: datetime) -> Estimate | None:
    """The same for an order of `tier` that would enter the queue now."""
    measured = speed(now)
    if measured is None:
        return None
    works = [fair_queue.work_of(USUAL_STEPS, tier.long_edge)] * tier.planned
    start = fair_queue.start_of(queue_clock.read(queue_clock.CLOCK), queue_clock.read(tier.slug))
    under_way = _work_under_way(now)
    start_seconds = (_work_before(start) + under_way) / measured.work_per_second
    work = _work_before(start + fair_queue.offsets(works, tier)[-1]) + sum(works) + under_way
    ready_seconds = max(
        work / measured.work_per_second, start_seconds + measured.shot_seconds.get(tier.slug, 0.0)
    )
    return Estimate(start_seconds=start_seconds, ready_seconds=ready_seconds)


def _waiting() -> ShotQuerySet:
    return Shot.objects.filter(
        state=ShotState.PENDING, order__state__in=WORKING_STATES, virtual_finish__isnull=False
    )


def _work_before(virtual_time: int) -> int:
    waiting = _waiting().filter(virtual_finish__lt=virtual_time)
    return waiting.aggregate(total=Sum("work"))["total"] or 0


def _work_under_way(now: datetime) -> float:
    """What is left of the shots in flight: half of them, when nothing says how far each is."""
    leased = Shot.objects.filter(state=ShotState.LEASED, lease_until__gte=now)
    return (leased.aggregate(total=Sum("work"))["total"] or 0) / 2


def require_room(tier: Tier, expires_at: datetime, now: datetime) -> None:
    """Refuse an order of `tier` that could not be served in time. Raises Refusal("queue_full").

    While nothing is known of the speed, one is refused when somebody of its tier waits too long already.
    """
    limit_seconds = (expires_at - PAYMENT_MARGIN - now).total_seconds()
    if tier.longest_wait_seconds is not None:
        limit_seconds = min(limit_seconds, tier.longest_wait_seconds)
    estimate = of_newcomer(tier, now)
    if estimate is None:
        overdue = _waiting().filter(
            order__tier=tier.slug, not_before__lt=now - timedelta(seconds=limit_seconds)
        )
        is_full = limit_seconds <= 0 or overdue.exists()
    else:
        is_full = estimate.ready_seconds > limit_seconds
    if is_full:
        raise Refusal("queue_full")
