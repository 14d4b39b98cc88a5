"""Paying: the bill, the way to the provider and back, and the provider's own calls.

Coming back proves nothing: these pages only ever show what the rows say, and the rows change by events.
"""

from datetime import datetime
from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt

from headshots.exceptions import Refusal, text_of
from headshots.models import Order, Payment
from headshots.payments.stripe_events import BadEvent, read_event
from headshots.payments.types import ProviderAway
from headshots.services import checkouts, clock, licences, payment_events, payments, progress
from headshots.services.checkouts import Pages
from headshots.web import pages
from headshots.web.order_views import STOP_POLLING, dollars, private

SLOW_SECONDS: Final = 60  # events come within seconds; then we say that it takes long
_HEADINGS: Final = {
    "open": "We wait for the confirmation of your payment",
    "processing": "Your bank is still working on the payment",
    "failed": "The payment did not go through",
    "expired": "The payment page has closed",
    "over": "This order is not waiting for a payment",
}
MAX_EVENT_BYTES: Final = 512 * 1024  # Stripe's largest are a good deal smaller


@private("GET", "POST")
def checkout(request: HttpRequest, order: Order, now: datetime) -> HttpResponseBase:
    """The bill; its button leads to the provider, or in test mode stands for the provider's event."""
    payment = checkouts.require_open(order, now)
    if request.method == "POST":
        if url := checkouts.hand_over(order, Pages.of(order), now):
            return redirect(url)
        payment.refresh_from_db()
        return redirect("order" if payment.state == Payment.State.PAID else "checkout-return", order.pk)
    context = {
        "order": progress.view(order, now),
        "amount": dollars(payment.amount_cents),
        "licence": licences.grant(order, now),
        "has_come_back": "unpaid" in request.GET,
        "attempt_state": payment.checkout_state if payment.attempt else "",
    }
    return render(request, "web/checkout.html", context)


@private("GET")
def returned(request: HttpRequest, order: Order, now: datetime) -> HttpResponseBase:
    """Back from the provider: wait here until its event has come, or until it is known to have failed."""
    payment = payments.payment_of(order)
    if payment.state == Payment.State.PAID:
        return redirect("order", order.pk)
    return render(request, "web/checkout_return.html", _waiting(order, payment, request, now))


@private("GET")
def status_part(request: HttpRequest, order: Order, now: datetime) -> HttpResponseBase:
    """The part of that page that changes; 204 while it is as the page has it already."""
    payment = payments.payment_of(order)
    if payment.state == Payment.State.PAID:
        response = HttpResponse(status=STOP_POLLING)
        response["HX-Redirect"] = reverse("order", args=(order.pk,))
        return response
    context = _waiting(order, payment, request, now)
    if context["seen"] == request.GET.get("seen"):
        return HttpResponse(status=204)
    status = 200 if context["is_waiting"] else STOP_POLLING
    return render(request, "web/checkout_status.html", {**context, "is_update": True}, status=status)


def _waiting(order: Order, payment: Payment, request: HttpRequest, now: datetime) -> dict[str, Any]:
    since = request.GET.get("since", "")
    started = int(since) if since.isdecimal() and len(since) <= 12 else int(now.timestamp())
    is_slow = now.timestamp() - started >= SLOW_SECONDS
    state = payment.checkout_state if order.state in payments.PAYABLE_STATES else "over"
    is_waiting = state in (Payment.CheckoutState.OPEN, Payment.CheckoutState.PROCESSING)
    return {
        "order_id": order.pk,
        "amount": dollars(payment.amount_cents),
        "state": state,
        "heading": _HEADINGS[state],
        "is_waiting": is_waiting,
        "is_slow": is_slow,
        "since": started,
        "seen": f"{state}-slow" if is_slow and is_waiting else str(state),
    }


@csrf_exempt
@pages.answers("POST")
def stripe_webhook(request: HttpRequest) -> HttpResponseBase:
    """Stripe's events: 200 once they had their effect or need none, 400 if not Stripe's, 503 to come again.

    Not there at all in test mode.
    """
    if settings.PAYMENTS != payment_events.PROVIDER:
        raise Refusal("page_not_found")
    if int(request.META.get("CONTENT_LENGTH") or 0) > MAX_EVENT_BYTES:
        return _answer("too_large", 413)
    signature = request.headers.get("Stripe-Signature", "")
    try:
        event = read_event(request.body, signature, settings.STRIPE_WEBHOOK_SECRET)
        outcome = payment_events.receive(event, clock.now()) if event else "not_ours"
    except BadEvent as error:
        return _answer(f"bad_{error}", 400)
    except ProviderAway as error:
        return _answer(error.code, 503)
    except Refusal as refused:
        return _answer(refused.code, text_of(refused).status)
    return _answer(str(outcome).replace(" ", "_"), 200)


def _answer(outcome: str, status: int) -> JsonResponse:
    return JsonResponse({"outcome": outcome}, status=status, headers={"Cache-Control": "no-store"})
