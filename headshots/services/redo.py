"""Redo: a delivered picture is made again with a fresh seed, and its customer chooses one of the two.

A redo is a shot of its own, with its own index, seeds and place in the queue. The order goes back to the
queue with it and is ready again after it; nothing that was promised, counted, paid or mailed changes. The
picture waits as KEPT, whatever its rank, until it is chosen: then it is delivered and the other one deleted,
so that the number of delivered pictures stays what it was. What is not chosen ends with the order.

The photo is deleted an hour after the first delivery, redo or not. One that a worker has begun by then, with
the photo in its memory, is finished; one that still waits fails. What fails costs nothing of the limit.
"""

import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from django.db import transaction
from django.db.models import Max, Q

from headshots.exceptions import NotFound, Refusal
from headshots.hints import Task, enqueue
from headshots.models import Order, Shot
from headshots.services import audit, fair_queue, guarantee, orders, payments, queue_clock
from headshots.services.queue_rows import CLOSING_TIME
from headshots.services.shredding import SELFIE_KEY_GRACE
from headshots.states import UNDECIDED_STATES, WORKING_STATES, OrderState, ShotState
from headshots.tiers import TIERS, Tier

# A photo whose redos fail this often, for each that its tier has, would fail again: every try costs the GPUs
# as much as a picture does.
FAILURES_PER_REDO: Final = 3


def open_until(order: Order) -> datetime | None:
    """Until when pictures can be made again; None before all are delivered, and once the photo is gone."""
    if order.finished_at is None or order.selfie_shredded_at:
        return None
    return min(
        order.finished_at + SELFIE_KEY_GRACE,
        order.expires_at - guarantee.DEADLINE - CLOSING_TIME,
    )


def left(tier: Tier, states: Iterable[str]) -> int:
    """How many pictures can still be made again; `states` are those of the order's redos so far."""
    asked = list(states)
    failed_count = asked.count(ShotState.FAILED)
    if failed_count >= FAILURES_PER_REDO * tier.redos:
        return 0
    return tier.redos - (len(asked) - failed_count)


@transaction.atomic
def ask(order: Order, index: int, now: datetime) -> None:
    """Have the delivered picture `index` made again; it stays as it is until the new one is chosen.

    Raises Refusal: headshot_not_found, payment_disputed, redo_too_early, selfie_deleted, redo_too_late,
    redo_under_way or redo_limit; NotFound once the order is gone. Nothing is changed then.
    """
    order = _locked(order, now)
    picture = (
        Shot.objects.filter(order=order, index=index, state=ShotState.DONE)
        .select_related("style_version")
        .first()
    )
    if picture is None:
        raise Refusal("headshot_not_found")
    _require_time(order, now)
    _require_left(order, picture)
    again = _enter(order, picture, now)
    Order.objects.filter(pk=order.pk, state=OrderState.READY).move(OrderState.QUEUED)
    enqueue(Task.RENDER)
    audit.record(
        "redo.asked",
        actor="customer",
        reference=order.receipt_id,
        now=now,
        picture=picture.index,
        redo=again.index,
    )


def _locked(order: Order, now: datetime) -> Order:
    """The order's row, held to the transaction's end: what is asked or chosen at once goes one by one."""
    found = Order.objects.live(now).select_for_update().filter(pk=order.pk).first()
    if found is None:
        raise NotFound
    payments.require_undisputed(found)
    return found


def _require_time(order: Order, now: datetime) -> None:
    if order.finished_at is None:
        raise Refusal("redo_too_early")
    if order.selfie_shredded_at or order.finished_at + SELFIE_KEY_GRACE <= now:
        raise Refusal("selfie_deleted")
    until = open_until(order)
    if until is None or until <= now:
        raise Refusal("redo_too_late")


def _require_left(order: Order, picture: Shot) -> None:
    redos = Shot.objects.filter(order=order, replaces__isnull=False)
    if redos.filter(replaces=picture, state__in=UNDECIDED_STATES).exists():
        raise Refusal("redo_under_way")
    if left(TIERS[order.tier], redos.values_list("state", flat=True)) <= 0:
        raise Refusal("redo_limit")


def _enter(order: Order, picture: Shot, now: datetime) -> Shot:
    """The redo's row. It enters the queue behind its tier's flow as an order would, and moves nobody."""
    version = picture.style_version
    highest: int = Shot.objects.filter(order=order).aggregate(highest=Max("index"))["highest"]
    work = fair_queue.work_of(version.num_inference_steps, order.long_edge)
    length = fair_queue.virtual_length(work, TIERS[order.tier])
    return Shot.objects.create(
        order=order,
        index=highest + 1,
        style_version=version,
        seed=orders.seeds_of(order, version.pk, highest + 1)[0],
        replaces=picture,
        not_before=now,
        work=work,
        virtual_offset=length,
        virtual_finish=queue_clock.reserve(order.tier, length) + length,
    )


def keep(order: Order, index: int, now: datetime) -> None:
    """Choose the picture `index` of two: the delivered one, or its redo. The other one is deleted.

    Choosing again what was chosen before changes nothing. Raises Refusal: headshot_not_found, choice_made
    when the other one was chosen, payment_disputed; NotFound once the order is gone.
    """
    with transaction.atomic():
        order = _locked(order, now)
        shot = Shot.objects.filter(order=order, index=index).first()
        if shot is None:
            raise Refusal("headshot_not_found")
        dropped = _choose(shot)
        if dropped is not None:
            audit.record(
                "redo.chosen",
                actor="customer",
                reference=order.receipt_id,
                now=now,
                kept=shot.index,
                deleted=dropped,
            )
    guarantee.erase_surplus([order.pk])


def _choose(shot: Shot) -> int | None:
    """Deliver `shot` and drop the other of the two, whose index comes back; None when it was chosen before.

    The caller holds the order's row.
    """
    if shot.state == ShotState.DONE:
        other = Shot.objects.filter(replaces=shot, state=ShotState.KEPT)
    elif shot.state == ShotState.KEPT and shot.replaces_id:
        other = Shot.objects.filter(pk=shot.replaces_id, state=ShotState.DONE)
    elif shot.state == ShotState.SURPLUS and (shot.replaces_id or shot.redos.exists()):
        raise Refusal("choice_made")
    else:
        raise Refusal("headshot_not_found")
    dropped = other.values_list("index", flat=True).first()
    if dropped is not None:
        other.move(ShotState.SURPLUS)
        Shot.objects.filter(pk=shot.pk, state=ShotState.KEPT).move(ShotState.DONE)
    return dropped


def give_up_overdue(now: datetime) -> list[uuid.UUID]:
    """Close the redos that wait for a worker after their photo's hour; these orders, then to be finished."""
    # With nothing open but redos: to try failed shots again clears `finished_at`.
    overdue = Order.objects.filter(state__in=WORKING_STATES, finished_at__lte=now - SELFIE_KEY_GRACE)
    order_ids = list(overdue.values_list("pk", flat=True))
    waiting = Q(state=ShotState.PENDING) | Q(state=ShotState.LEASED, lease_until__lt=now)
    for order_id in order_ids:
        # No join, see `claiming.held`.
        Shot.objects.filter(waiting, order=order_id).move(
            ShotState.FAILED, error_code="selfie_deleted", lease_owner="", finished_at=now
        )
    return order_ids
