"""What an order needs before its photo is looked at: room for its network and its mail address, and if it is
free, work."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from django.conf import settings

from headshots.services import challenges, limits
from headshots.services.networks import Hops, network_of
from headshots.tiers import Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Who sends an order over the network: the network it comes from, and the solved challenge it brings."""

    network: str = field(repr=False)
    solution: str = field(default="", repr=False)

    @classmethod
    def of(cls, meta: dict[str, str], solution: str) -> Self:
        """The visitor behind a request's WSGI environment."""
        return cls(network=network_of(Hops.of(meta), settings.TRUSTED_PROXIES), solution=solution)


def admit(visitor: Visitor, tier: Tier, now: datetime, address: str) -> None:
    """Let a visitor's order on to the costly part.

    Raises TooMany, and Refusal as `challenges.spend` does. The challenge is used up whatever comes then; the
    order is counted by `count` alone.
    """
    limits.require_room(visitor.network, tier, now, address)
    if not tier.price_cents:
        challenges.spend(visitor.solution, now)


def count(visitor: Visitor, tier: Tier, now: datetime, address: str) -> None:
    """Count a visitor's order in the transaction that writes it. Raises TooMany: nothing is written then."""
    limits.count(visitor.network, tier, now, address)
