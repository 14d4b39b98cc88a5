"""Orders on their way through the mails, and what was sent of them."""

from collections.abc import Callable

from django.core import mail
from django.core.mail import EmailMessage
from django.utils import timezone

from headshots.models import Mail, Order, Shot
from headshots.services import orders
from headshots.services.orders import Placed
from headshots.states import OrderState, ShotState
from tests import paying

ADDRESS = "ada.lovelace@example.org"


def finish(order: Order, done: int) -> None:
    """Let the order end with that many pictures, the others failed."""
    Order.objects.filter(pk=order.pk).update(state=OrderState.RENDERING)
    shots = Shot.objects.filter(order=order)
    shots.filter(index__lte=done).update(state=ShotState.DONE, likeness="")
    shots.filter(index__gt=done).update(state=ShotState.FAILED, error_code="gate")
    orders.finish(order.pk, timezone.now())


def paid(place: Callable[..., Placed]) -> Placed:
    """A premium order that is paid and queued."""
    placed = place(address=ADDRESS, tier_slug="premium", style_slugs=("tech",))
    orders.accept(placed.order, timezone.now())
    pay(placed.order)
    return placed


def pay(order: Order) -> None:
    """Let the customer of an accepted premium order pay for it."""
    paying.pay(Order.objects.get(pk=order.pk), timezone.now())


def the_mail(kind: Mail.Kind) -> EmailMessage:
    """The one mail of that kind that was sent."""
    (sent,) = (each for each in mail.outbox if each.extra_headers["Message-ID"].startswith(f"<{kind}."))
    return sent


def deadline(order: Order) -> str:
    at = order.expires_at
    return f"{at.day} {at:%B %Y, %H:%M} UTC"
