"""Deletion: fence, shred, sweep, look, look again, scrub, receipt. Needs only the database and the store.

Each step may be repeated and each has its own timestamp. Once the keys are shredded, everything is already
unreadable; what follows removes the noise, and proves it.
"""

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.db import transaction
from django.db.models import F

from headshots.exceptions import Refusal
from headshots.faults import faultpoint
from headshots.models import Heartbeat, Order, Receipt, Selfie, Shot, StoredObject
from headshots.services import (
    audit,
    clock,
    fencing,
    incarnation,
    objects,
    payments,
    receipts,
    shredding,
    sweeping,
    tombstones,
)
from headshots.states import LIVE_STATES, OPEN_STATES, OrderState
from headshots.vault import files
from headshots.vault.receipts import is_receipt_id

log = logging.getLogger(__name__)

HEARTBEAT: Final = "purge"
PRUNING: Final = "tombstones"  # the heartbeat of what need not be done at every pass
PRUNING_INTERVAL: Final = timedelta(hours=1)
WRITE_PATIENCE: Final = timedelta(minutes=10)  # a file of a few hundred bytes is written within seconds
NUDGE_SECONDS: Final = 0.05  # what a customer's request may spend on somebody else's deletion
BACK_OFF_SECONDS: Final = (5, 15, 60, 300)  # per order, and never slower than the last


@dataclass(frozen=True, slots=True)
class Tally:
    """What one pass of the purge did."""

    begun: int
    purged: int
    waiting: int
    failed: int
    epoch_keys_destroyed: int
    selfie_keys_destroyed: int
    tombstones_removed: int


def request(order: Order, *, actor: str, now: datetime) -> str:
    """Delete an order now; returns the number of the receipt that the deletion ends in.

    The keys are shredded and the objects deleted before this returns. The receipt follows when a second look,
    a little later, has found nothing either.
    """
    fencing.begin(order, reason=actor, now=now)
    _advance_safely(order.pk, now)
    return order.receipt_id


def run(now: datetime, *, limit: int = 1000) -> Tally:
    """One pass over everything that is due. One order's failure never holds up another.

    Whatever is due is unreadable before the first object is deleted: the keys wait for no store.
    """
    begun = fencing.end_all_due(now)
    faultpoint("epoch.destroying")
    destroyed = _try("destruction of epoch keys", lambda: len(objects.epochs().destroy_due(now)))
    faultpoint("epoch.destroyed")
    selfies = _try("destruction of selfie keys", lambda: shredding.destroy_due_selfie_keys(now, limit=limit))
    fenced = Order.objects.due(sweeping.time_after(now)).filter(state=OrderState.PURGING)
    outcomes = Counter(
        # A receipt says when things were done: in a long pass that is later than when the pass began.
        _advance_safely(order_id, sweeping.time_after(now))
        for order_id in list(fenced.order_by("expires_at").values_list("pk", flat=True)[:limit])
    )
    faultpoint("purge.passed")
    shredding.truncate_journal()  # a reader may have held it up when the keys were deleted
    _try("deletion of keyless selfies", lambda: shredding.delete_keyless_selfies(limit=limit))
    _try("dropping of expired keys", objects.drop_expired_keys)
    _try("handing over of tombstones", tombstones.hand_over)
    pruned = _try("removal of tombstones", lambda: _prune_tombstones(now))
    _drop_broken_writes(now)
    Heartbeat.objects.update_or_create(name=HEARTBEAT, defaults={"at": now})
    if not incarnation.is_restored():  # a log that is to go on from elsewhere is not signed
        audit.checkpoint(now)
    incarnation.observe()
    return Tally(
        begun=begun,
        purged=outcomes[OrderState.PURGED],
        waiting=outcomes[OrderState.PURGING],
        failed=outcomes[None],
        epoch_keys_destroyed=destroyed,
        selfie_keys_destroyed=selfies,
        tombstones_removed=pruned,
    )


def _try(step: str, body: Callable[[], int | None]) -> int:
    """What `body` counts; 0 when it failed, with whatever: no order's deletion waits for such a step.

    A key file may be open to others, or a store of keys away; Redis and KMS destroy on time by themselves.
    """
    try:
        return body() or 0
    except Exception as error:
        log.error("%s failed: %s", step, type(error).__name__)
        return 0


def _drop_broken_writes(now: datetime) -> None:
    """What processes that died left beside keys, checkpoints and receipts; it may hold a key."""
    for name in ("keys", "keys/tombstones", "checkpoints", "receipts"):
        try:
            files.drop_parts(settings.DATA / name, (now - WRITE_PATIENCE).timestamp())
        except OSError as error:
            log.error("broken writes beside %s could not be removed: %s", name, type(error).__name__)


def _prune_tombstones(now: datetime) -> int:
    last = Heartbeat.objects.filter(name=PRUNING).values_list("at", flat=True).first()
    if last and last > now - PRUNING_INTERVAL:
        return 0
    removed = tombstones.prune(now)
    faultpoint("tombstone.pruned")
    Heartbeat.objects.update_or_create(name=PRUNING, defaults={"at": now})
    return removed


def end_orders_of_the_future(now: datetime) -> int:
    """Delete orders that were placed by a clock that was ahead of `now`, which is right; how many.

    Their 24 hours would end that much too late. Deletions and shots that wait for that clock wait no more.
    """
    _wait_no_longer(now)
    ahead = Order.objects.filter(state__in=LIVE_STATES, created_at__gt=now + clock.MAX_SKEW)
    order_ids = list(ahead.values_list("pk", flat=True))
    for order_id in order_ids:
        fencing.end_safely([order_id], now)
        _advance_safely(order_id, now)
    return len(order_ids)


def _wait_no_longer(now: datetime) -> None:
    latest = now + fencing.MAX_LEASE_WAIT + fencing.settle()  # what a right clock can have set
    waiting = Order.objects.filter(state=OrderState.PURGING)
    waiting.filter(settles_at__gt=latest).update(settles_at=latest)
    waiting.filter(purge_not_before__gt=latest).update(purge_not_before=now)
    # Looks of two clocks cannot be told apart; a refused photo was looked for before its order's end.
    unpurged = Order.objects.exclude(state=OrderState.PURGED)
    unpurged.filter(absent_at__gt=now).update(absent_at=None, absent_again_at=None)
    unpurged.filter(absent_again_at__gt=now).update(absent_again_at=None)
    for done in ("fenced_at", "selfie_shredded_at", "shredded_at", "tombstoned_at", "swept_at"):
        unpurged.filter(**{f"{done}__gt": now}).update(**{done: now})  # it is true that it was done by now
    Shot.objects.filter(state__in=OPEN_STATES, lease_until__gt=latest).update(lease_until=latest)
    Shot.objects.filter(state__in=OPEN_STATES, not_before__gt=latest).update(not_before=now)


def nudge(now: datetime) -> None:
    """Take one due order further, breaking its sweep off after 50 ms; one indexed query when nothing is due.

    What uploads and downloads call, so that a service in use deletes even if all its other parts are dead. It
    never raises: this customer's request has nothing to do with that order.
    """
    until = time.monotonic() + NUDGE_SECONDS
    for order_id in Order.objects.due(now).order_by().values_list("pk", flat=True)[:1]:
        if fencing.end_safely([order_id], now):
            shredding.truncate_journal()
            incarnation.observe()
        _advance_safely(order_id, now, until=until)


def _advance_safely(order_id: uuid.UUID, now: datetime, *, until: float | None = None) -> str | None:
    """Take one order as far as it goes; None when a step failed, which is then tried again after a pause."""
    try:
        outcome = advance(Order.objects.get(pk=order_id), now, until=until)
    except Exception as error:  # whatever the store or database said: this order waits, the others go on
        log.error("purge of order %s failed: %s", order_id, type(error).__name__)
        attempts = Order.objects.values_list("purge_attempts", flat=True).get(pk=order_id)
        pause = BACK_OFF_SECONDS[min(attempts, len(BACK_OFF_SECONDS) - 1)]
        Order.objects.filter(pk=order_id).update(
            purge_attempts=attempts + 1, purge_not_before=now + timedelta(seconds=pause)
        )
        return None
    incarnation.observe()
    return outcome


def advance(order: Order, now: datetime, *, until: float | None = None) -> str:
    """Do every step of a begun purge that can be done now; the state the order is in afterwards.

    `until` is a time.monotonic() after which the sweep breaks off; the next call goes on from there.
    """
    if order.state != OrderState.PURGING:
        return order.state
    if order.shredded_at is None:
        shredding.shred(order, now)
    if order.tombstoned_at is None:
        tombstones.remember(order, now)  # before the store is asked, which may be away
        faultpoint("purge.entombing")
        tombstones.write(order, now)
        faultpoint("purge.entombed")
        _refund(order, now)
        Order.objects.filter(pk=order.pk).update(tombstoned_at=now)
        faultpoint("purge.entombed_committed")
    if order.absent_at is None and not sweeping.erase(order, now, until=until):
        return OrderState.PURGING
    # Two looks at one moment are one look: `now` is before the first, and the second has yet to wait for it.
    return _look_again(order, sweeping.time_after(now) if order.absent_at else now)


def _look_again(order: Order, now: datetime) -> str:
    """P4, and what follows it; puts it off while it is not a pause after the first look."""
    order.refresh_from_db(fields=("absent_at", "settles_at"))
    if order.absent_at is None:  # another process has just found something
        return OrderState.PURGING
    settled_at = max(order.absent_at + fencing.settle(), order.settles_at or now)
    if now < settled_at:
        shredding.truncate_journal()
        Order.objects.filter(pk=order.pk).update(purge_not_before=settled_at)
        faultpoint("purge.settling")
        return OrderState.PURGING
    left = list(objects.blobs().list(objects.prefix_of(order)))
    now = sweeping.time_after(now)
    if left:
        _erase_late_writes(order, len(left), now)
        return OrderState.PURGING
    if incarnation.is_restored():  # what these rows say of the order may be older than the order's end
        return OrderState.PURGING
    faultpoint("purge.absent_again")
    # Always this look: after an earlier one whose receipt failed, something may have come and been deleted.
    looked_at = Order.objects.filter(pk=order.pk, state=OrderState.PURGING, absent_at=order.absent_at)
    is_current = looked_at.update(absent_again_at=now)
    faultpoint("purge.absent_again_committed")
    return _scrub_and_receipt(order, now) if is_current else OrderState.PURGING


def _refund(order: Order, now: datetime) -> None:
    """Paid pictures that were not delivered by now never will be: their price goes back.

    A step of the purge and not of the fence: whoever fenced the order may die before money moves.
    """
    if order.purge_reason != "restored":  # an old copy does not know what was delivered after it was made
        payments.refund_missing(order, now)


def _erase_late_writes(order: Order, count: int, now: datetime) -> None:
    """Remove what a late writer wrote, and only believe the next look."""
    with transaction.atomic():
        audit.record("purge.late_writes", actor="purge", reference=order.receipt_id, now=now, objects=count)
        Order.objects.filter(pk=order.pk).update(
            swept_at=None,
            absent_at=None,
            absent_again_at=None,
            late_writes=F("late_writes") + count,
            settles_at=now + fencing.settle(),
            purge_not_before=now + fencing.settle(),
        )
        faultpoint("purge.late_written")
    faultpoint("purge.late_committed")
    sweeping.erase(order, now)


def erase_contents(order: Order, now: datetime) -> None:
    """P1 to P3 without a fence, for a photo that was refused: the order stays, and can be looked at."""
    shredding.shred(order, now)
    sweeping.erase(order, now)


@transaction.atomic
def _scrub_and_receipt(order: Order, now: datetime) -> str:
    """P5 and P6: blank the row, then write the receipt. Reached only after both looks found nothing."""
    stored = StoredObject.objects.filter(order=order)
    deleted = stored.filter(state=StoredObject.State.DELETED)  # not what was intended and never came
    kinds, ciphertexts = (
        list(deleted.values_list("kind", flat=True)),
        list(deleted.values_list("sha256", flat=True)),
    )
    Selfie.objects.filter(order=order).delete()
    Shot.objects.filter(order=order).update(
        headshot=None, preview=None, seed=0, lease_owner="", likeness="", rank=0
    )
    stored.delete()
    faultpoint("purge.scrubbed")
    if not Order.objects.filter(pk=order.pk).move(
        OrderState.PURGED, token_sha256=None, upload_id=None, seed_root=None, purged_at=now
    ):
        return OrderState.PURGED
    faultpoint("purge.moved")
    order.refresh_from_db()
    receipts.issue(order, kinds=kinds, ciphertexts=ciphertexts, now=now)
    faultpoint("receipt.written")
    return OrderState.PURGED


def find_deletion(receipt_id: str, now: datetime) -> tuple[Order, Receipt | None]:
    """The order a receipt number belongs to once its deletion began, and the receipt once it exists.

    Somebody is watching, so a step that is due is done now instead of at the purge's next pass.

    Raises Refusal("receipt_not_found") for unknown numbers and for orders that are not being deleted.
    """
    if not is_receipt_id(receipt_id):  # also keeps what a database cannot hold, a NUL, away from it
        raise Refusal("receipt_not_found")
    begun = Order.objects.filter(receipt_id=receipt_id, state__in=(OrderState.PURGING, OrderState.PURGED))
    for order in begun.filter(state=OrderState.PURGING, purge_not_before__lte=now):
        _advance_safely(order.pk, now)
    found = begun.select_related("receipt").first()
    if found is None:
        raise Refusal("receipt_not_found")
    return found, getattr(found, "receipt", None)


def objects_left() -> int:
    """How many objects the store lists in all, whosever they are."""
    return sum(1 for _ in objects.blobs().list("o/"))
