"""Who may see what over the API: the token opens its own order, and nothing tells two refusals apart."""

import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from headshots.models import Order
from headshots.services.orders import Placed
from headshots.states import OrderState
from headshots.vault.tokens import new_token
from tests.api.conftest import assert_refused, bearer

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

NOBODYS = uuid.UUID(int=7)
PRIVATE = (
    ("GET", "/api/v1/orders/{}"),
    ("DELETE", "/api/v1/orders/{}"),
    ("GET", "/api/v1/orders/{}/headshots/1"),
    ("GET", "/api/v1/orders/{}/headshots/1?preview=true"),
    ("POST", "/api/v1/orders/{}/headshots/1/redo"),
    ("POST", "/api/v1/orders/{}/headshots/1/keep"),
    ("GET", "/api/v1/orders/{}/archive.zip"),
    ("GET", "/api/v1/orders/{}/export.zip"),
)


@pytest.mark.parametrize(("method", "path"), PRIVATE)
def test_without_a_bearer_token_an_order_is_private(
    client: Client, ready: Placed, method: str, path: str
) -> None:
    address = path.format(ready.order.pk)

    assert_refused(client.generic(method, address), "token_missing")
    for sent in ("", "Bearer", "Bearer ", "Basic abc", ready.token):
        assert_refused(client.generic(method, address, headers={"Authorization": sent}), "token_missing")

    assert Order.objects.get().state == OrderState.READY


@pytest.mark.parametrize(("method", "path"), PRIVATE)
def test_wrong_foreign_unknown_expired_and_deleted_are_one_404(
    client: Client, ready: Placed, place: Callable[..., Placed], method: str, path: str
) -> None:
    other, expired, deleted = place(), place(), place()
    past = timezone.now() - timedelta(seconds=1)
    Order.objects.filter(pk=expired.order.pk).update(
        created_at=past - timedelta(hours=23), expires_at=past, state=OrderState.READY
    )
    client.delete(f"/api/v1/orders/{deleted.order.pk}", headers=bearer(deleted.token))
    before = dict(Order.objects.values_list("pk", "state"))

    answers = [
        client.generic(method, path.format(order_id), headers=bearer(token))
        for order_id, token in (
            (ready.order.pk, new_token()),
            (ready.order.pk, "hso_nonsense"),
            (ready.order.pk, ready.token + " "),
            (ready.order.pk, ready.token[:-1]),
            (ready.order.pk, "ü\u2028"),
            (ready.order.pk, other.token),
            (uuid.uuid4(), ready.token),
            (expired.order.pk, expired.token),
            (deleted.order.pk, deleted.token),
            ("not-a-uuid", ready.token),
        )
    ]

    for answer in answers:
        assert_refused(answer, "order_not_found")
    assert len({(answer.content, str(sorted(answer.headers.items()))) for answer in answers}) == 1
    assert dict(Order.objects.values_list("pk", "state")) == before


def test_the_cookie_of_the_site_does_not_open_the_api(client: Client, ready: Placed) -> None:
    client.post("/o", {"token": ready.token})

    assert_refused(client.get(f"/api/v1/orders/{ready.order.pk}"), "token_missing")


def test_a_token_in_the_address_is_not_read(client: Client, ready: Placed) -> None:
    response = client.get(f"/api/v1/orders/{ready.order.pk}?token={ready.token}&authorization={ready.token}")

    assert_refused(response, "token_missing")


@pytest.mark.parametrize("index", ["0", "4", "99", "-1", "99999999999999999999", "one", "1.5"])
def test_a_picture_that_does_not_exist_is_not_found(client: Client, ready: Placed, index: str) -> None:
    response = client.get(f"/api/v1/orders/{ready.order.pk}/headshots/{index}", headers=bearer(ready.token))

    assert_refused(response, "headshot_not_found")


@pytest.mark.parametrize("path", ["headshots/1", "headshots/1?preview=true", "archive.zip"])
def test_nothing_can_be_taken_before_it_is_made(client: Client, placed: Placed, path: str) -> None:
    response = client.get(f"/api/v1/orders/{placed.order.pk}/{path}", headers=bearer(placed.token))

    assert_refused(response, "headshot_not_found")


@pytest.mark.parametrize("number", ["0000-0000-0000-0000", "x", "%00", "a" * 2000])
def test_an_unknown_receipt_is_not_found(client: Client, placed: Placed, number: str) -> None:
    assert_refused(client.get(f"/api/v1/receipts/{number}"), "receipt_not_found")


def test_the_receipt_of_a_living_order_is_not_found(client: Client, placed: Placed) -> None:
    assert_refused(client.get(f"/api/v1/receipts/{placed.order.receipt_id}"), "receipt_not_found")


def test_a_second_deletion_finds_nothing(client: Client, ready: Placed) -> None:
    url, auth = f"/api/v1/orders/{ready.order.pk}", bearer(ready.token)
    assert client.delete(url, headers=auth).status_code == 202

    assert_refused(client.delete(url, headers=auth), "order_not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/v1/orders", "POST"),
        ("GET", "/api/v1/orders", "POST"),
        ("PATCH", f"/api/v1/orders/{NOBODYS}", "DELETE, GET"),
        ("POST", "/api/v1/styles", "GET"),
        ("DELETE", "/api/v1/receipts/x", "GET"),
        ("POST", f"/api/v1/orders/{NOBODYS}/archive.zip", "GET"),
        ("GET", f"/api/v1/orders/{NOBODYS}/headshots/1/redo", "POST"),
    ],
)
def test_another_method_is_a_405_in_the_one_shape(
    client: Client, built_in: None, method: str, path: str, allowed: str
) -> None:
    response = client.generic(method, path)

    assert_refused(response, "method_not_allowed")
    assert response["Allow"] == allowed


@pytest.mark.parametrize(
    "path", ["/api/v1/nothing", "/api/v1/", "/api/", "/api/v2/orders", "/api/v1/orders/"]
)
def test_an_unknown_path_is_a_404_in_the_one_shape(client: Client, path: str) -> None:
    assert_refused(client.get(path), "page_not_found")
