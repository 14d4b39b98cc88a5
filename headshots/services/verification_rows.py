"""Checks 8 to 18.

Keys, receipts, log, leases, tombstones and rounds, as the rows and the key store have them.
"""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

from django.conf import settings
from django.db.models import Q

from headshots.models import Heartbeat, MailAddress, Order, OrderKey, Shot
from headshots.services import audit, incarnation, objects, purge, receipts, shredding, tombstones
from headshots.services.verification_types import PATIENCE, Finding, Look
from headshots.states import LIVE_STATES, WORKING_STATES, OrderState, ShotState
from headshots.vault.keys import not_after_of

LEASE_PATIENCE: Final = timedelta(minutes=5)  # the sweep gives a lapsed lease to another within seconds
WAIT_PATIENCE: Final = timedelta(minutes=10)
LATE_AFTER: Final = timedelta(minutes=10)  # after an order's expiry, until which its objects are to be absent


def keys_past_their_end(look: Look) -> Iterator[Finding]:
    """Check 8: order keys that outlived their order, and mail addresses that outlived their key."""
    late = OrderKey.objects.filter(order__not_after__lte=look.now)
    has_ended = Q(order__not_after__lte=look.now) | Q(order__shredded_at__isnull=False)
    addresses = MailAddress.objects.filter(has_ended)
    yield from _found("key_past_its_end", late.values_list("order_id", flat=True))
    yield from _found("address_past_its_end", addresses.values_list("order_id", flat=True))
    if look.is_fixing and late.delete()[0] + addresses.delete()[0]:
        shredding.truncate_journal()


def epoch_keys(look: Look) -> Iterator[Finding]:
    """Check 9: keys of hours that are over, and living orders whose hour has none."""
    there = objects.epochs().epochs()
    late = [epoch for epoch in there if not_after_of(epoch) <= look.now]
    yield from _found("epoch_key_past_its_end", late)
    if look.is_fixing:
        objects.epochs().destroy_due(look.now)
    living = Order.objects.live(look.now).filter(keys__isnull=False).order_by("epoch")
    needed = set(living.values_list("epoch", flat=True).distinct())
    yield from _found("epoch_key_missing", sorted(needed - set(there)))


def receipts_of_purged_orders(look: Look) -> Iterator[Finding]:
    """Checks 10 and 15: a receipt for each purged order and for no other; a sample of them is opened."""
    yield from _as_findings(receipts.verify())


def audit_log(look: Look) -> Iterator[Finding]:
    """Check 11: the chain, and the checkpoints that were signed of it.

    A log that fell behind was restored.
    """
    found = audit.verify(look.now)
    if any(finding.code in ("audit_behind", "audit_contradicted") for finding in found):
        incarnation.distrust()
    yield from _as_findings(found)


def unfinished_files(look: Look) -> Iterator[Finding]:
    """Check 12: remains of broken writes beside the keys; those in the store are seen where it is listed."""
    for path in (Path(settings.DATA) / "keys").glob("*.part"):
        if path.stat().st_mtime < (look.now - PATIENCE).timestamp():
            yield Finding(code="unfinished_file", examples=(path.name,))
            if look.is_fixing:
                path.unlink(missing_ok=True)


def leases_past_due(look: Look) -> Iterator[Finding]:
    """Check 13: shots whose worker has long been silent and that nobody took over."""
    late = Shot.objects.filter(
        state=ShotState.LEASED,
        lease_until__lt=look.now - LEASE_PATIENCE,
        order__state__in=WORKING_STATES,
    )
    yield from _found(
        "lease_past_due", (f"{order}/{index}" for order, index in late.values_list("order_id", "index"))
    )
    if look.is_fixing:
        late.move(ShotState.PENDING, lease_owner="")


def orders_nobody_looked_at(look: Look) -> Iterator[Finding]:
    """Check 14: photos that wait for their assessment although every sweep has hinted at them."""
    waiting = Order.objects.live(look.now).filter(
        state=OrderState.ASSESSING, created_at__lt=look.now - WAIT_PATIENCE
    )
    yield from _found("order_nobody_looked_at", waiting.values_list("pk", flat=True))


def tombstones_of_living_orders(look: Look) -> Iterator[Finding]:
    """Check 16: orders that were purged once and are alive again, or have a key: a copy was put back.

    Repairing this takes `restore_reconcile`, which knows what else to do; from now on nothing is served.
    """
    for ids in tombstones.batches():
        risen = set(Order.objects.filter(pk__in=ids, state__in=LIVE_STATES).values_list("pk", flat=True))
        risen |= set(OrderKey.objects.filter(order__in=ids).values_list("order_id", flat=True))
        # The purge's own way from fence to shredding is short, and the tombstone is set at its end.
        if risen:
            incarnation.distrust()
        yield from _found("tombstone_of_living_order", sorted(risen))


def purge_heartbeat(look: Look) -> Iterator[Finding]:
    """Check 17: whether anybody purges at all."""
    last = Heartbeat.objects.filter(name=purge.HEARTBEAT).values_list("at", flat=True).first()
    if last is None or last < look.now - WAIT_PATIENCE:
        yield Finding(code="purge_silent", examples=(last.isoformat() if last else "never",))
        if look.is_fixing:
            purge.run(look.now)


def late_deletions(look: Look) -> Iterator[Finding]:
    """Check 18: orders that ended ten minutes ago and whose objects have not been seen absent."""
    late = Order.objects.filter(expires_at__lte=look.now - LATE_AFTER, absent_at=None).exclude(
        state=OrderState.PURGED
    )
    ids = list(late.values_list("pk", flat=True))
    yield from _found("deletion_late", ids)
    if look.is_fixing and ids:
        late.filter(state=OrderState.PURGING).update(purge_not_before=look.now)
        purge.run(look.now)


def _found(code: str, places: Iterable[object]) -> Iterator[Finding]:
    for place in places:
        yield Finding(code=code, examples=(str(place),))


def _as_findings(found: Iterable[audit.Finding]) -> Iterator[Finding]:
    for finding in found:
        yield Finding(code=finding.code, examples=(str(finding.where),))
