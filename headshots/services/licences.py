"""What a customer may do with the pictures, as a text file in every ZIP."""

from typing import Final

from headshots.models import Order

TERMS: Final = {
    "free": (
        "Personal, non-commercial licence",
        "You may use, copy and show these pictures for yourself: in private, in social networks and in "
        "applications for work. You may not sell them, use them in advertising, or remove their watermark.",
    ),
    "premium": (
        "Full commercial licence",
        "You may use, copy, change, publish and sell these pictures for any lawful purpose, personal or "
        "commercial, in any medium, world-wide and without time limit, without naming us and without further "
        "payment.",
    ),
}


def licence_terms(tier_slug: str) -> tuple[str, str]:
    """Title and terms of a tier's licence."""
    return TERMS[tier_slug]


def licence_text(order: Order) -> str:
    """The licence of an order as plain text, bound to its receipt number and date."""
    title, terms = licence_terms(order.tier)
    return (
        f"{title.upper()}\n\n"
        f"Receipt  {order.receipt_id}\n"
        f"Date     {order.created_at:%Y-%m-%d}\n"
        f"Pictures {order.headshots}, {order.tier} tier\n\n"
        f"{terms}\n\n"
        "The pictures were made by software from a photo of you. "
        "Say so where law or good manners ask for it. Each file says so itself, in its metadata (XMP and "
        "Content Credentials): leave that in.\n"
    )
