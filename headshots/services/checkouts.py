"""The way to the provider's page and back: at most one page can be paid at any moment, whatever is clicked.

A page is one attempt. Its number is written before the provider is asked, so that asking again, from another
tab or after a crash, names the same attempt and gets the same page.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Self

from django.conf import settings
from django.urls import reverse

from headshots.exceptions import NotFound, Refusal
from headshots.hints import Task, enqueue
from headshots.models import Order, Payment
from headshots.payments import provider as provider_named
from headshots.payments.types import (
    Bill,
    Checkout,
    CheckoutStatus,
    Provider,
    ProviderAway,
    ProviderBroke,
    ProviderRefused,
)
from headshots.services import estimates, payments, sales
from headshots.services.payments import Outcome
from headshots.states import OrderState
from headshots.tiers import TIERS

log = logging.getLogger(__name__)

# Stripe takes 30 minutes to 24 hours from its own clock; the rest is for a clock that differs and for asking
# again with the same values.
PAGE_LIFE: Final = timedelta(minutes=40)
LOOK_AFTER: Final = timedelta(minutes=2)  # events come within seconds; for those that do not come at all

_STANDS: Final = (Payment.CheckoutState.OPEN, Payment.CheckoutState.PROCESSING)
_NOTED: Final = {
    CheckoutStatus.PROCESSING: Payment.CheckoutState.PROCESSING,
    CheckoutStatus.EXPIRED: Payment.CheckoutState.EXPIRED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """Where the provider sends the customer afterwards; absolute addresses on our site."""

    success_url: str
    cancel_url: str

    @classmethod
    def of(cls, order: Order) -> Self:
        """The order's own pages; whoever opened its private link in that browser sees them."""
        return cls(
            success_url=settings.SITE_URL + reverse("checkout-return", args=(order.pk,)),
            cancel_url=f"{settings.SITE_URL}{reverse('checkout', args=(order.pk,))}?unpaid",
        )


def require_open(order: Order, now: datetime) -> Payment:
    """The payment of an order that may be paid now.

    Raises Refusal: not_payable; not_on_sale; too_late_to_pay or queue_full when the pictures would not come
    in time.
    """
    payment = payments.payable(order)
    if order.state != OrderState.AWAITING_PAYMENT:
        raise Refusal("not_payable")
    sales.require_on_sale(TIERS[order.tier])
    if order.expires_at - now < PAGE_LIFE + estimates.PAYMENT_MARGIN:
        raise Refusal("too_late_to_pay")
    estimates.require_room(TIERS[order.tier], order.expires_at, now)
    return payment


def hand_over(order: Order, pages: Pages, now: datetime) -> str:
    """The provider's page where an order can be paid; empty when there is nothing left to do there.

    Raises Refusal as `require_open` does, and payment_unavailable; NotFound when the order was deleted
    meanwhile.
    """
    payment = require_open(order, now)
    provider = provider_named(payment.provider)
    try:
        checkout = _standing(provider, payment, now) or _opened(provider, payment, pages, now)
    except (ProviderAway, ProviderRefused) as error:
        log.error("payment %s has no checkout: %s", payment.pk, error.code)
        raise Refusal("payment_unavailable") from None
    if not Order.objects.live(now).filter(pk=order.pk).exists():
        enqueue(Task.SETTLE)  # closes the page
        raise NotFound
    if checkout.status is CheckoutStatus.PAID:
        settle(checkout, provider=payment.provider, event_id=f"seen-{checkout.id}", now=now)
    return checkout.url


def _standing(provider: Provider, payment: Payment, now: datetime) -> Checkout | None:
    """The newest attempt, unless it can no longer be paid."""
    if not payment.checkout_id or payment.checkout_state not in _STANDS:
        return None
    checkout = provider.look_up(payment.checkout_id)
    if checkout.status is CheckoutStatus.EXPIRED:
        note(payment, checkout.id, Payment.CheckoutState.EXPIRED)
        payment.refresh_from_db()
        return None
    return checkout


def _opened(provider: Provider, payment: Payment, pages: Pages, now: datetime) -> Checkout:
    """A page for the attempt that was begun and not answered, or for a new one."""
    begun = payment.attempt and not payment.checkout_id and payment.checkout_state in _STANDS
    if not begun:
        _begin_attempt(payment, now)
    assert payment.checkout_expires_at is not None  # written with the attempt
    bill = Bill(
        reference=payment.reference,
        attempt=payment.attempt,
        amount_cents=payment.amount_cents,
        currency=payment.currency,
        title=f"{TIERS[payment.order.tier].name} pack, {payment.order.headshots} headshots",
        expires_at=payment.checkout_expires_at,
        success_url=pages.success_url,
        cancel_url=pages.cancel_url,
    )
    this_attempt = Payment.objects.filter(pk=payment.pk, attempt=payment.attempt)
    try:
        checkout = provider.open_checkout(bill)
    except (ProviderRefused, ProviderBroke):
        # The next click is a new attempt: the same one would get the same answer, for a day. A page that was
        # opened all the same was given to nobody; one that another tab was given stands.
        this_attempt.filter(checkout_id="").update(checkout_state=Payment.CheckoutState.FAILED)
        raise
    written = this_attempt.filter(checkout_id="").update(
        checkout_id=checkout.id, checkout_state=Payment.CheckoutState.OPEN, look_at=now + LOOK_AFTER
    )
    if not (written or this_attempt.filter(checkout_id=checkout.id).exists()):
        raise ProviderAway("attempt_is_over")  # another tab had an error and began anew: its page stands
    return checkout


def _begin_attempt(payment: Payment, now: datetime) -> None:
    """Number a new attempt; of two tabs at one moment the second goes on with the first one's."""
    as_read = Payment.objects.filter(
        pk=payment.pk,
        attempt=payment.attempt,
        checkout_id=payment.checkout_id,
        checkout_state=payment.checkout_state,
    )
    as_read.update(
        attempt=payment.attempt + 1,
        checkout_id="",
        checkout_state=Payment.CheckoutState.OPEN,
        checkout_expires_at=now.replace(microsecond=0) + PAGE_LIFE,
    )
    payment.refresh_from_db()


# --- how an attempt went ----------------------------------------------------------------------------------


def settle(checkout: Checkout, *, provider: str, event_id: str, now: datetime) -> Outcome:
    """Have what a provider says of an attempt its effect, once; an order that is paid by it starts."""
    return payments.once(
        provider=provider, event_id=event_id, effect=lambda: apply(checkout, provider, now), now=now
    )


def apply(checkout: Checkout, provider: str, now: datetime) -> Outcome:
    """The effect of an attempt's state, in the caller's transaction; states only ever move on."""
    payment = Payment.objects.filter(provider=provider, reference=checkout.reference).first()
    if payment is None:
        return Outcome.FOREIGN
    if problem := _difference(payment, checkout):
        return payments.mismatch(payment, problem, now)
    if checkout.status is CheckoutStatus.PAID:
        return payments.take(payment, checkout.charge_reference, now)
    if state := _NOTED.get(checkout.status):
        return note(payment, checkout.id, state)
    return Outcome.NOTHING_NEW


def note(payment: Payment, checkout_id: str, state: Payment.CheckoutState) -> Outcome:
    """Remember that an attempt moved on; NOTHING_NEW for one that is over, or is not the newest."""
    before = _STANDS if state != Payment.CheckoutState.PROCESSING else (Payment.CheckoutState.OPEN,)
    noted = Payment.objects.filter(
        pk=payment.pk, state=Payment.State.OPEN, checkout_id=checkout_id, checkout_state__in=before
    ).update(checkout_state=state)
    return Outcome.NOTED if noted else Outcome.NOTHING_NEW


def _difference(payment: Payment, checkout: Checkout) -> str:
    """What of an attempt is not as our own record has it; empty when all is.

    Only for paid ones the id must be the newest attempt's: older ones end after it began, and that is fine.
    An empty id of ours is that of a database put back from an older copy.
    """
    is_paid = checkout.status is CheckoutStatus.PAID
    differs = {
        "amount": checkout.amount_cents != payment.amount_cents,
        "currency": checkout.currency != payment.currency,
        "mode": payment.provider == "stripe" and checkout.is_live != settings.STRIPE_IS_LIVE,
        "checkout": is_paid and payment.checkout_id not in ("", checkout.id),
        "charge": is_paid and payment.charge_reference not in ("", checkout.charge_reference),
        "charge_reference": is_paid and not checkout.charge_reference,
    }
    return next((what for what, is_different in differs.items() if is_different), "")
