"""What is said to a provider of payments and what it answers; plain values, no library's objects."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from pipelines.errors import Final as FinalError
from pipelines.errors import Retryable


class ProviderAway(Retryable):
    """The provider could not be reached, or could not say: what was asked may have happened, or not."""


class ProviderBroke(ProviderAway):
    """The provider answered that it broke, and gives the same answer to the same request for long."""


class ProviderRefused(FinalError):
    """The provider understood and refused; `code` is its own short code. Nothing happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """One attempt at one payment. The same reference and attempt always come with the same other values."""

    reference: str  # names the payment at the provider; says nothing about the person
    attempt: int  # from 1
    amount_cents: int
    currency: str  # three small letters
    title: str
    expires_at: datetime  # nobody can pay after that
    success_url: str
    cancel_url: str


class CheckoutStatus(StrEnum):
    OPEN = "open"  # waits for its customer
    PROCESSING = "processing"  # the customer is through, the money is not
    PAID = "paid"
    EXPIRED = "expired"  # can never be paid any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """The provider's page for one attempt, as it stands. `url` is empty unless it is open."""

    id: str
    status: CheckoutStatus
    url: str
    reference: str
    amount_cents: int
    currency: str
    charge_reference: str  # what a refund is asked for by; empty before anything was paid
    is_live: bool  # real money


@dataclass(frozen=True, slots=True, kw_only=True)
class Return:
    """Money that is to go back. `sequence` numbers the refunds of one payment, from 1."""

    reference: str
    sequence: int
    charge_reference: str
    amount_cents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """A refund as the provider has it; `failure` is a short code when the money did not arrive."""

    id: str
    failure: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenBack:
    """Cents of one charge that are with the customer again, or on their way; of them, those not by us."""

    total_cents: int
    outside_cents: int


class Provider(Protocol):
    """Every call may raise ProviderAway (ask again, with the same values) and ProviderRefused.

    Asked twice with the same values, a provider does once what was asked, and gives the same answer.
    """

    @property
    def is_immediate(self) -> bool:
        """Whether it answers without a network, and so may be asked inside of a transaction."""

    @property
    def checkout_origins(self) -> Sequence[str]:
        """Where its pages are, besides ours: origins that our forms may lead to."""

    def open_checkout(self, bill: Bill) -> Checkout:
        """A page where this attempt can be paid."""

    def look_up(self, checkout_id: str) -> Checkout:
        """How an attempt stands now."""

    def close_checkout(self, checkout_id: str) -> None:
        """Nobody can pay this attempt any more. Raises ProviderRefused when somebody has."""

    def send_back(self, refund: Return) -> Returned:
        """Give money back."""

    def find_returned(self, refund: Return) -> Returned | None:
        """The refund of that payment and sequence, if the provider has it: however long ago it was asked."""

    def given_back(self, charge_reference: str) -> GivenBack:
        """What went back of a charge until now, whoever asked for it."""

    def reference_of(self, charge_reference: str) -> str:
        """Which payment of ours a charge belongs to; empty when it is none of ours."""
