"""Deletion: fence, shred, sweep, look, look again, scrub, receipt. Needs only the database and the store.

Each step may be repeated and each has its own timestamp. Once the keys are shredded, everything is already
unreadable; what follows removes the noise, and proves it.
"""

import logging
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, Max

from headshots.exceptions import Refusal
from headshots.models import Heartbeat, Order, OrderKey, Receipt, Selfie, Shot, StoredObject
from headshots.services import audit, objects, payments
from headshots.states import OrderState, ShotState
from headshots.vault import receipts
from headshots.vault.envelope import Kind

log = logging.getLogger(__name__)

HEARTBEAT: Final = "purge"
MAX_LEASE_WAIT: Final = timedelta(minutes=20)
BACK_OFF_SECONDS: Final = (5, 15, 60, 300)  # per order, and never slower than the last

REASONS: Final = {
    "customer": "customer-request",
    "expired": "expiry",
    "upload failed": "upload-failed",
    "staff": "staff-request",
}


@dataclass(frozen=True, slots=True)
class Tally:
    """What one pass of the purge did."""

    begun: int
    purged: int
    waiting: int
    failed: int
    epoch_keys_destroyed: int


def request(order: Order, *, actor: str, now: datetime) -> str:
    """Delete an order now; returns the number of the receipt that the deletion ends in.

    The keys are shredded and the objects deleted before this returns. The receipt follows when a second look,
    a little later, has found nothing either.
    """
    begin(order, reason=actor, now=now)
    _advance_safely(order.pk, now)
    return order.receipt_id


def begin(order: Order, *, reason: str, now: datetime) -> bool:
    """P0, fence: from this commit on nothing can be read, claimed or written. False if begun before.

    Paid pictures that were not delivered by now never will be: their price goes back.
    """
    with transaction.atomic():
        leased_until = Shot.objects.filter(order=order, state=ShotState.LEASED).aggregate(
            last=Max("lease_until")
        )
        settle = timedelta(seconds=settings.PURGE_SETTLE_SECONDS)
        settles_at = min(max(leased_until["last"] or now, now) + settle, now + MAX_LEASE_WAIT)
        begun = Order.objects.filter(pk=order.pk).move(
            OrderState.PURGING,
            generation=F("generation") + 1,
            purge_reason=reason,
            purge_not_before=now,
            fenced_at=now,
            settles_at=settles_at,
        )
        if begun:
            audit.record("purge.begun", actor=reason, reference=order.receipt_id, now=now)
    if begun:
        payments.refund_missing(order, now)
    objects.forget_keys(order)
    return bool(begun)


def run(now: datetime, *, limit: int = 1000) -> Tally:
    """One pass over everything that is due. One order's failure never holds up another."""
    begun = purged = waiting = failed = 0
    for order in Order.objects.due(now).order_by("expires_at")[:limit]:
        if order.state != OrderState.PURGING:
            begun += begin(order, reason="expired", now=now)
        outcome = _advance_safely(order.pk, now)
        purged += outcome == OrderState.PURGED
        waiting += outcome == OrderState.PURGING
        failed += outcome is None
    destroyed = objects.epochs().destroy_due(now)
    objects.drop_expired_keys()
    Heartbeat.objects.update_or_create(name=HEARTBEAT, defaults={"at": now})
    return Tally(begun, purged, waiting, failed, len(destroyed))


def _advance_safely(order_id: uuid.UUID, now: datetime) -> str | None:
    """Take one order as far as it goes; None when a step failed, which is then tried again after a pause."""
    try:
        return advance(Order.objects.get(pk=order_id), now)
    except Exception as error:  # whatever the store or database said: this order waits, the others go on
        log.error("purge of order %s failed: %s", order_id, type(error).__name__)
        attempts = Order.objects.values_list("purge_attempts", flat=True).get(pk=order_id)
        pause = BACK_OFF_SECONDS[min(attempts, len(BACK_OFF_SECONDS) - 1)]
        Order.objects.filter(pk=order_id).update(
            purge_attempts=attempts + 1, purge_not_before=now + timedelta(seconds=pause)
        )
        return None


def advance(order: Order, now: datetime) -> str:
    """Do every step of a begun purge that can be done now; the state the order is in afterwards."""
    if order.state != OrderState.PURGING:
        return order.state
    if order.absent_at is None:
        erase_contents(order, now)
    if order.settles_at and now < order.settles_at:
        Order.objects.filter(pk=order.pk).update(purge_not_before=order.settles_at)
        return OrderState.PURGING
    if left := list(objects.blobs().list(_prefix(order))):
        # A late writer: remove what it wrote, and only believe the next look.
        audit.record(
            "purge.late_writes", actor="purge", reference=order.receipt_id, now=now, objects=len(left)
        )
        settle = timedelta(seconds=settings.PURGE_SETTLE_SECONDS)
        Order.objects.filter(pk=order.pk).update(
            swept_at=None, absent_at=None, settles_at=now + settle, purge_not_before=now + settle
        )
        erase_contents(order, now)
        return OrderState.PURGING
    Order.objects.filter(pk=order.pk, absent_again_at=None).update(absent_again_at=now)
    return _scrub_and_receipt(order, now)


def erase_contents(order: Order, now: datetime) -> None:
    """P1 to P3: shred the keys, delete the objects, and see that the store lists nothing of the order."""
    with transaction.atomic():
        OrderKey.objects.filter(order=order).delete()
        Order.objects.filter(pk=order.pk, shredded_at=None).update(shredded_at=now)
    objects.forget_keys(order)
    _truncate_journal()
    for name in list(objects.blobs().list(_prefix(order))):
        objects.blobs().delete(name)
    Order.objects.filter(pk=order.pk, swept_at=None).update(swept_at=now)
    if left := list(objects.blobs().list(_prefix(order))):
        raise RuntimeError(f"{len(left)} objects of order {order.pk} are still listed after their deletion")
    Order.objects.filter(pk=order.pk, absent_at=None).update(absent_at=now)


def _truncate_journal() -> None:
    """SQLite: the deleted keys still stand in the write-ahead log until it is written back and cut off.

    A reader can hold that up; each later step of the purge tries again.
    """
    if connection.vendor == "sqlite" and not connection.in_atomic_block:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@transaction.atomic
def _scrub_and_receipt(order: Order, now: datetime) -> str:
    """P5 and P6: blank the row, then write the receipt. Reached only after both looks found nothing."""
    stored = StoredObject.objects.filter(order=order)
    kinds = list(stored.values_list("kind", flat=True))
    digest = receipts.digest_of_ciphertexts(stored.exclude(sha256="").values_list("sha256", flat=True))
    Selfie.objects.filter(order=order).delete()
    Shot.objects.filter(order=order).update(headshot=None, preview=None, seed=0, lease_owner="")
    stored.delete()
    if not Order.objects.filter(pk=order.pk).move(
        OrderState.PURGED, token_sha256=None, upload_id=None, seed_root=None, purged_at=now
    ):
        return OrderState.PURGED
    order.refresh_from_db()
    text = receipts.compose_receipt(_receipt_of(order, kinds, digest))
    Receipt.objects.create(id=order.receipt_id, order=order, text=text, issued_at=now)
    audit.record("purge.done", actor="purge", reference=order.receipt_id, now=now, objects=len(kinds))
    return OrderState.PURGED


def _receipt_of(order: Order, kinds: list[int], digest: str) -> receipts.Receipt:
    shredded_at, swept_at = _known(order.shredded_at), _known(order.swept_at)
    return receipts.Receipt(
        receipt_id=order.receipt_id,
        origin=settings.SITE_URL.partition("://")[2],
        first_photo=order.created_at,
        selfie_key_destroyed=shredded_at,
        result_key_destroyed=shredded_at,
        objects_deleted=swept_at,
        absent_verified=(_known(order.absent_at), _known(order.absent_again_at)),
        epoch_key_gone_by=order.not_after,
        reason=REASONS[order.purge_reason],
        selfies=kinds.count(Kind.SELFIE),
        headshots=kinds.count(Kind.HEADSHOT),
        previews=kinds.count(Kind.PREVIEW),
        ciphertexts=digest,
    )


def _known(at: datetime | None) -> datetime:
    if at is None:
        raise RuntimeError("a receipt was asked for before its steps were done")
    return at


def find_deletion(receipt_id: str, now: datetime) -> tuple[Order, Receipt | None]:
    """The order a receipt number belongs to once its deletion began, and the receipt once it exists.

    Somebody is watching, so a step that is due is done now instead of at the purge's next pass.

    Raises Refusal("receipt_not_found") for unknown numbers and for orders that are not being deleted.
    """
    if not receipts.is_receipt_id(receipt_id):  # also keeps what a database cannot hold, a NUL, away from it
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


def _prefix(order: Order) -> str:
    return f"o/{order.pk.hex}/"
