"""Staff of several kinds, and orders in the states that the staff screens show."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.test import Client
from django.utils import timezone

from headshots.models import Order
from headshots.services import claiming, orders, shots, uploads
from headshots.services.orders import Placed
from pipelines.types import FailedShot
from tests.paying import pay
from tests.rendered import rendered

JPEG = b"\xff\xd8\xff\xe0 the customer's picture"


def client_for(name: str, *permissions: str, **flags: bool) -> Client:
    """A client logged in as a new user with exactly these permissions."""
    user = User.objects.create(username=name, **flags)
    for permission in permissions:
        user.user_permissions.add(
            Permission.objects.get(codename=permission, content_type__app_label="headshots")
        )
    client = Client()
    client.force_login(user)
    return client


def messages_of(response: Any) -> list[str]:
    """What the page told the user."""
    return [str(message) for message in get_messages(response.wsgi_request)]


def page_of(response: Any) -> str:
    """The text of a page that was shown."""
    assert response.status_code == 200
    return str(response.content.decode())


@pytest.fixture
def boss(db: None) -> Client:
    """Ada may do everything."""
    return client_for("ada", is_staff=True, is_superuser=True)


@pytest.fixture
def viewer(db: None) -> Client:
    """Vera may look at styles and orders and change nothing."""
    return client_for("vera", "view_style", "view_order", is_staff=True)


@pytest.fixture(autouse=True)
def unlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are taken as they are: the process that cleans them has tests of its own, and takes its time."""
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)


def render(order: Order, *, failing: int = 0) -> None:
    """Finish the shots of an accepted order; the last `failing` of them fail for good."""
    now = timezone.now()
    claims = claiming.claim("worker", order.headshots, now)
    for claimed in claims:
        shot_id = str(claimed.shot.pk)
        if claimed.shot.index > order.headshots - failing:
            shots.fail(claimed, FailedShot(shot_id=shot_id, code="face_lost", is_retryable=False), now)
            continue
        assert shots.commit(claimed, rendered(claimed, JPEG, JPEG, seconds=1.25), now)


@pytest.fixture
def make_order(place: Callable[..., Placed]) -> Callable[..., Order]:
    """A free order whose pictures are made, but for the last `failing` ones."""

    def make(failing: int = 0) -> Order:
        order = place().order
        orders.accept(order, timezone.now())
        render(order, failing=failing)
        return Order.objects.get(pk=order.pk)

    return make


@pytest.fixture
def premium(place: Callable[..., Placed]) -> Order:
    """A paid premium order, cut to ten pictures, one of which failed and was refunded."""
    order = place(tier_slug="premium").order
    order.shots.filter(index__gt=10).delete()
    order.headshots = 10
    order.save(update_fields=["headshots"])
    orders.accept(order, timezone.now())
    pay(Order.objects.get(pk=order.pk), timezone.now())
    render(order, failing=1)
    return Order.objects.get(pk=order.pk)
