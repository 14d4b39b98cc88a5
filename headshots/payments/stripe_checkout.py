"""Stripe, by its own SDK: Checkout Sessions and refunds, every request with an idempotency key of ours.

Stripe learns an amount, a title and ids; who the customer is they tell Stripe themselves, and not us.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from pydantic import ValidationError

from headshots.payments.stripe_objects import METADATA_PAYMENT, METADATA_SEQUENCE, RefundObject, Session
from headshots.payments.types import (
    Bill,
    Checkout,
    GivenBack,
    ProviderAway,
    ProviderBroke,
    ProviderRefused,
    Return,
    Returned,
)

if TYPE_CHECKING:
    from stripe import StripeClient
    from stripe.params import RefundCreateParams
    from stripe.params.checkout import SessionCreateParams

ResultT = TypeVar("ResultT")

HOSTED_ORIGIN: Final = "https://checkout.stripe.com"
TIMEOUT_SECONDS: Final = 10.0  # a customer may be waiting; Stripe answers in less than one
NETWORK_RETRIES: Final = 1  # inside of one call, by the SDK; what still fails is asked again by its caller
# Refusals that end without our doing: a dispute is decided, a balance is filled, another request ends.
PASSING: Final = frozenset(
    {
        *("balance_insufficient", "insufficient_funds", "charge_disputed"),
        *("idempotency_key_in_use", "lock_timeout", "rate_limit"),
    }
)


class StripeCheckout:
    """One client for the whole process; requests of several threads do not disturb each other."""

    is_immediate = False

    def __init__(self, *, secret_key: str, api_base: str) -> None:
        self._secret_key = secret_key
        self._api_base = api_base

    @property
    def checkout_origins(self) -> Sequence[str]:
        """Stripe's own page, or the stand-in's."""
        if not self._api_base:
            return (HOSTED_ORIGIN,)
        parts = urlsplit(self._api_base)
        return (f"{parts.scheme}://{parts.netloc}",)

    @cached_property
    def _client(self) -> "StripeClient":
        import stripe  # here, so that a service in test mode never pays for it

        stripe.enable_telemetry = False  # else the SDK keeps a machine's number and sends timings along
        return stripe.StripeClient(
            self._secret_key,
            base_addresses={"api": self._api_base} if self._api_base else None,
            max_network_retries=NETWORK_RETRIES,
            http_client=stripe.RequestsClient(timeout=TIMEOUT_SECONDS),
        )

    def open_checkout(self, bill: Bill) -> Checkout:
        """A hosted page for one card payment.

        Cards and the wallets over them alone: a bank debit takes days, and the photo lives for one.
        """
        metadata = {METADATA_PAYMENT: bill.reference}
        params: SessionCreateParams = {
            "mode": "payment",
            "allowed_payment_method_types": ["card"],
            "adaptive_pricing": {"enabled": False},  # else what is charged is not what our record says
            "client_reference_id": bill.reference,
            "metadata": metadata,
            "payment_intent_data": {"metadata": metadata},
            "line_items": [
                {
                    "quantity": 1,
                    "price_data": {
                        "currency": bill.currency,
                        "unit_amount": bill.amount_cents,
                        "product_data": {"name": bill.title},
                    },
                }
            ],
            "expires_at": int(bill.expires_at.timestamp()),
            "success_url": bill.success_url,
            "cancel_url": bill.cancel_url,
        }
        key = f"hs-checkout-{bill.reference}-{bill.attempt}"
        sessions = self._client.v1.checkout.sessions
        return self._session(lambda: sessions.create(params, {"idempotency_key": key}))

    def look_up(self, checkout_id: str) -> Checkout:
        """The session as Stripe has it now."""
        return self._session(lambda: self._client.v1.checkout.sessions.retrieve(checkout_id))

    def close_checkout(self, checkout_id: str) -> None:
        """Expire the session. Raises ProviderRefused when it is not open any more."""
        with _translated():
            self._client.v1.checkout.sessions.expire(
                checkout_id, options={"idempotency_key": f"hs-close-{checkout_id}"}
            )

    def send_back(self, refund: Return) -> Returned:
        """Create the refund.

        Stripe answers a repeated key as it did the first time, also with a server's error, and forgets keys
        after a day or more; so whoever asks again looks with `find_returned` first.
        """
        params: RefundCreateParams = {
            "payment_intent": refund.charge_reference,
            "amount": refund.amount_cents,
            "metadata": {METADATA_PAYMENT: refund.reference, METADATA_SEQUENCE: str(refund.sequence)},
        }
        key = f"hs-refund-{refund.reference}-{refund.sequence}"
        with _translated():
            created = self._client.v1.refunds.create(params, {"idempotency_key": key})
            return RefundObject.model_validate(created.to_dict()).returned()

    def find_returned(self, refund: Return) -> Returned | None:
        """Found by the metadata that `send_back` gave it, among all refunds of the charge."""
        wanted = {METADATA_PAYMENT: refund.reference, METADATA_SEQUENCE: str(refund.sequence)}
        for found in self._refunds(refund.charge_reference):
            if wanted.items() <= found.metadata.items():
                return found.returned()
        return None

    def given_back(self, charge_reference: str) -> GivenBack:
        """Ours are those with our metadata."""
        arrived = [each for each in self._refunds(charge_reference) if not each.returned().failure]
        outside = [each for each in arrived if METADATA_SEQUENCE not in each.metadata]
        return GivenBack(
            total_cents=sum(each.amount for each in arrived),
            outside_cents=sum(each.amount for each in outside),
        )

    def _refunds(self, charge_reference: str) -> list[RefundObject]:
        with _translated():
            listed = self._client.v1.refunds.list({"payment_intent": charge_reference, "limit": 100})
            return [RefundObject.model_validate(each.to_dict()) for each in listed.auto_paging_iter()]

    def reference_of(self, charge_reference: str) -> str:
        """Read from the payment intent's metadata."""
        with _translated():
            intent = self._client.v1.payment_intents.retrieve(charge_reference).to_dict()
        return str((intent.get("metadata") or {}).get(METADATA_PAYMENT, ""))

    def _session(self, ask: Callable[[], Any]) -> Checkout:
        with _translated():
            checkout = Session.model_validate(ask().to_dict()).checkout()
        if checkout.url and not checkout.url.startswith(tuple(f"{each}/" for each in self.checkout_origins)):
            raise ProviderRefused("foreign_checkout_url")  # our policy would not let the customer go there
        return checkout


@contextmanager
def _translated() -> Iterator[None]:
    """Stripe's errors as ours. None of their texts is kept: they may repeat what was sent."""
    import stripe

    try:
        yield
    except (stripe.InvalidRequestError, stripe.CardError) as error:
        code = error.code or "invalid_request"
        if code in PASSING:
            raise ProviderAway(code) from None
        raise ProviderRefused(code) from None
    except (stripe.AuthenticationError, stripe.PermissionError):
        raise ProviderAway("stripe_key_refused") from None  # the operator mends the key: nothing is lost
    except stripe.StripeError as error:  # no connection, 409, 429, 5xx
        is_broken = (error.http_status or 0) >= 500
        away = ProviderBroke if is_broken else ProviderAway
        raise away(error.code or f"stripe_{error.http_status or 'unreachable'}") from None
    except ValidationError:
        raise ProviderAway("stripe_answer_unreadable") from None
