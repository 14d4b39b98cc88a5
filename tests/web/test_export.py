"""The export's button: on the order's page in every living state, named on the privacy page, never cached."""

import io
import zipfile
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from headshots.models import Order
from headshots.services import orders
from headshots.services.orders import Placed
from headshots.states import LIVE_STATES, OrderState

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


@pytest.mark.parametrize("state", LIVE_STATES)
def test_the_button_stands_on_the_page_in_every_living_state(
    client: Client, held: Placed, state: OrderState
) -> None:
    Order.objects.update(state=state, refusal_code="no_face" if state == OrderState.REFUSED else "")

    page = client.get(f"/orders/{held.order.pk}/").content.decode()
    given = client.get(f"/orders/{held.order.pk}/export.zip")

    assert page.count(f'href="/orders/{held.order.pk}/export.zip" download>Download everything we hold') == 1
    assert given.status_code == 200
    assert zipfile.ZipFile(io.BytesIO(given.getvalue())).namelist() == ["data.json", "selfie.jpg"]


def test_the_export_is_an_attachment_with_a_plain_name_that_no_cache_keeps(
    client: Client, held: Placed
) -> None:
    given = client.get(f"/orders/{held.order.pk}/export.zip")

    assert given.streaming
    assert given["Content-Type"] == "application/zip"
    assert given["Content-Disposition"] == 'attachment; filename="everything.zip"'
    assert given["Cache-Control"] == "no-store, private"
    assert given["X-Content-Type-Options"] == "nosniff"


def test_with_the_pictures_there_the_button_gives_them_too(
    client: Client, held: Placed, render_all: Callable[[], None]
) -> None:
    render_all()

    archive = zipfile.ZipFile(io.BytesIO(client.get(f"/orders/{held.order.pk}/export.zip").getvalue()))

    assert archive.testzip() is None
    assert archive.read("headshots/headshot-02-corporate.jpg") == (
        client.get(f"/orders/{held.order.pk}/headshots/2/full").content
    )


def test_a_refused_order_still_gives_its_data(client: Client, held: Placed) -> None:
    orders.refuse(held.order, "no_face", timezone.now())

    given = client.get(f"/orders/{held.order.pk}/export.zip")

    assert zipfile.ZipFile(io.BytesIO(given.getvalue())).namelist() == ["data.json"]


def test_after_its_end_an_order_gives_the_same_404_as_one_that_never_was(
    client: Client, held: Placed
) -> None:
    late = timezone.now() - timedelta(minutes=1)
    Order.objects.update(created_at=late - timedelta(hours=1), expires_at=late)

    expired = client.get(f"/orders/{held.order.pk}/export.zip")
    unknown = client.get("/orders/00000000-0000-0000-0000-000000000009/export.zip")

    assert expired.status_code == unknown.status_code == 404
    assert expired.content == unknown.content
    assert sorted(expired.items()) == sorted(unknown.items())


def test_the_privacy_page_names_the_export(client: Client, built_in: None) -> None:
    page = client.get("/privacy").content.decode()

    assert "“Download everything we hold”" in page
    assert "never stored" in page.partition("What we hold about you, to take away")[2].partition("<h2")[0]
