"""Paying in tests as the test checkout does, for orders in any state."""

from datetime import datetime

from headshots.models import Order, Payment
from headshots.payments.types import Checkout, CheckoutStatus
from headshots.services import checkouts, payments
from headshots.services.payments import Outcome


def pay(order: Order, now: datetime) -> None:
    """Have the test provider say that an order is paid. Raises Refusal("not_payable")."""
    tell_paid(payments.payable(order).reference, now)


def tell_paid(reference: str, now: datetime, *, event_id: str = "") -> Outcome:
    """One delivery of the test provider's word that a payment was made."""
    payment = Payment.objects.get(reference=reference)
    checkout = Checkout(
        id=payment.checkout_id or f"test-{reference}",
        status=CheckoutStatus.PAID,
        url="",
        reference=reference,
        amount_cents=payment.amount_cents,
        currency=payment.currency,
        charge_reference=f"test-{reference}",
        is_live=False,
    )
    return checkouts.settle(checkout, provider="test", event_id=event_id or f"paid-{reference}", now=now)
