"""The queue of pictures: rows claimed under a lease, committed once, given back when a worker is lost."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q, QuerySet

from headshots.exceptions import NotFound
from headshots.faults import faultpoint
from headshots.hints import MAX_COPIES, Task, enqueue
from headshots.models import Order, Shot, ShotQuerySet, StoredObject
from headshots.services import objects, orders, purge
from headshots.states import WORKING_STATES, OrderState, ShotState
from headshots.tiers import TIERS
from headshots.vault.envelope import Kind

if TYPE_CHECKING:  # they bring numpy, which the web process has no use for
    from pipelines.types import FailedShot, FinishedShot

MAX_ATTEMPTS: Final = 3
ROUND_LENGTH: Final = TIERS["free"].headshots
CLOSING_TIME: Final = timedelta(minutes=2)  # nothing new is started this shortly before an order expires
RETRY_PAUSE: Final = timedelta(seconds=5)
UPLOAD_PATIENCE: Final = timedelta(minutes=2)
HINT_PATIENCE: Final = timedelta(seconds=10)
HINTS_PER_SWEEP: Final = (
    20  # enough to keep a worker busy until the next sweep, few enough not to flood the broker
)


@dataclass(frozen=True, slots=True)
class Claim:
    """One shot that is ours while the lease is kept alive; `lease_token` is the fence."""

    shot: Shot
    lease_token: int

    @property
    def seeds(self) -> tuple[int, ...]:
        """The planned seed and its spares."""
        return orders.seeds_of(self.shot.order, self.shot.style_version_id, self.shot.index)


def _claimable(now: datetime) -> ShotQuerySet:
    free = Q(state=ShotState.PENDING) | Q(state=ShotState.LEASED, lease_until__lt=now)
    return Shot.objects.filter(
        free,
        order__state__in=WORKING_STATES,
        order__expires_at__gt=now + CLOSING_TIME,
        attempts__lt=MAX_ATTEMPTS,
        not_before__lte=now,
    )


def claim(owner: str, limit: int, now: datetime) -> list[Claim]:
    """Up to `limit` shots, leased to `owner`; two workers never hold one.

    Orders advance a free pack's length at a time, oldest first: three free pictures never wait for a pack of
    fifty, and a worker stays with one person's photo while it can.
    """
    claims: list[Claim] = []
    candidates = (
        _claimable(now)
        .annotate(round=(F("index") - 1) / ROUND_LENGTH)
        .order_by("round", "order__created_at", "index")
        .values_list("pk", "lease_token")
    )
    for pk, seen_token in candidates[: limit * 4]:  # more than needed: others are claiming at the same time
        won = (
            _claimable(now)
            .filter(pk=pk, lease_token=seen_token)
            .move(
                ShotState.LEASED,
                attempts=F("attempts") + 1,
                lease_token=seen_token + 1,
                lease_owner=owner,
                lease_until=now + timedelta(seconds=settings.LEASE_SECONDS),
            )
        )
        if not won:
            continue
        faultpoint("claim.won")
        shot = Shot.objects.select_related("order", "style_version__style").get(pk=pk)
        Order.objects.filter(pk=shot.order_id).move(OrderState.RENDERING, started_at=now)
        faultpoint("claim.started")
        claims.append(Claim(shot, seen_token + 1))
        if len(claims) == limit:
            break
    return claims


def extend(owner: str, now: datetime) -> int:
    """Heartbeat: keep everything `owner` holds; the count of shots kept."""
    faultpoint("heartbeat.extending")
    kept = Shot.objects.filter(state=ShotState.LEASED, lease_owner=owner).update(
        lease_until=now + timedelta(seconds=settings.LEASE_SECONDS)
    )
    faultpoint("heartbeat.extended")
    return kept


def is_wanted(claimed: Claim) -> bool:
    """Whether the claim still holds and its order was not fenced since."""
    return _held(claimed).exists()


def _held(claimed: Claim) -> ShotQuerySet:
    return Shot.objects.filter(
        pk=claimed.shot.pk,
        state=ShotState.LEASED,
        lease_token=claimed.lease_token,
        order__state__in=WORKING_STATES,
        order__generation=claimed.shot.order.generation,
    )


def commit(claimed: Claim, finished: "FinishedShot", now: datetime) -> bool:
    """Seal and deliver a picture. False when the claim was lost: then nothing of it remains."""
    written: list[StoredObject] = []
    try:
        for kind, data in ((Kind.HEADSHOT, finished.jpeg), (Kind.PREVIEW, finished.preview_jpeg)):
            stored = objects.intend(claimed.shot.order, kind, claimed.shot.index, now)
            written.append(stored)
            faultpoint("work.intended")
            objects.put(stored, data, now)
            faultpoint("work.put")
        faultpoint("work.written")
        is_ours = _deliver(claimed, finished, written, now)
    except NotFound:
        is_ours = False
    except BaseException:
        _discard(written)
        raise
    if not is_ours:
        _discard(written)
        return False
    faultpoint("work.committed")
    orders.finish(claimed.shot.order_id, now)
    return True


@transaction.atomic
def _deliver(
    claimed: Claim, finished: "FinishedShot", written: Sequence[StoredObject], now: datetime
) -> bool:
    headshot, preview = written
    is_ours = _held(claimed).move(
        ShotState.DONE,
        seed=finished.seed,
        headshot=headshot,
        preview=preview,
        width=finished.width,
        height=finished.height,
        render_seconds=finished.seconds,
        finished_at=now,
        lease_owner="",
        error_code="",
    )
    if is_ours:
        for stored in written:
            objects.mark_stored(stored)
    faultpoint("work.moved")
    return bool(is_ours)


def _discard(written: Sequence[StoredObject]) -> None:
    for stored in written:
        objects.discard(stored)


def fail(claimed: Claim, failed: "FailedShot", now: datetime) -> None:
    """Give the shot back for another attempt, or close it when trying again makes no sense."""
    give_back = failed.is_retryable and claimed.shot.attempts < MAX_ATTEMPTS
    if give_back:
        moved = _held(claimed).move(
            ShotState.PENDING, error_code=failed.code, lease_owner="", not_before=now + RETRY_PAUSE
        )
    else:
        moved = _held(claimed).move(ShotState.FAILED, error_code=failed.code, lease_owner="", finished_at=now)
    faultpoint("fail.moved")
    if moved and not give_back:
        orders.finish(claimed.shot.order_id, now)


def release(owner: str) -> int:
    """Give back what a worker that is shutting down still holds, without spending an attempt."""
    return Shot.objects.filter(state=ShotState.LEASED, lease_owner=owner).move(
        ShotState.PENDING, attempts=F("attempts") - 1, lease_owner=""
    )


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep found and mended."""

    assess_hints: int
    render_hints: int
    given_up: int
    abandoned: int


def sweep(now: datetime) -> Swept:
    """Mend what lost messages and dead workers left behind: hint again, close what has no attempts left."""
    waiting = (
        Order.objects.live(now)
        .filter(state=OrderState.ASSESSING, selfies__isnull=False, created_at__lt=now - HINT_PATIENCE)
        .exclude(assess_lease_until__gt=now)
        .order_by("created_at")[:HINTS_PER_SWEEP]
    )
    for order in waiting:
        if order.assess_attempts >= MAX_ATTEMPTS:
            orders.refuse(order, "photo_unusable", now)
        else:
            enqueue(Task.ASSESS, str(order.pk))
    pending_count = min(_claimable(now).count(), MAX_COPIES)
    if pending_count:
        enqueue(Task.RENDER, copies=pending_count)
    faultpoint("sweep.hinted")
    return Swept(
        assess_hints=len(waiting),
        render_hints=pending_count,
        given_up=_give_up(now),
        abandoned=_close_abandoned(now),
    )


def _give_up(now: datetime) -> int:
    """Shots whose last worker died, and orders whose last step was lost between two transactions."""
    stuck = Shot.objects.filter(
        Q(state=ShotState.LEASED, lease_until__lt=now) | Q(state=ShotState.PENDING),
        attempts__gte=MAX_ATTEMPTS,
        order__state__in=WORKING_STATES,
    )
    count = stuck.move(ShotState.FAILED, error_code="worker_lost", lease_owner="", finished_at=now)
    unfinished: QuerySet[Order, uuid.UUID] = Order.objects.filter(state=OrderState.RENDERING).values_list(
        "pk", flat=True
    )
    for order_id in unfinished:
        orders.finish(order_id, now)
    return count


def _close_abandoned(now: datetime) -> int:
    """Uploads whose request died before the photo was sealed: nobody holds their token."""
    lost = Order.objects.filter(
        state=OrderState.ASSESSING, selfies__isnull=True, created_at__lt=now - UPLOAD_PATIENCE
    )
    count = 0
    for order in lost:
        purge.begin(order, reason="upload failed", now=now)
        count += 1
    return count
