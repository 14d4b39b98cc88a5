"""The export over the API: one link, one ZIP, and the token alone opens it."""

import io
import json
import zipfile

import pytest
from django.test import Client

from headshots.models import Order
from headshots.services.orders import Placed
from tests.api.conftest import assert_refused, bearer

pytestmark = pytest.mark.django_db


def test_the_order_links_to_everything_held_about_it(client: Client, ready: Placed) -> None:
    auth = bearer(ready.token)
    link = client.get(f"/api/v1/orders/{ready.order.pk}", headers=auth).json()["links"]["export"]

    given = client.get(link, headers=auth)

    assert link == f"http://localhost:8000/api/v1/orders/{ready.order.pk}/export.zip"
    assert given.streaming
    assert given["Content-Disposition"] == 'attachment; filename="everything.zip"'
    assert given["Cache-Control"] == "no-store, private"
    archive = zipfile.ZipFile(io.BytesIO(given.getvalue()))
    names = [f"headshot-{index:02d}-corporate.jpg" for index in (1, 2, 3)]
    assert archive.namelist() == [
        "data.json",
        "selfie.jpg",
        *(f"{folder}/{name}" for name in names for folder in ("headshots", "previews")),
    ]
    data = json.loads(archive.read("data.json"))
    assert data["order"]["receipt_id"] == ready.order.receipt_id
    assert ready.token.encode() not in archive.read("data.json")


def test_the_export_needs_its_own_orders_token(client: Client, ready: Placed) -> None:
    path = f"/api/v1/orders/{ready.order.pk}/export.zip"

    assert_refused(client.get(path), "token_missing")
    assert_refused(client.get(path, headers=bearer("hso_nonsense")), "order_not_found")


def test_after_the_deletion_there_is_nothing_to_give(client: Client, ready: Placed) -> None:
    auth = bearer(ready.token)
    client.delete(f"/api/v1/orders/{ready.order.pk}", headers=auth)

    assert_refused(client.get(f"/api/v1/orders/{ready.order.pk}/export.zip", headers=auth), "order_not_found")
    assert Order.objects.get().state == "purging"
