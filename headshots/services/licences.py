"""What a customer may do with the pictures, as a text file in every ZIP."""

from typing import Final

from headshots.models import Order

_TERMS: Final = {
    "free": (
        "PERSONAL, NON-COMMERCIAL LICENCE",
        "You may use, copy and show these pictures for yourself: in private, in social networks and in "
        "applications for work. You may not sell them, use them in advertising, or remove their watermark.",
    ),
    "premium": (
        "FULL COMMERCIAL LICENCE",
        "You may use, copy, change, publish and sell these pictures for any lawful purpose, personal or "
        "commercial, in any medium, world-wide and without time limit, without naming us and without further "
        "payment.",
    ),
}


def licence_text(order: Order) -> str:
    """The licence of an order as plain text, bound to its receipt number and date."""
    title, terms = _TERMS[order.tier]
    return (
        f"{title}\n\n"
        f"Receipt  {order.receipt_id}\n"
        f"Date     {order.created_at:%Y-%m-%d}\n"
        f"Pictures {order.headshots}, {order.tier} tier\n\n"
        f"{terms}\n\n"
        "The pictures were made by software from a photo of you. Say so where the law or good manners ask for it.\n"
    )
