"""Who takes the money: one protocol, and behind it a test without money, or Stripe. Knows no rows."""

from functools import cache

from django.conf import settings

from headshots.payments.stripe_checkout import StripeCheckout
from headshots.payments.test_checkout import TestCheckout
from headshots.payments.types import Provider


@cache
def provider(name: str) -> Provider:
    """The provider of that name. Raises KeyError for one that this installation is not set up for.

    A payment that was opened in the test mode stays one: it cannot be "paid" once real money is taken.
    """
    if name != settings.PAYMENTS:
        raise KeyError(name)
    if name == "test":
        return TestCheckout()
    return StripeCheckout(secret_key=settings.STRIPE_SECRET_KEY, api_base=settings.STRIPE_API_BASE)
