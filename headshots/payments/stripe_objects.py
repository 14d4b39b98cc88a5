"""The few fields of Stripe's objects that we read, checked: a payload without them is refused whole.

https://docs.stripe.com/api/checkout/sessions/object, and the same for charge, refund, dispute and event.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeInt

from headshots.payments.types import Checkout, CheckoutStatus, Returned

METADATA_PAYMENT = "payment"
METADATA_SEQUENCE = "sequence"


def _id_of(value: object) -> object:
    """Stripe gives an object's id, or on request the whole object in its place."""
    if value is None:
        return ""
    return value.get("id", "") if isinstance(value, Mapping) else value


Id = Annotated[str, Field(max_length=255), BeforeValidator(_id_of)]
Metadata = Annotated[dict[str, str], BeforeValidator(lambda value: value or {})]


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Session(_Read):
    """A Checkout Session."""

    id: Annotated[str, Field(min_length=1, max_length=255)]
    status: Literal["open", "complete", "expired"] | None
    payment_status: Literal["unpaid", "paid", "no_payment_required"]
    client_reference_id: Id
    amount_total: NonNegativeInt
    currency: str
    payment_intent: Id
    livemode: bool
    metadata: Metadata
    url: Annotated[str, BeforeValidator(lambda value: value or "")] = ""

    def checkout(self) -> Checkout:
        """As the services know it. Both places of our reference must agree, or it is none of ours."""
        is_ours = self.metadata.get(METADATA_PAYMENT) == self.client_reference_id
        return Checkout(
            id=self.id,
            status=self._status(),
            url=self.url if self.status == "open" else "",
            reference=self.client_reference_id if is_ours else "",
            amount_cents=self.amount_total,
            currency=self.currency,
            charge_reference=self.payment_intent,
            is_live=self.livemode,
        )

    def _status(self) -> CheckoutStatus:
        if self.payment_status == "paid":
            return CheckoutStatus.PAID
        if self.status == "complete":
            return CheckoutStatus.PROCESSING
        return CheckoutStatus.OPEN if self.status == "open" else CheckoutStatus.EXPIRED


class Charge(_Read):
    """A charge, for what was given back of it."""

    payment_intent: Id
    amount: NonNegativeInt
    amount_refunded: NonNegativeInt
    currency: str
    metadata: Metadata


class RefundObject(_Read):
    """A refund, ours or one made by hand at Stripe."""

    id: Annotated[str, Field(min_length=1, max_length=255)]
    status: Literal["pending", "requires_action", "succeeded", "failed", "canceled"] | None
    amount: NonNegativeInt
    currency: str
    payment_intent: Id
    metadata: Metadata
    failure_reason: str | None = None

    def returned(self) -> Returned:
        """As the services know it."""
        has_failed = self.status in ("failed", "canceled")
        return Returned(id=self.id, failure=(self.failure_reason or self.status or "") if has_failed else "")


class Dispute(_Read):
    """A customer's bank asking for the money back, or asking about it."""

    id: Annotated[str, Field(min_length=1, max_length=255)]
    payment_intent: Id
    amount: NonNegativeInt
    currency: str
    status: str


class _Data(_Read):
    object: dict[str, Any]


class StripeEvent(_Read):
    """One event; what it is about stays as it came until its kind says how to read it."""

    id: Annotated[str, Field(min_length=1, max_length=100)]
    object: Literal["event"]
    type: str
    livemode: bool
    data: _Data
