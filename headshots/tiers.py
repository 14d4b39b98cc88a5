"""What each tier is: the one table that pages, API, services and workers read."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One thing a customer can choose. `style_slugs` None means every published style."""

    slug: str
    name: str
    headshots: int
    style_slugs: tuple[str, ...] | None
    long_edge: int
    is_watermarked: bool
    price_cents: int
    licence: str
    promise: str

    @property
    def price(self) -> str:
        """The price as a customer reads it: "$19", "$19.50" or "Free"."""
        if not self.price_cents:
            return "Free"
        dollars, cents = divmod(self.price_cents, 100)
        return f"${dollars}.{cents:02d}" if cents else f"${dollars}"


CURRENCY: Final = "usd"

TIERS: Final[dict[str, Tier]] = {
    tier.slug: tier
    for tier in (
        Tier(
            slug="free",
            name="Free",
            headshots=3,
            style_slugs=("corporate",),
            long_edge=1152,
            is_watermarked=True,
            price_cents=0,
            licence="Personal, non-commercial use",
            promise="in about a minute",
        ),
        Tier(
            slug="premium",
            name="Premium",
            headshots=50,
            style_slugs=None,
            long_edge=3840,
            is_watermarked=False,
            price_cents=1900,
            licence="Full commercial licence",
            promise="in 4 to 6 minutes",
        ),
    )
}
