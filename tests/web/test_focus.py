"""What is swapped under its reader: whatever can hold the focus is known again, and is told from outside."""

import re
from collections.abc import Callable
from datetime import datetime

import pytest
from django.test import Client

from headshots.models import Order, Payment, Shot
from headshots.services import orders, redo, uploads
from headshots.services.orders import Placed
from headshots.states import OrderState, ShotState
from tests.api.conftest import ready
from tests.web.conftest import hold

__all__ = ["ready"]  # a fixture of other tests

pytestmark = pytest.mark.django_db
Changing = Callable[[Placed], None]


@pytest.fixture(autouse=True)
def unclean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are taken as they come: the sandbox has tests of its own."""
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)


def ids_of_what_is_focused(part: str) -> list[str]:
    """The id of each link and button, empty for one that has none."""
    tags = re.findall(r"<(?:a|button)\b[^>]*>", part)
    return [found[1] if (found := re.search(r'\bid="([^"]+)"', tag)) else "" for tag in tags]


def progress_of(client: Client, placed: Placed) -> str:
    return str(client.get(f"/orders/{placed.order.pk}/progress").content.decode())


def test_each_link_and_button_beside_a_picture_is_known_again(client: Client, ready: Placed) -> None:
    hold(client, ready)

    ids = ids_of_what_is_focused(progress_of(client, ready))

    pictures = [f"{what}-{index}" for index in (1, 2, 3) for what in ("open", "get", "redo")]
    assert ids == ["to-side", "archive", *pictures]


def test_both_of_two_pictures_are_known_again(client: Client, ready: Placed, now: datetime) -> None:
    redo.ask(ready.order, 2, now)
    Shot.objects.filter(index=4).update(state=ShotState.KEPT)
    hold(client, ready)

    ids = ids_of_what_is_focused(progress_of(client, ready))

    assert ids[4:8] == ["open-2", "keep-2", "open-4", "keep-4"]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("state", "ids"),
    [
        (OrderState.AWAITING_PAYMENT, ["to-side", "to-checkout"]),
        (OrderState.FAILED, ["to-side", "again"]),
        (OrderState.REFUSED, ["to-side", "again"]),
    ],
)
def test_the_way_on_is_known_again(
    client: Client, place: Callable[..., Placed], state: OrderState, ids: list[str]
) -> None:
    placed = place(tier_slug="premium")
    Order.objects.update(state=state, refusal_code="no_face" if state == OrderState.REFUSED else "")
    hold(client, placed)

    assert ids_of_what_is_focused(progress_of(client, placed)) == ids


def test_while_a_payment_is_waited_for_links_stay_and_a_region_outside_tells_the_news(
    client: Client, place: Callable[..., Placed], now: datetime
) -> None:
    placed = place(tier_slug="premium")
    orders.accept(placed.order, now)
    hold(client, placed)
    url = f"/orders/{placed.order.pk}/checkout/"

    page, part = (client.get(url + path).content.decode() for path in ("return", "status"))

    assert page.index('<p class="unseen" role="status" id="announcement"></p>') < page.index('id="payment"')
    assert page.count('role="status"') == 1
    assert 'role="status"' not in part
    assert "hx-swap-oob" not in page
    news = "We wait for the confirmation of your payment"
    assert f'<div hx-swap-oob="innerHTML:#announcement">{news}</div>' in part
    assert ids_of_what_is_focused(part) == ["to-order", "to-checkout"]

    Payment.objects.update(checkout_state=Payment.CheckoutState.FAILED)
    failed = client.get(url + "status").content.decode()

    assert ids_of_what_is_focused(failed) == ["to-checkout", "to-order"]
    assert '<div hx-swap-oob="innerHTML:#announcement">The payment did not go through</div>' in failed
    assert failed.count("<h1>The payment did not go through</h1>") == 1


def test_a_wait_that_takes_long_is_told_as_well(
    client: Client, place: Callable[..., Placed], now: datetime
) -> None:
    placed = place(tier_slug="premium")
    orders.accept(placed.order, now)
    hold(client, placed)

    part = client.get(f"/orders/{placed.order.pk}/checkout/status?since=1").content.decode()

    news = "We wait for the confirmation of your payment. This takes longer than usual"
    assert f'<div hx-swap-oob="innerHTML:#announcement">{news}</div>' in part
