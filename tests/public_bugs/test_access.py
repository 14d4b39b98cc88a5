"""Access and its end: no number opens another's order, no callback is believed, deleted is deleted."""

import itertools
import json
import re
import socket
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NoReturn
from urllib.parse import urlencode

import pytest
from django.test import Client

from headshots.models import Order, OrderKey, Receipt, StoredObject
from headshots.services import claiming, objects, orders, purge, shots
from headshots.services.orders import Placed
from headshots.states import OrderState
from headshots.vault.envelope import Kind
from tests.api.conftest import bearer, plain_picture
from tests.public_bugs.conftest import ORDER_ROUTES, held_of_all
from tests.services.unreliable import UnreliableStore
from tests.web.conftest import hold
from tests.web.test_routes import ROUTES, content_of, filled

pytestmark = pytest.mark.django_db
Sent = list[tuple[str, tuple[str, ...]]]

MINUTE = timedelta(minutes=1)
ACTIONS = ("/delete", "/redo", "/keep")  # that do what they say, when their own customer posts to them


def test_nobody_reads_changes_or_deletes_another_customers_order_by_its_numbers(
    finished: Placed, place: Callable[..., Placed]
) -> None:
    other = place()
    client = Client(raise_request_exception=False)
    hold(client, other)
    client.cookies[f"order-{finished.order.pk.hex}"] = other.token
    before = held_of_all()

    methods = ("GET", "POST", "PUT", "PATCH", "DELETE")
    for route, method, index in itertools.product(ORDER_ROUTES, methods, ("1", "3")):
        path = filled(route, order_id=str(finished.order.pk), index=index)
        answer = client.generic(method, path, headers=bearer(other.token))
        assert answer.status_code in (404, 405), f"{method} {route}"

    assert held_of_all() == before


def test_the_number_of_a_receipt_opens_nothing_of_a_living_order(client: Client, finished: Placed) -> None:
    number = finished.order.receipt_id

    for path in (f"/receipts/{number}", f"/receipts/{number}/receipt.txt", f"/api/v1/receipts/{number}"):
        assert client.get(path).status_code == 404


def test_no_route_takes_results_or_fetches_an_address_that_it_is_sent(
    finished: Placed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers hand in their pictures through the database; a forged callback has no door to knock at."""
    reached: list[object] = []

    def refuse(*args: object, **kwargs: object) -> NoReturn:
        reached.append(args)
        raise OSError

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    client = Client(raise_request_exception=False)
    hold(client, finished)
    before = held_of_all()
    lure = "http://127.0.0.1:9/x.jpg"
    names = "url urls image_url output output_url result callback callback_url webhook webhook_url selfie"
    wanted = dict.fromkeys(names.split(), lure) | {"status": "succeeded", "id": str(finished.order.pk)}
    sent = {**wanted, "output": [lure], "prediction": wanted}
    for route, method in itertools.product(ROUTES, ("GET", "POST", "PUT")):
        if method == "POST" and route.endswith(ACTIONS):
            continue
        path = filled(route, order_id=str(finished.order.pk))
        answer = client.generic(
            method,
            path,
            json.dumps(sent),
            "application/json",
            headers=bearer(finished.token),
            QUERY_STRING=urlencode(wanted),
        )
        content_of(answer)
        assert answer.status_code < 500 or route == "/readyz", route

    assert reached == []
    assert held_of_all() == before
    doors = re.compile("hook|callback|result|predict|worker|ingest|notify")
    # The first only answers: it has no other method than GET.
    assert [route for route in ROUTES if doors.search(route)] == ["/healthz/workers", "/webhooks/stripe"]


def test_a_picture_that_is_handed_in_twice_is_one_picture(placed: Placed, now: datetime) -> None:
    orders.accept(placed.order, now)
    claims = claiming.claim("worker", 3, now)
    assert all(shots.commit(each, plain_picture(each), now) for each in claims)
    before = held_of_all()

    assert not any(shots.commit(each, plain_picture(each), now) for each in claims)

    assert held_of_all() == before


def test_a_lost_message_is_found_by_the_sweep_and_a_lost_worker_by_its_lease(
    placed: Placed, sent: Sent, now: datetime, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        shots.sweep(now + MINUTE)
    assert sent == [("headshots.assess", (str(placed.order.pk),))]
    orders.accept(placed.order, now)
    sent.clear()

    with django_capture_on_commit_callbacks(execute=True):
        shots.sweep(now + MINUTE)

    assert sent == [("headshots.render", ())] * 3
    lost = claiming.claim("dies", 3, now)
    again = claiming.claim("lives", 3, now + 2 * MINUTE)
    assert [each.shot.pk for each in again] == [each.shot.pk for each in lost]
    assert all(shots.commit(each, plain_picture(each), now + 2 * MINUTE) for each in again)
    assert Order.objects.get().state == OrderState.READY


def test_deleting_takes_the_pictures_as_well_as_the_photo(
    client: Client, finished: Placed, purge_all: Callable[[], None]
) -> None:
    kinds = set(StoredObject.objects.values_list("kind", flat=True))
    assert kinds == {Kind.SELFIE, Kind.HEADSHOT, Kind.PREVIEW}

    client.delete(f"/api/v1/orders/{finished.order.pk}", headers=bearer(finished.token))

    assert list(objects.blobs().list("o/")) == []
    assert not OrderKey.objects.exists()
    purge_all()
    assert "selfies=1 headshots=3 previews=3" in Receipt.objects.get().text


def test_what_a_store_fails_to_delete_is_never_called_deleted(
    client: Client, finished: Placed, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = UnreliableStore(objects.blobs())
    monkeypatch.setattr(objects, "blobs", lambda: store)
    store.faults.failing = {"delete"}
    receipt = f"/api/v1/receipts/{finished.order.receipt_id}"

    client.delete(f"/api/v1/orders/{finished.order.pk}", headers=bearer(finished.token))
    for hours in range(1, 4):
        purge.run(now + timedelta(hours=hours))

    told = client.get(receipt).json()
    assert (told["state"], told["objects_deleted_at"], told["text"]) == ("purging", None, None)
    assert client.get(f"/receipts/{finished.order.receipt_id}/receipt.txt").status_code == 404
    store.faults.failing = set()
    for hours in range(4, 8):
        purge.run(now + timedelta(hours=hours))
    assert client.get(receipt).json()["state"] == "purged"
    assert list(store.list("o/")) == []
