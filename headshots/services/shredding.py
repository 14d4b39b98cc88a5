"""Destroying order keys: all at an order's purge, the selfie's alone an hour after the pictures are there.

Deleting the row is what makes an order unreadable at once; the epoch key's end does the same to every copy of
it.
"""

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from django.db import connection, transaction

from headshots.faults import faultpoint
from headshots.models import Order, OrderKey, OrderQuerySet, StoredObject
from headshots.services import audit, contacts, farewells, objects
from headshots.states import LIVE_STATES, WORKING_STATES, OrderState
from headshots.vault.envelope import Kind, Role, role_of

log = logging.getLogger(__name__)

SELFIE_KEY_GRACE: Final = timedelta(minutes=60)  # for redos, and for staff to retry failed shots
JOURNAL_MILLISECONDS: Final = 500  # that cutting the journal off waits for a reader
SELFIE_KINDS: Final = tuple(kind for kind in Kind if role_of(kind) == Role.SELFIES)


def shred(order: Order, now: datetime) -> None:
    """Delete the order's key rows, and what this process and the database's journal still hold of them."""
    with farewells.after_shredding([order], now), transaction.atomic():
        delete_key_rows([order], now)
    objects.forget_keys(order)
    faultpoint("purge.shredded")
    truncate_journal()
    faultpoint("purge.journal_truncated")


def delete_key_rows(orders: Sequence[Order], now: datetime) -> None:
    """Delete the orders' key rows, in the caller's transaction, and put on record that they are gone.

    The mail addresses go with them. To follow, once it is committed: `objects.forget_keys` of each order, and
    `truncate_journal`.
    """
    these = Order.objects.filter(pk__in=[order.pk for order in orders])
    contacts.forget(orders)
    OrderKey.objects.filter(order__in=orders).delete()
    unshredded = these.filter(shredded_at=None)
    first = list(unshredded.order_by("expires_at").values_list("receipt_id", flat=True))
    unshredded.update(shredded_at=now)
    these.filter(selfie_shredded_at=None).update(selfie_shredded_at=now)
    audit.record_each("key.destroyed", first, actor="purge", now=now)
    faultpoint("purge.shredding")


def selfies_due(now: datetime) -> OrderQuerySet:
    """Orders whose pictures have all been there for an hour and whose selfie can still be opened.

    One that is being worked on was finished before only if nothing but redos is made: they lengthen nothing.
    """
    return Order.objects.filter(
        state__in=(OrderState.READY, OrderState.FAILED, *WORKING_STATES),
        selfie_shredded_at=None,
        finished_at__lte=now - SELFIE_KEY_GRACE,
    )


def destroy_due_selfie_keys(now: datetime, *, limit: int) -> int:
    """Destroy the selfie keys that are due; how many. `delete_keyless_selfies` is to follow."""
    destroyed = sum(_destroy_selfie_key(order, now) for order in selfies_due(now)[:limit])
    if destroyed:
        faultpoint("selfie.shredded")
        truncate_journal()
    return destroyed


def delete_keyless_selfies(*, limit: int) -> None:
    """Delete the selfies whose keys were destroyed before their orders' end.

    One that the store would not delete is noise by then, and is tried again at the next pass.
    """
    left = StoredObject.objects.filter(
        kind__in=SELFIE_KINDS,
        state=StoredObject.State.STORED,
        order__state__in=LIVE_STATES,
        order__selfie_shredded_at__isnull=False,
    )
    for stored in left[:limit]:
        try:
            objects.blobs().delete(objects.name_of(stored).blob_name)
            faultpoint("selfie.deleted")
        except OSError as error:
            log.error("selfie %s could not be deleted: %s", stored.pk, type(error).__name__)
        else:
            StoredObject.objects.filter(pk=stored.pk).update(state=StoredObject.State.DELETED)


@transaction.atomic
def _destroy_selfie_key(order: Order, now: datetime) -> bool:
    """False when a retry or the purge was first."""
    if not selfies_due(now).filter(pk=order.pk).update(selfie_shredded_at=now):
        return False
    OrderKey.objects.filter(order=order, role=Role.SELFIES).delete()
    audit.record("key.destroyed", actor="purge", reference=order.receipt_id, now=now, is_selfie=True)
    faultpoint("selfie.shredding")
    transaction.on_commit(lambda: objects.forget_keys(order))
    return True


def truncate_journal() -> None:
    """SQLite: the deleted keys still stand in the write-ahead log until it is written back and cut off.

    A reader can hold that up. Whoever deletes does not wait long for it: each later step of the purge tries
    again.
    """
    if connection.vendor == "sqlite" and not connection.in_atomic_block:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA busy_timeout")
            (patience,) = cursor.fetchone()
            cursor.execute(f"PRAGMA busy_timeout = {JOURNAL_MILLISECONDS}")
            try:
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                cursor.execute(f"PRAGMA busy_timeout = {patience}")
