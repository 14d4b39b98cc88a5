"""The beginning of a deletion: fence an order, so that nothing of it is read or written, and shred its keys.

What is due at once is fenced and shredded a hundred orders at a time, each hundred in one transaction: when a
busy hour ends, the last order of it does not stay readable for as long as all the others take.
"""

import logging
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.db import transaction
from django.db.models import F, Max, Q

from headshots.faults import faultpoint
from headshots.models import Order, Shot, StoredObject
from headshots.services import audit, clock, farewells, incarnation, objects, shredding, tombstones
from headshots.states import OrderState, ShotState

log = logging.getLogger(__name__)

SHREDDED_AT_ONCE: Final = 100  # orders in one transaction, before the journal is cut off behind them
MAX_LEASE_WAIT: Final = timedelta(minutes=20)


def begin(order: Order, *, reason: str, now: datetime) -> bool:
    """P0, fence: from this commit on nothing can be read, claimed or written. False if begun before."""
    with transaction.atomic():
        begun = _fence([order], reason, now)
    faultpoint("purge.fenced")
    objects.forget_keys(order)
    incarnation.observe()  # also when the store takes no tombstone now, an older copy will be known as one
    return bool(begun)


def end_all_due(now: datetime) -> int:
    """P0 and P1 of every order that came to its end, or was left between the two; how many were fenced."""
    ended = Q(state=OrderState.PURGING, shredded_at__isnull=False)
    due = list(Order.objects.due(now).exclude(ended).order_by("expires_at").values_list("pk", flat=True))
    begun = 0
    for start in range(0, len(due), SHREDDED_AT_ONCE):
        # A receipt says when the keys went: in a long pass that is later than when the pass began.
        begun += end_safely(due[start : start + SHREDDED_AT_ONCE], max(now, clock.now()))
        shredding.truncate_journal()
        faultpoint("purge.journal_truncated")
        incarnation.observe()
    return begun


def end_safely(order_ids: Sequence[uuid.UUID], now: datetime) -> int:
    """Fence orders and destroy their keys; how many were not fenced before. Never raises.

    What cannot be done for all of them together is done for each alone, so that one order's failure is its
    own. `shredding.truncate_journal` is still to follow.
    """
    try:
        return _end(list(Order.objects.filter(pk__in=order_ids)), now)
    except Exception as error:  # reads refuse them all the same, and the next step or pass tries again
        if len(order_ids) > 1:
            return sum(end_safely([order_id], now) for order_id in order_ids)
        log.error("purge of order %s could not begin: %s", order_ids[0], type(error).__name__)
        return 0


def _end(orders: Sequence[Order], now: datetime) -> int:
    if incarnation.is_restored():
        # How an older copy's order is fenced depends on the store, which may be away. Its keys do not wait.
        with transaction.atomic():
            shredding.delete_key_rows(orders, now)
        for order in orders:
            objects.forget_keys(order)
    unfenced = [order for order in orders if order.state != OrderState.PURGING]
    restored = {order.pk for order in unfenced if incarnation.is_restored() and tombstones.exists(order.pk)}
    with farewells.after_shredding(orders, now), transaction.atomic():
        begun = _fence([order for order in unfenced if order.pk not in restored], "expired", now)
        begun += _fence([order for order in unfenced if order.pk in restored], "restored", now)
        fenced = list(Order.objects.filter(pk__in=[order.pk for order in orders], state=OrderState.PURGING))
        shredding.delete_key_rows(fenced, now)
    for order in fenced:
        objects.forget_keys(order)
    faultpoint("purge.shredded")
    return begun


def _fence(orders: Sequence[Order], reason: str, now: datetime) -> int:
    """Move orders to their deletion, in the caller's transaction; how many were not moved before."""
    begun = []
    for settles_at, pks in _by_settling(orders, now).items():
        movable = Order.objects.filter(pk__in=pks).movable(OrderState.PURGING)
        moving = list(movable.select_for_update().values_list("pk", "receipt_id"))
        Order.objects.filter(pk__in=[pk for pk, _ in moving]).move(
            OrderState.PURGING,
            generation=F("generation") + 1,
            purge_reason=reason,
            purge_not_before=now,
            fenced_at=now,
            settles_at=settles_at,
        )
        begun += moving
    if reason == "restored":
        moved = {pk for pk, _ in begun}
        for order in orders:
            if order.pk in moved:
                _forget_absent_objects(order)
    audit.record_each("purge.begun", [number for _, number in begun], actor=reason, now=now)
    faultpoint("purge.fencing")
    return len(begun)


def _by_settling(orders: Sequence[Order], now: datetime) -> dict[datetime, list[uuid.UUID]]:
    """The orders by when whoever holds a lease on them has either written or given up, and a little more."""
    pks = [order.pk for order in orders]
    leased = Shot.objects.filter(order__in=pks, state=ShotState.LEASED).order_by().values_list("order")
    of_shots = dict(leased.annotate(last=Max("lease_until")))
    looked_at = Order.objects.filter(pk__in=pks, assessed_at=None)
    of_photos = dict(looked_at.values_list("pk", "assess_lease_until"))
    groups: dict[datetime, list[uuid.UUID]] = {}
    for pk in pks:
        free_at = max(of_shots.get(pk) or now, of_photos.get(pk) or now, now)
        groups.setdefault(min(free_at + settle(), now + MAX_LEASE_WAIT), []).append(pk)
    return groups


def settle() -> timedelta:
    """How long a store may take to show what was written to it."""
    return timedelta(seconds=settings.PURGE_SETTLE_SECONDS)


def _forget_absent_objects(order: Order) -> None:
    """A restored copy brought rows back whose objects are long gone: no second receipt claims them."""
    there = set(objects.blobs().list(objects.prefix_of(order)))
    for stored in StoredObject.objects.filter(order=order):
        if objects.name_of(stored).blob_name not in there:
            stored.delete()
