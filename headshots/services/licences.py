"""The licences of the tiers, each a dated text, and the copy of one that an order was placed with.

A changed text gets a new version. What an order bought is the text in its grant, whatever is written here
afterwards.
"""

import hashlib
import textwrap
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from headshots.exceptions import Refusal
from headshots.models import LicenceGrant, Order
from headshots.services import signing
from headshots.tiers import TIERS

FILE_NAME: Final = "LICENCE.txt"
WIDTH: Final = 78


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """What may be done with the pictures of a tier. `version` is the day from which the text holds."""

    title: str
    version: str
    summary: str
    paragraphs: tuple[str, ...]


_ALL: Final = (
    "The licence is for you, the person who placed the order. It holds for every picture of the order, "
    "without time limit, and goes on after the order and everything in it is deleted: then this text and its "
    "receipt number are what shows it.",
    "We keep no rights in the pictures for ourselves and make no other use of them. So far as the law gives "
    "anybody rights in pictures that software made, we grant them to you as this licence says; we do not "
    "promise that it does. Your rights in your own likeness stay yours.",
    "The pictures were made by software from a photo of you. Say so where law or good manners ask for it. "
    "Each file says so itself, in its metadata (XMP and Content Credentials): leave that in. Do not pass "
    "them off as proof of who you are, as in a passport, or as pictures of somebody else.",
    "The pictures come as they are. What could not be delivered is refunded; beyond what the law requires we "
    "are not liable for what is done with them.",
)

LICENCES: Final[dict[str, Licence]] = {
    "free": Licence(
        title="Personal, non-commercial licence",
        version="2026-11-21",
        summary=(
            "You may use, copy and show these pictures for yourself: in private, in social networks and "
            "in applications for work. You may not sell them, use them in advertising, or remove their "
            "watermark."
        ),
        paragraphs=(
            "You may use, copy and show these pictures for yourself: in private, on your own pages, in "
            "social networks, and in applications for work. You may resize and crop them.",
            "You may not sell them or let others use them for money, use them in advertising or to promote "
            "goods or services, or remove, cover or crop away their watermark.",
            *_ALL,
        ),
    ),
    "premium": Licence(
        title="Full commercial licence",
        version="2026-11-21",
        summary=(
            "You may use, copy, change, publish and sell these pictures for any lawful purpose, personal or "
            "commercial, in any medium, world-wide and without time limit, without naming us and without "
            "further payment."
        ),
        paragraphs=(
            "You may use, copy, change, publish and sell these pictures for any lawful purpose, personal or "
            "commercial, in any medium, world-wide and without time limit, without naming us and without "
            "further payment.",
            "You may pass these rights on, for single pictures or all of them: to your employer, your "
            "customers, a publisher. A picture for which the money went back is not licensed.",
            *_ALL,
        ),
    ),
}


def licence_of(tier_slug: str) -> Licence:
    """Today's licence of a tier. Raises Refusal("page_not_found") for a tier there is not."""
    if tier_slug not in LICENCES:
        raise Refusal("page_not_found")
    return LICENCES[tier_slug]


def compose(licence: Licence, order: Order) -> str:
    """The licence as the text file in the order's ZIP, bound to its receipt number; lines of 78 at most."""
    clauses = (
        textwrap.fill(clause, WIDTH, initial_indent=f"{number}. ", subsequent_indent="   ")
        for number, clause in enumerate(licence.paragraphs, start=1)
    )
    head = (
        f"{licence.title.upper()}\n"
        f"Text of {licence.version}\n\n"
        f"Receipt   {order.receipt_id}\n"
        f"Date      {order.created_at:%Y-%m-%d}\n"
        f"Tier      {TIERS[order.tier].name}\n"
        f"Pictures  {order.headshots}\n"
        f"Granted by the operator of {signing.host()}"
    )
    return "\n\n".join((head, *clauses)) + "\n"


def grant(order: Order, now: datetime) -> LicenceGrant:
    """The licence that an order was placed with: frozen by the first call, in the transaction that places it.

    Orders from before licences were recorded live for a day, and are given theirs when it is asked for.
    """
    licence = LICENCES[order.tier]
    text = compose(licence, order)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    frozen = {"version": licence.version, "text": text, "sha256": sha256, "granted_at": now}
    granted, _ = LicenceGrant.objects.get_or_create(order=order, defaults=frozen)
    return granted
