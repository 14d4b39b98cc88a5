"""What is wrong with a service that has come to rest: read from its rows, its store and its keys."""

from collections import Counter
from pathlib import Path

from django.db.models import Sum

from headshots.models import Order, OrderKey, Payment, Shot, StoredObject
from headshots.services import clock, objects, verification
from headshots.states import OrderState, ShotState
from headshots.vault.envelope import Kind
from headshots.vault.keys import not_after_of
from tests.e2e import small_service as service

_ENDED = (OrderState.REFUSED, OrderState.READY, OrderState.FAILED, OrderState.PURGED)
_MOVING = (OrderState.ASSESSING, OrderState.QUEUED, OrderState.RENDERING, OrderState.PURGING)


def describe() -> str:
    """All orders in a few words, such as `ready 2+1 of 3, 5 objects`: delivered and failed shots."""
    lines = []
    for order in Order.objects.order_by("created_at"):
        count = Counter(Shot.objects.filter(order=order).values_list("state", flat=True))
        shots = f"{count['done']}+{count['failed']} of {order.headshots}"
        lines.append(f"{order.state} {shots}")
    listed = sum(1 for _ in objects.blobs().list(""))
    return f"{'; '.join(lines) or 'no order'}; {listed} blobs"


def unfinished() -> list[str]:
    """Orders still to be moved, paid ones not started, refused photos still there, money not paid back."""
    moving = [f"an order is {order.state}" for order in Order.objects.filter(state__in=_MOVING)]
    waiting = Order.objects.filter(state=OrderState.AWAITING_PAYMENT, payment__state=Payment.State.PAID)
    refused = [
        order
        for order in Order.objects.filter(state=OrderState.REFUSED)
        if order.keys.exists() or list(objects.blobs().list(f"o/{order.pk.hex}/"))
    ]
    return [
        *moving,
        *("a paid order is not started" for _ in waiting),
        *("a refused photo is still there" for _ in refused),
        *wrong_refunds(),
    ]


def wrong_deliveries(diary: Path) -> list[str]:
    """Orders with open shots or more pictures than promised; pictures that cannot be read, were made twice,
    or are neither delivered nor deleted."""
    problems = []
    for order in Order.objects.filter(state__in=(OrderState.READY, OrderState.FAILED)):
        count = Counter(Shot.objects.filter(order=order).values_list("state", flat=True))
        done = count.pop(ShotState.DONE, 0)
        if count.keys() - {ShotState.FAILED, ShotState.SURPLUS}:
            problems.append(f"a finished order has {done} of {order.headshots} pictures and open shots")
        if done > order.headshots or (done < order.headshots and ShotState.SURPLUS in count):
            problems.append(f"{done} of {order.headshots} pictures were delivered, others not needed")
        if len(service.pictures(order)) != 2 * done:
            problems.append("a delivered picture cannot be read")
    kept = Counter(diary.read_text().split()) if diary.exists() else Counter()
    problems += [f"a shot was kept {count} times" for count in kept.values() if count != 1]
    return problems + _wrong_objects()


def _wrong_objects() -> list[str]:
    stored = StoredObject.objects.filter(order__state=OrderState.READY, state=StoredObject.State.STORED)
    delivered = Shot.objects.filter(order__state=OrderState.READY, state=ShotState.DONE)
    needed = set()
    problems = []
    for shot in delivered:
        pictures = stored.filter(
            order=shot.order,
            index=shot.index,
            pk__in=[pk for pk in (shot.headshot_id, shot.preview_id) if pk],
        )
        needed |= set(pictures.values_list("pk", flat=True))
        if pictures.count() != 2:
            problems.append("a delivered shot has not one picture and one preview")
    left = stored.exclude(pk__in=needed).filter(kind__in=(Kind.HEADSHOT, Kind.PREVIEW))
    return problems + ["a picture that is not needed is still there"] * left.count()


def wrong_refunds() -> list[str]:
    """Payments of ended orders whose refunds are not the price of what is missing, to the cent."""
    problems = []
    for payment in Payment.objects.filter(order__state__in=_ENDED).select_related("order"):
        missing = payment.order.headshots - payment.order.shots.filter(state=ShotState.DONE).count()
        is_paid = payment.state == Payment.State.PAID
        owed = -(-payment.amount_cents * missing // payment.order.headshots) if is_paid else 0
        given = payment.refunds.aggregate(total=Sum("amount_cents"))["total"] or 0
        if given != owed:
            problems.append(f"{given} of {owed} cents were paid back for {missing} missing pictures")
    return problems


def unpurged() -> list[str]:
    """Orders that were not purged, and those without a receipt."""
    without = Order.objects.filter(state=OrderState.PURGED, receipt=None).count()
    alive = Order.objects.exclude(state=OrderState.PURGED)
    return [f"an order ended as {order.state}" for order in alive] + ["a receipt is missing"] * without


def leftovers(prefix: str) -> list[str]:
    """Whatever the store still has."""
    return [f"the store holds {name}" for name in objects.blobs().list(prefix)]


def inspected() -> list[str]:
    """What `purge --verify` finds."""
    report = verification.inspect(clock.now(), is_full=True)
    return [] if report.is_clean else [str(report)]


def leftover_keys() -> list[str]:
    """Keys of orders and hours that outlived them."""
    late = [epoch for epoch in objects.epochs().epochs() if not_after_of(epoch) <= clock.now()]
    return [f"{OrderKey.objects.count()} order keys are left"] * OrderKey.objects.exists() + [
        f"the key of hour {epoch} is left" for epoch in late
    ]
