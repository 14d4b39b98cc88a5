"""Stripe's webhook: the signature over the raw bytes, then the few kinds of events that concern us."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ValidationError

from headshots.payments.stripe_objects import Charge, Dispute, RefundObject, Session, StripeEvent

TOLERANCE_SECONDS: Final = 300  # Stripe's own: older ones may be replayed by whoever recorded them

KINDS: Final[Mapping[str, type[BaseModel]]] = {
    "checkout.session.completed": Session,
    "checkout.session.async_payment_succeeded": Session,
    "checkout.session.async_payment_failed": Session,
    "checkout.session.expired": Session,
    "charge.refunded": Charge,
    "refund.failed": RefundObject,
    "charge.dispute.created": Dispute,
    "charge.dispute.closed": Dispute,
}
"""What each kind of event is about; the endpoint at Stripe is to be subscribed to exactly these."""


class BadEvent(ValueError):
    """Not from Stripe, too old, or not readable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A verified event. `about` is an object of the class that KINDS has for `kind`."""

    id: str
    kind: str
    is_live: bool
    about: BaseModel


def read_event(body: bytes, signature: str, secret: str) -> Event | None:
    """The event in a webhook's body; None for a kind that does not concern us. Raises BadEvent."""
    import stripe

    try:
        stripe.WebhookSignature.verify_header(body, signature, secret, TOLERANCE_SECONDS)
    except (stripe.SignatureVerificationError, TypeError, ValueError):  # also bytes that are no text
        raise BadEvent("signature") from None
    try:
        event = StripeEvent.model_validate_json(body)
        if event.type not in KINDS:
            return None
        about = KINDS[event.type].model_validate(event.data.object)
    except ValidationError:
        raise BadEvent("content") from None
    return Event(id=event.id, kind=event.type, is_live=event.livemode, about=about)
