"""All routes at once, taken from the URLconf itself: a route added later is asked the same questions."""

import re
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from headshots.exceptions import TEXTS
from headshots.models import Order
from headshots.services.orders import Placed
from tests.web.conftest import hold, nothing_is_stored

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
FILLED = {"order_id": str(uuid.UUID(int=9)), "index": "1", "receipt_id": "0000-0000-0000-0000"}


def routes(resolver: URLResolver, prefix: str = "/") -> Iterator[str]:
    """Every route outside the staff screens, as written in the URLconf."""
    for pattern in resolver.url_patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLPattern):
            yield route
        elif not route.startswith("/admin/"):
            yield from routes(pattern, route)


def filled(route: str, **values: str) -> str:
    return re.sub(r"[<{](?:\w+:)?(\w+)[>}]", lambda name: {**FILLED, **values}[name[1]], route)


ROUTES = sorted(set(routes(get_resolver())))
ORDER_PAGES = [route for route in ROUTES if route.startswith("/orders/")]


def test_the_sweep_sees_the_pages_and_the_api() -> None:
    assert {"/", "/new", "/o", "/api/v1/orders", "/orders/<uuid:order_id>/delete"} <= set(ROUTES)
    assert len(ORDER_PAGES) == 9


@pytest.mark.parametrize("route", ROUTES)
def test_a_stranger_never_meets_a_crash_or_somebodys_order(
    client: Client, placed: Placed, route: str
) -> None:
    client.raise_request_exception = False

    for method in METHODS:
        response = client.generic(method, filled(route, order_id=str(placed.order.pk)))

        assert response.status_code < 500, method
        if "order_id" in route:
            assert response.status_code in (401, 404, 405), method
            assert placed.order.receipt_id not in response.content.decode()
    assert Order.objects.get().state == "assessing"


@pytest.mark.parametrize("route", ORDER_PAGES)
def test_no_order_page_tells_why_it_does_not_open(
    client: Client, place: Callable[..., Placed], route: str
) -> None:
    mine, theirs, expired, deleted = place(), place(), place(), place()
    for placed in (mine, expired, deleted):
        hold(client, placed)
    client.post(f"/orders/{deleted.order.pk}/delete")
    Order.objects.filter(pk=expired.order.pk).update(
        created_at="2026-01-01T00:00Z", expires_at="2026-01-01T23:00Z"
    )
    ids = [uuid.uuid4(), theirs.order.pk, expired.order.pk, deleted.order.pk]

    for method in ("GET", "POST"):
        answers = [client.generic(method, filled(route, order_id=str(order_id))) for order_id in ids]

        assert {answer.status_code for answer in answers} <= {404, 405}
        assert len({answer.content for answer in answers}) == 1
        assert len({str(sorted(answer.headers.items())) for answer in answers}) == 1


def test_a_token_stands_nowhere_but_in_the_private_link(client: Client, placed: Placed) -> None:
    opened = client.post("/o", {"token": placed.token})
    page = client.get(opened["Location"]).content.decode()

    assert placed.token not in str(opened.headers) + opened.content.decode()
    assert page.count(placed.token) == 1
    assert re.search(rf'value="[^"]*/o#{re.escape(placed.token)}"', page)
    for route in ORDER_PAGES:
        if route == "/orders/<uuid:order_id>/":
            continue
        response = client.get(filled(route, order_id=str(placed.order.pk)))
        assert placed.token not in str(response.headers)
        assert placed.token not in response.content.decode()


def test_no_upload_makes_a_temporary_file(
    send: Callable[..., Any], built_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*args: object, **kwargs: object) -> None:
        raise AssertionError("a temporary file was asked for")

    for name in ("NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile", "mkstemp", "mkdtemp"):
        monkeypatch.setattr(tempfile, name, explode)

    assert send(bytes(3 * 1024 * 1024)).status_code == 415
    assert send(bytes(30 * 1024 * 1024)).status_code == 413
    assert send(other=SimpleUploadedFile("x", bytes(3 * 1024 * 1024))).status_code == 302


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("path", ["/new", "/api/v1/orders"])
def test_a_connection_that_ends_half_way_is_told_so(live_server: Any, path: str) -> None:
    address = urlsplit(live_server.url)
    part = b'--x\r\nContent-Disposition: form-data; name="selfie"; filename="a"\r\n\r\n\xff\xd8\xff' + bytes(
        5000
    )
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: 90000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\nConnection: close\r\n\r\n"
    )

    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(head.encode() + part + bytes(5000))
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))

    assert answer.split(b" ", 2)[1] == b"400"
    assert TEXTS["incomplete_upload"].message.encode() in answer
    assert nothing_is_stored()
