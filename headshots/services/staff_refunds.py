"""Money that staff give back, with a reason that the audit log keeps."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from django.db import transaction
from django.db.models import F, OuterRef, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce

from headshots.exceptions import Refusal
from headshots.models import Order, Payment, Refund
from headshots.services import audit, payments

# Codes, so that the audit log holds no free text, which could name a person.
REASONS: Final[Mapping[str, str]] = {
    "quality": "The pictures are not good enough",
    "likeness": "The pictures do not look like the customer",
    "too_late": "The pictures came too late",
    "duplicate": "Ordered or paid twice by mistake",
    "withdrawal": "The customer withdrew from the purchase",
    "goodwill": "Goodwill",
}


@transaction.atomic
def refund(order: Order, *, pictures: Iterable[int] | None, reason: str, actor: str, now: datetime) -> int:
    """Give back the price of some pictures, or of all with None; the cents given back now.

    Raises Refusal: unknown_reason, and as `payments.refund` does; nothing is written then.
    """
    if reason not in REASONS:
        raise Refusal("unknown_reason")
    chosen = None if pictures is None else sorted(set(pictures))
    cents = payments.refund(order, pictures=chosen, actor=actor, now=now)
    audit.record(
        "refund.decided",
        actor=actor,
        reference=order.receipt_id,
        now=now,
        reason=reason,
        pictures=order.headshots if chosen is None else len(chosen),
        cents=cents,
    )
    return cents


def failed_for_good() -> QuerySet[Refund]:
    """Refunds that did not arrive and that nothing took the place of: staff must find another way.

    Not those that a lost dispute ended: there the bank has given the money back.
    """
    alive = Refund.objects.filter(payment=OuterRef("payment")).exclude(state=Refund.State.FAILED)
    failed = Refund.objects.filter(state=Refund.State.FAILED).exclude(error_code="dispute_lost")
    return failed.annotate(
        given_cents=_total_cents(alive),
        since_cents=_total_cents(alive.filter(sequence__gt=OuterRef("sequence"))),
    ).filter(since_cents__lt=F("amount_cents"), given_cents__lt=F("payment__amount_cents"))


def _total_cents(refunds: QuerySet[Refund]) -> Coalesce:
    totals = refunds.order_by().values("payment").annotate(total_cents=Sum("amount_cents"))
    return Coalesce(Subquery(totals.values("total_cents")), 0)


def left_cents(order: Order) -> int:
    """What of an order's price staff could still give back; 0 for one that was never paid."""
    payment = Payment.objects.filter(order=order, state=Payment.State.PAID).first()
    if payment is None:
        return 0
    given = payment.refunds.exclude(state=Refund.State.FAILED).values_list("amount_cents", flat=True)
    return payment.amount_cents - sum(given)
