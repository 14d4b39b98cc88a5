"""What each tier is: the one table that pages, API, services and workers read."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One thing a customer can choose. `style_slugs` None means every published style.

    `spares` are planned on top of the promised `headshots`, so that the best of all can be delivered; see
    `services.guarantee`. `redos` is how many delivered pictures a customer may have made again; see
    `services.redo`.

    The last block says how its orders share the GPUs; `services.fair_queue` reads it. Between tiers that
    both wait, work is divided by `weight`. On top of its slots a worker has `reserved_share` as many places
    for the tier alone. An order that waited longer than `patience_seconds` goes first. `in_flight_cap` is
    how many shots of one order may be in flight while another order waits. An order that could not be ready
    within `longest_wait_seconds` is not taken; None leaves only its 24 hours.
    """

    slug: str
    name: str
    headshots: int
    spares: int
    redos: int
    style_slugs: tuple[str, ...] | None
    long_edge: int
    is_watermarked: bool
    price_cents: int
    licence: str
    promise: str

    weight: int
    reserved_share: float
    patience_seconds: int
    in_flight_cap: int
    longest_wait_seconds: int | None

    @property
    def planned(self) -> int:
        """How many shots an order begins with: the promised headshots and the spares."""
        return self.headshots + self.spares

    @property
    def price(self) -> str:
        """The price as a customer reads it: "$19", "$19.50" or "Free"."""
        if not self.price_cents:
            return "Free"
        dollars, cents = divmod(self.price_cents, 100)
        return f"${dollars}.{cents:02d}" if cents else f"${dollars}"


CURRENCY: Final = "usd"

# The shares are chosen by simulation (tests/bench/queueing.py): of the settings that keep a free order from
# ever waiting for a pack, these cost premium orders the least.
TIERS: Final[dict[str, Tier]] = {
    tier.slug: tier
    for tier in (
        Tier(
            slug="free",
            name="Free",
            headshots=3,
            spares=0,  # a picture that fails the gate is redone from its next seeds, as everywhere
            redos=1,
            style_slugs=("corporate",),
            long_edge=1152,
            is_watermarked=True,
            price_cents=0,
            licence="Personal, non-commercial use",
            promise="in about a minute",
            weight=2,
            reserved_share=3 / 8,  # one whole pack on a worker of eight slots
            patience_seconds=120,
            in_flight_cap=3,
            longest_wait_seconds=600,
        ),
        Tier(
            slug="premium",
            name="Premium",
            headshots=50,
            spares=10,
            redos=10,
            style_slugs=None,
            long_edge=3840,
            is_watermarked=False,
            price_cents=1900,
            licence="Full commercial licence",
            promise="in 4 to 6 minutes",
            weight=1,
            reserved_share=0.0,
            patience_seconds=360,  # the promise
            in_flight_cap=24,
            longest_wait_seconds=None,
        ),
    )
}
