"""What becomes of a claimed shot: kept once, given back or closed; and the sweep behind lost workers.

What is kept is delivered by `services.guarantee`, which every outcome asks through `orders.finish`.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from django.db import transaction
from django.db.models import F, Q, QuerySet

from headshots.exceptions import NotFound
from headshots.faults import faultpoint
from headshots.hints import MAX_COPIES, Task, enqueue
from headshots.models import Order, Shot, StoredObject
from headshots.services import claiming, fencing, guarantee, objects, orders, redo, styles
from headshots.states import WORKING_STATES, OrderState, ShotState
from headshots.vault.envelope import Kind

if TYPE_CHECKING:  # they bring numpy, which the web process has no use for
    from pipelines.types import FailedShot, FinishedShot

RETRY_PAUSE: Final = timedelta(seconds=5)
STORE_PAUSE: Final = timedelta(seconds=15)
UPLOAD_PATIENCE: Final = timedelta(minutes=2)
HINT_PATIENCE: Final = timedelta(seconds=10)
HINTS_PER_SWEEP: Final = (
    20  # enough to keep a worker busy until the next sweep, few enough not to flood the broker
)


def commit(claimed: claiming.Claim, finished: "FinishedShot", now: datetime) -> bool:
    """Seal and keep a picture. False when the claim was lost: then nothing of it remains."""
    written: list[StoredObject] = []
    try:
        for kind, data in ((Kind.HEADSHOT, finished.jpeg), (Kind.PREVIEW, finished.preview_jpeg)):
            stored = objects.intend(claimed.shot.order, kind, claimed.shot.index, now)
            written.append(stored)
            faultpoint("work.intended")
            objects.put(stored, data, now)
            faultpoint("work.put")
        faultpoint("work.written")
        is_ours = _keep(claimed, finished, written, now)
    except NotFound:
        is_ours = False
    except BaseException:
        _discard_unkept(written)
        raise
    if not is_ours:
        _discard(written)
        return False
    faultpoint("work.committed")
    orders.finish(claimed.shot.order_id, now)
    return True


@transaction.atomic
def _keep(
    claimed: claiming.Claim, finished: "FinishedShot", written: Sequence[StoredObject], now: datetime
) -> bool:
    headshot, preview = written
    is_ours = claiming.held(claimed).move(
        ShotState.KEPT,
        seed=finished.seed,
        likeness=finished.report.likeness,
        rank=finished.report.rank,
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


def _discard_unkept(written: Sequence[StoredObject]) -> None:
    """Discard after an error, unless they were kept all the same: a connection can break after COMMIT.

    Where the database does not answer they stay, as objects on record, until their order is purged.
    """
    intended = StoredObject.State.INTENDED
    ours = {stored.pk for stored in written}
    unkept = set(StoredObject.objects.filter(pk__in=ours, state=intended).values_list("pk", flat=True))
    _discard([stored for stored in written if stored.pk in unkept])


def fail(claimed: claiming.Claim, failed: "FailedShot", now: datetime) -> None:
    """Give the shot back for another attempt, or close it when trying again makes no sense."""
    give_back = failed.is_retryable and claimed.shot.attempts < claiming.MAX_ATTEMPTS
    if give_back:
        moved = claiming.held(claimed).move(
            ShotState.PENDING, error_code=failed.code, lease_owner="", not_before=now + RETRY_PAUSE
        )
    else:
        moved = claiming.held(claimed).move(
            ShotState.FAILED, error_code=failed.code, lease_owner="", finished_at=now
        )
    faultpoint("fail.moved")
    if moved and not give_back:
        orders.finish(claimed.shot.order_id, now)


def give_back(claimed: claiming.Claim, code: str, now: datetime) -> None:
    """Give the shot back after something that is not its fault, without spending its attempt.

    It rests for STORE_PAUSE, so that a store that stays away costs little work.
    """
    claiming.held(claimed).move(
        ShotState.PENDING,
        attempts=F("attempts") - 1,
        error_code=code,
        lease_owner="",
        not_before=now + STORE_PAUSE,
    )


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep found and mended."""

    assess_hints: int
    render_hints: int
    given_up: int
    abandoned: int


def unassessed(now: datetime) -> list[Order]:
    """The first orders whose photo nobody looks at, though a hint should have reached a worker by now."""
    waiting = (
        Order.objects.live(now)
        .filter(state=OrderState.ASSESSING, selfies__isnull=False, created_at__lt=now - HINT_PATIENCE)
        .exclude(assess_lease_until__gt=now)
        .order_by("created_at")
    )
    return list(waiting[:HINTS_PER_SWEEP])


def sweep(now: datetime) -> Swept:
    """Mend what lost messages and dead workers left behind: hint again, close what has no attempts left."""
    waiting = unassessed(now)
    for order in waiting:
        if order.assess_attempts >= claiming.MAX_ATTEMPTS:
            orders.refuse(order, "photo_unusable", now)
        else:
            enqueue(Task.ASSESS, str(order.pk))
    pending_count = min(claiming.claimable(now).count(), MAX_COPIES)
    if pending_count:
        enqueue(Task.RENDER, copies=pending_count)
    faultpoint("sweep.hinted")
    given_up, abandoned = mend(now)
    return Swept(
        assess_hints=len(waiting), render_hints=pending_count, given_up=given_up, abandoned=abandoned
    )


def mend(now: datetime) -> tuple[int, int]:
    """The part of a sweep that needs no broker; how many shots it gave up, and abandoned uploads closed."""
    orders.resume(now)
    for order_id in (*guarantee.give_up_overdue(now), *redo.give_up_overdue(now)):
        orders.finish(order_id, now)
    guarantee.erase_surplus()
    styles.switch_off_failing(now)
    return _give_up(now), _close_abandoned(now)


def _give_up(now: datetime) -> int:
    """Shots whose last worker died, and orders whose last step was lost between two transactions."""
    stuck = Shot.objects.filter(
        Q(state=ShotState.LEASED, lease_until__lt=now) | Q(state=ShotState.PENDING),
        attempts__gte=claiming.MAX_ATTEMPTS,
        order__in=Order.objects.filter(state__in=WORKING_STATES),  # no join, see `claiming.held`
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
        fencing.begin(order, reason="upload failed", now=now)
        count += 1
    return count
