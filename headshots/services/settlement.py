"""The pass that talks to the provider: refunds that are due, pages to close, payments that no event came for.

Every step may be repeated, by two processes at once too: rows are claimed for a while, and the provider does
once what it is asked twice. Nothing here is waited for by a deletion.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q, QuerySet

from headshots.models import Dispute, Payment, Refund
from headshots.payments import provider as provider_named
from headshots.payments.types import CheckoutStatus, Provider, ProviderAway, ProviderRefused, Returned
from headshots.services import audit, checkouts, payments
from headshots.services.payments import Outcome
from headshots.states import LIVE_STATES

log = logging.getLogger(__name__)

PATIENCE: Final = 5  # questions without an answer, after which a pass leaves the rest to the next
LIMIT: Final = 100  # of each kind in one pass, which a task's time limit must suffice for
# Longer than one request may take with its retry; then doubled until it is an hour.
FIRST_PAUSE: Final = timedelta(seconds=60)
LONGEST_PAUSE: Final = timedelta(hours=1)
LOOK_INTERVAL: Final = timedelta(minutes=5)


@dataclass(slots=True, kw_only=True)
class Settled:
    """What one pass did; `delayed` refunds are tried again later."""

    sent: int = 0
    failed: int = 0
    delayed: int = 0
    looked_up: int = 0
    found_paid: int = 0
    unanswered: int = 0

    @property
    def is_worth_a_line(self) -> bool:
        """Whether an operator would want to read of it."""
        return bool(self.sent or self.failed or self.delayed or self.found_paid)


def run(now: datetime) -> Settled:
    """One pass over what the provider of this installation is to be told or asked; nothing in test mode."""
    settled = Settled()
    provider = provider_named(settings.PAYMENTS)
    if provider.is_immediate:
        return settled
    for refund in _due(now)[:LIMIT]:
        if settled.unanswered < PATIENCE:
            _send(provider, refund, now, settled)
    for payment in _unsettled(now)[:LIMIT]:
        if settled.unanswered < PATIENCE:
            _look_up(provider, payment, now, settled)
    paid = Payment.objects.filter(provider=settings.PAYMENTS, state=Payment.State.PAID, look_at__lte=now)
    for payment in paid.order_by("look_at", "pk")[:LIMIT]:
        if settled.unanswered < PATIENCE:
            _look_for_outside_refunds(provider, payment, now, settled)
    return settled


# --- refunds ----------------------------------------------------------------------------------------------


def _due(now: datetime) -> QuerySet[Refund]:
    """Refunds to send; while a dispute is open the provider takes none."""
    disputed = Dispute.objects.filter(state=Dispute.State.OPEN).values("payment")
    due = Refund.objects.filter(
        state=Refund.State.DUE,
        not_before__lte=now,
        payment__provider=settings.PAYMENTS,
        payment__state=Payment.State.PAID,
    )
    return due.exclude(payment__in=disputed).select_related("payment__order").order_by("not_before", "pk")


def _send(provider: Provider, refund: Refund, now: datetime, settled: Settled) -> None:
    if Dispute.objects.filter(payment=refund.payment, state=Dispute.State.LOST).exists():
        payments.fail_refund(refund, "dispute_lost", now)  # the bank has given the money back already
        settled.failed += 1
        return
    pause = min(FIRST_PAUSE * 2 ** min(refund.attempts, 10), LONGEST_PAUSE)
    claimed = Refund.objects.filter(
        pk=refund.pk, state=Refund.State.DUE, attempts=refund.attempts, not_before__lte=now
    ).update(attempts=F("attempts") + 1, not_before=now + pause)
    if not claimed:
        return
    try:
        returned = _asked(provider, refund, now)
    except ProviderAway as error:
        log.warning("refund %s could not be sent yet: %s", refund.pk, error.code)
        settled.delayed += 1
        settled.unanswered += 1
        return
    except ProviderRefused as error:  # also to be asked about it
        payments.refuse_refund(refund, error.code, 0, now)
        settled.failed += 1
        return
    if returned is None:
        settled.failed += 1
        return
    settled.sent += _mark(refund, returned, now)
    settled.failed += bool(returned.failure)


def _asked(provider: Provider, refund: Refund, now: datetime) -> Returned | None:
    """The provider's refund for ours; None when it refused. Raises ProviderAway: ask again.

    From the second time on the refund may exist, and its key be forgotten.
    """
    wanted = payments.return_of(refund)
    if refund.attempts and (found := provider.find_returned(wanted)):
        return found
    try:
        return provider.send_back(wanted)
    except ProviderRefused as error:
        given = provider.given_back(wanted.charge_reference)
        payments.refuse_refund(refund, error.code, refund.payment.amount_cents - given.total_cents, now)
        return None


@transaction.atomic
def _mark(refund: Refund, returned: Returned, now: datetime) -> bool:
    """Record a refund the provider has; False when it failed, or an event was faster."""
    sent = Refund.objects.filter(pk=refund.pk, state=Refund.State.DUE).update(
        state=Refund.State.SENT, provider_id=returned.id, sent_at=now
    )
    if sent:
        audit.record(
            "refund.sent",
            actor=refund.payment.provider,
            reference=refund.payment.order.receipt_id,
            now=now,
            sequence=refund.sequence,
            cents=refund.amount_cents,
        )
    if returned.failure:
        payments.fail_refund(refund, returned.failure, now, provider_id=returned.id)
        return False
    return bool(sent)


# --- checkouts --------------------------------------------------------------------------------------------


def _unsettled(now: datetime) -> QuerySet[Payment]:
    """Open payments with a page that somebody may have paid: long enough ago, or for an order that ended."""
    standing = Payment.objects.filter(
        provider=settings.PAYMENTS,
        state=Payment.State.OPEN,
        checkout_state__in=(Payment.CheckoutState.OPEN, Payment.CheckoutState.PROCESSING),
    ).exclude(checkout_id="")
    has_ended = ~Q(order__state__in=LIVE_STATES) & Q(checkout_state=Payment.CheckoutState.OPEN)
    return standing.filter(Q(look_at__lte=now) | has_ended).select_related("order").order_by("look_at", "pk")


def _look_up(provider: Provider, payment: Payment, now: datetime, settled: Settled) -> None:
    Payment.objects.filter(pk=payment.pk).update(look_at=now + LOOK_INTERVAL)
    settled.looked_up += 1
    try:
        checkout = provider.look_up(payment.checkout_id)
        if checkout.status is CheckoutStatus.OPEN and payment.order.state not in LIVE_STATES:
            provider.close_checkout(checkout.id)
            checkouts.note(payment, checkout.id, Payment.CheckoutState.EXPIRED)
            return
    except (ProviderAway, ProviderRefused) as error:
        log.warning("payment %s could not be looked up: %s", payment.pk, error.code)
        settled.unanswered += 1
        return
    event_id = f"looked-up-{checkout.status}-{payment.reference}-{payment.attempt}"
    outcome = checkouts.settle(checkout, provider=payment.provider, event_id=event_id, now=now)
    settled.found_paid += outcome is Outcome.TAKEN


def _look_for_outside_refunds(provider: Provider, payment: Payment, now: datetime, settled: Settled) -> None:
    """Once for each payment, and whenever an event says that something went back, or did not arrive."""
    this_payment = Payment.objects.filter(pk=payment.pk)
    again_at = now + LOOK_INTERVAL
    if not this_payment.filter(look_at=payment.look_at).update(look_at=again_at):
        return
    try:
        given = provider.given_back(payment.charge_reference)
    except (ProviderAway, ProviderRefused) as error:
        log.warning("refunds of payment %s could not be looked up: %s", payment.pk, error.code)
        settled.unanswered += 1
        return
    with transaction.atomic():
        # Unless an event came meanwhile: what was read may be older than it, and is looked for again.
        if this_payment.filter(look_at=again_at).update(look_at=None):
            payments.record_outside_refunds(payment, given.outside_cents, now)
