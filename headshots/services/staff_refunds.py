"""Money that staff give back, with a reason that the audit log keeps."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from django.db import transaction

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


def left_cents(order: Order) -> int:
    """What of an order's price staff could still give back; 0 for one that was never paid."""
    payment = Payment.objects.filter(order=order, state=Payment.State.PAID).first()
    if payment is None:
        return 0
    given = payment.refunds.exclude(state=Refund.State.FAILED).values_list("amount_cents", flat=True)
    return payment.amount_cents - sum(given)
