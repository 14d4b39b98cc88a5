"""The embedded provider: a test. Its page says TEST, no card exists, and every bill is paid at once."""

from collections.abc import Sequence

from headshots.payments.types import (
    Bill,
    Checkout,
    CheckoutStatus,
    GivenBack,
    ProviderRefused,
    Return,
    Returned,
)


class TestCheckout:
    """Keeps nothing: all that it would know is in what it is asked."""

    __test__ = False  # pytest looks at the name

    is_immediate = True
    checkout_origins: Sequence[str] = ()

    def open_checkout(self, bill: Bill) -> Checkout:
        """The bill, paid."""
        return Checkout(
            id=f"test-{bill.reference}",
            status=CheckoutStatus.PAID,
            url="",
            reference=bill.reference,
            amount_cents=bill.amount_cents,
            currency=bill.currency,
            charge_reference=f"test-{bill.reference}",
            is_live=False,
        )

    def look_up(self, checkout_id: str) -> Checkout:
        """Raises ProviderRefused: nothing is kept."""
        raise ProviderRefused("resource_missing")

    def close_checkout(self, checkout_id: str) -> None:
        """There is nothing to close."""

    def send_back(self, refund: Return) -> Returned:
        """No money moved, so none has to."""
        return Returned(id=f"test-{refund.reference}-{refund.sequence}", failure="")

    def find_returned(self, refund: Return) -> Returned | None:
        """As `send_back`."""
        return self.send_back(refund)

    def given_back(self, charge_reference: str) -> GivenBack:
        """Nobody but us gives anything back, and we have it in our rows."""
        return GivenBack(total_cents=0, outside_cents=0)

    def reference_of(self, charge_reference: str) -> str:
        """The reference stands in the charge's name."""
        return charge_reference.removeprefix("test-")
