"""After a database was put back from a copy: purge again what had been purged, and let the service go on.

Nothing false is said on the way. An order that was purged before gets a receipt that gives this as its
reason, and that counts only what the store still held.
"""

from dataclasses import dataclass
from datetime import datetime

from django.db import transaction

from headshots.models import Order
from headshots.services import audit, fencing, incarnation, purge, tombstones, verification_store
from headshots.services.verification_types import Look


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What a reconciliation did; `waiting` orders get their receipts from the next passes."""

    incarnation: int
    purged_again: int
    waiting: int
    failed: int
    objects_deleted: int
    checkpoints_lost: int


def reconcile(now: datetime) -> Reconciled:
    """Bring the database in line with what happened after the copy was made; the service may serve again.

    May be repeated, also on a database that needs none of it. Raises what the store or the database raise:
    nothing is served until it has gone through.
    """
    again = 0
    for order_id in list(tombstones.alive()):
        again += fencing.begin(Order.objects.get(pk=order_id), reason="restored", now=now)
    lost = audit.accept_restore(actor="operator", now=now)
    deleted = sum(
        finding.count for finding in verification_store.compare(Look(now=now, is_fixing=True, is_full=False))
    )
    with transaction.atomic():
        number = incarnation.renew(now)
        audit.record(
            "restore.reconciled", actor="operator", reference=f"incarnation {number}", now=now, orders=again
        )
    incarnation.observe()
    tally = purge.run(now)
    return Reconciled(number, again, tally.waiting, tally.failed, deleted, lost)
