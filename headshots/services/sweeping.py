"""P2 and P3 of a deletion: delete an order's objects, and see that the store lists and has none."""

import time
from datetime import datetime

from django.db import transaction
from django.db.models import F, Value
from django.db.models.functions import Greatest

from headshots.faults import faultpoint
from headshots.models import Order, StoredObject
from headshots.services import clock, objects, storage


def erase(order: Order, now: datetime, *, until: float | None = None) -> bool:
    """Delete the objects of a shredded order and look; False when the time was up before all were deleted.

    `until` is a time.monotonic() after which the sweep breaks off. Raises RuntimeError when the store still
    has an object: then nothing is recorded as deleted or absent.
    """
    prefix = objects.prefix_of(order)
    versions, uploads = objects.blobs().hidden(prefix)
    _record_unrecorded(order)
    faultpoint("purge.sweeping")
    if until is None:
        objects.blobs().delete_all(prefix)
    elif not _delete_until(prefix, until):
        return False
    swept_at = time_after(now)
    faultpoint("purge.swept")
    Order.objects.filter(pk=order.pk).update(
        versions_deleted=F("versions_deleted") + versions, uploads_deleted=F("uploads_deleted") + uploads
    )
    faultpoint("purge.swept_committed")
    _require_absent(order)
    absent_at = time_after(now)
    faultpoint("purge.absent")
    _record_absent(order, swept_at, absent_at)
    faultpoint("purge.absent_committed")
    return True


def time_after(now: datetime) -> datetime:
    """The time now, for what was done since `now`: a store may have taken minutes over it."""
    return max(now, clock.now())


def _record_unrecorded(order: Order) -> None:
    """Receipts also count the objects whose writers died before their rows said that they were stored."""
    intended = StoredObject.objects.filter(order=order, state=StoredObject.State.INTENDED).exclude(sha256="")
    if unrecorded := list(intended):
        there = set(objects.blobs().list(objects.prefix_of(order)))
        seen = [stored.pk for stored in unrecorded if objects.name_of(stored).blob_name in there]
        intended.filter(pk__in=seen).update(state=StoredObject.State.STORED)


def _require_absent(order: Order) -> None:
    if left := list(objects.blobs().list(objects.prefix_of(order))):
        raise RuntimeError(f"{len(left)} objects of order {order.pk} are still listed after their deletion")
    for stored in StoredObject.objects.filter(order=order):
        if storage.exists(objects.name_of(stored).blob_name):
            raise RuntimeError(f"object {stored.pk} is not listed and can be read after its deletion")


@transaction.atomic
def _record_absent(order: Order, swept_at: datetime, absent_at: datetime) -> None:
    """Both times at once: only the look proves the deletion.

    Neither is before the keys' end, which a machine whose clock is a little ahead may have recorded.
    """
    known = StoredObject.objects.filter(order=order, state=StoredObject.State.STORED)
    known.update(state=StoredObject.State.DELETED)
    Order.objects.filter(pk=order.pk, absent_at=None).update(
        swept_at=Greatest(F("shredded_at"), Value(swept_at)),
        absent_at=Greatest(F("shredded_at"), Value(absent_at)),
    )
    faultpoint("purge.absent_written")


def _delete_until(prefix: str, until: float) -> bool:
    """Delete at least one object, so that every call gets further; False when some are left for the next."""
    names = list(objects.blobs().list(prefix))
    for count, name in enumerate(names, 1):
        objects.blobs().delete(name)
        if count < len(names) and time.monotonic() > until:
            return False
    return True
