"""All routes at once, taken from the URLconf itself: a route added later is asked the same questions."""

import re
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone

from headshots.exceptions import TEXTS
from headshots.models import Order, Receipt
from headshots.services import purge, uploads
from headshots.services.orders import Placed
from headshots.states import OrderState
from tests.api.conftest import bearer, ready
from tests.web.conftest import hold, nothing_is_stored

pytestmark = pytest.mark.slow

__all__ = ["ready"]  # a fixture of the API's tests

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
FILLED = {
    "order_id": str(uuid.UUID(int=9)),
    "index": "1",
    "receipt_id": "0000-0000-0000-0000",
    "tier_slug": "free",
}


def every_route(resolver: URLResolver, prefix: str = "/") -> Iterator[str]:
    """Every route, as written in the URLconf."""
    for pattern in resolver.url_patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLPattern):
            yield route
        else:
            yield from every_route(pattern, route)


def filled(route: str, **values: str) -> str:
    return re.sub(r"[<{](?:\w+:)?(\w+)[>}]", lambda name: {**FILLED, **values}[name[1]], route)


ALL_ROUTES = sorted(set(every_route(get_resolver())))
STAFF_ROUTES = [route for route in ALL_ROUTES if route.startswith("/admin/")]
ROUTES = [route for route in ALL_ROUTES if route not in STAFF_ROUTES]
ORDER_PAGES = [route for route in ROUTES if route.startswith("/orders/")]


def test_the_sweep_sees_the_pages_and_the_api() -> None:
    assert {"/", "/new", "/o", "/api/v1/orders", "/orders/<uuid:order_id>/delete"} <= set(ROUTES)
    assert len(ORDER_PAGES) == 14


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


# --- who may what: every route, every kind of visitor, every method -----------------------------------------

# What a route answers to anybody at all. HEAD goes with a page's GET; a method that is not named is a 405.
PUBLIC: Mapping[str, Mapping[str, int]] = {
    "/": {"GET": 200},
    "/new": {"GET": 200, "POST": 400},
    "/o": {"GET": 200, "POST": 404},
    "/receipts/<str:receipt_id>": {"GET": 200},
    "/receipts/<str:receipt_id>/receipt.txt": {"GET": 200},
    "/verify": {"GET": 200},
    "/verify-picture": {"GET": 200},
    "/keys": {"GET": 200},
    "/audit/checkpoint": {"GET": 200},
    "/audit/checkpoints": {"GET": 200},
    "/audit/checkpoints/<int:index>": {"GET": 200},
    "/privacy": {"GET": 200},
    "/terms": {"GET": 200},
    "/licences/<str:tier_slug>": {"GET": 200},
    "/robots.txt": {"GET": 200},
    "/webhooks/stripe": {"POST": 404},  # in test mode; see tests/payments
    "/healthz": {"GET": 200},
    "/healthz/workers": {"GET": 200},
    "/readyz": {"GET": 200},
    "/api/v1/": {},  # the name under which the framework finds its own pages
    "/api/v1/docs": dict.fromkeys(METHODS, 200),
    "/api/v1/openapi.json": dict.fromkeys(METHODS, 200),
    "/api/v1/styles": {"GET": 200},
    "/api/v1/tiers": {"GET": 200},
    "/api/v1/challenge": {"GET": 200},
    "/api/v1/orders": {"POST": 400},
    "/api/v1/receipts/<receipt_id>": {"GET": 200},
}
# What an order's own routes answer to whoever holds its cookie, or its token. To all others they say one 404.
ONE_ORDER = "/orders/<uuid:order_id>/"
BY_COOKIE: Mapping[str, Mapping[str, int]] = {
    ONE_ORDER: {"GET": 200},
    ONE_ORDER + "progress": {"GET": 286},
    ONE_ORDER + "archive.zip": {"GET": 200},
    ONE_ORDER + "export.zip": {"GET": 200},
    ONE_ORDER + "checkout": {"GET": 409, "POST": 409},
    ONE_ORDER + "checkout/return": {"GET": 409},
    ONE_ORDER + "checkout/status": {"GET": 409},
    ONE_ORDER + "headshots/<int:index>/": {"GET": 200},
    ONE_ORDER + "headshots/<int:index>/preview": {"GET": 200},
    ONE_ORDER + "headshots/<int:index>/full": {"GET": 200},
    ONE_ORDER + "headshots/<int:index>/download": {"GET": 200},
    ONE_ORDER + "headshots/<int:index>/redo": {"POST": 302},
    ONE_ORDER + "headshots/<int:index>/keep": {"POST": 302},
    ONE_ORDER + "delete": {"POST": 302},
}
API_ORDER = "/api/v1/orders/<order_id>"
BY_TOKEN: Mapping[str, Mapping[str, int]] = {
    API_ORDER: {"GET": 200, "DELETE": 202},
    API_ORDER + "/checkout": {"POST": 409},  # the order is free
    API_ORDER + "/headshots/<index>": {"GET": 200},
    API_ORDER + "/headshots/<index>/redo": {"POST": 409},  # the page has asked for it by then
    API_ORDER + "/headshots/<index>/keep": {"POST": 200},
    API_ORDER + "/archive.zip": {"GET": 200},
    API_ORDER + "/export.zip": {"GET": 200},
}
DESTROYS = ("DELETE",)  # and what ends in "/delete": asked last, since nothing is left to ask afterwards


@dataclass(frozen=True)
class Visitor:
    """Somebody with whatever they hold: cookies in the client, a token in the header."""

    name: str
    client: Client
    token: str = ""

    def ask(self, method: str, route: str, **values: str) -> Any:
        headers = bearer(self.token) if self.token else None
        return self.client.generic(method, filled(route, **values), headers=headers)


@dataclass(frozen=True)
class House:
    """An order with its pictures, the receipt of another one, and everybody who may come by."""

    order: Order
    receipt_id: str
    owner: Visitor
    program: Visitor
    others: list[Visitor]

    def everybody(self) -> list[Visitor]:
        return [*self.others, self.owner, self.program]


@pytest.fixture
def house(place: Callable[..., Placed], ready: Placed, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)  # the sandbox has tests of its own
    other, deleted, expired = place(), place(), place()
    gone = Client()
    for placed in (deleted, expired):
        hold(gone, placed)
    purge.request(deleted.order, actor="customer", now=timezone.now())
    while purge.run(timezone.now()).waiting:
        pass
    assert Receipt.objects.get().pk == deleted.order.receipt_id
    Order.objects.filter(pk=expired.order.pk).update(
        created_at="2026-01-01T00:00Z", expires_at="2026-01-01T23:00Z"
    )
    neighbour, boss, clerk, owner = Client(), Client(), Client(), Client()
    hold(neighbour, other)
    hold(owner, ready)
    neighbour.cookies[f"order-{ready.order.pk.hex}"] = other.token
    boss.force_login(User.objects.create(username="ada", is_staff=True, is_superuser=True))
    clerk.force_login(User.objects.create(username="nora", is_staff=True))
    return House(
        order=ready.order,
        receipt_id=deleted.order.receipt_id,
        owner=Visitor("owner", owner),
        program=Visitor("program", Client(), ready.token),
        others=[
            Visitor("stranger", Client()),
            Visitor("neighbour", neighbour),
            Visitor("program of another order", Client(), other.token),
            Visitor("program with nonsense", Client(), "hso_nonsense"),
            Visitor("one whose orders are gone", gone, deleted.token),
            Visitor("superuser", boss),
            Visitor("member of staff", clerk),
        ],
    )


def expected(route: str, answers: Mapping[str, int], method: str) -> int:
    is_page_head = method == "HEAD" and not route.startswith("/api/")
    return answers.get("GET" if is_page_head else method, 405)


def test_the_matrix_names_every_route_and_no_other() -> None:
    assert sorted([*PUBLIC, *BY_COOKIE, *BY_TOKEN]) == ROUTES


@pytest.mark.slow
def test_public_routes_answer_everybody_the_same(house: House) -> None:
    for visitor in house.everybody():
        for route, answers in PUBLIC.items():
            for method in METHODS if visitor.name == "stranger" else ("GET",):
                answer = visitor.ask(method, route, receipt_id=house.receipt_id)

                named = f"{visitor.name}: {method} {route}"
                if route == "/api/v1/":
                    assert answer.status_code in (404, 405), named
                else:
                    assert answer.status_code == expected(route, answers, method), named
                assert house.order.receipt_id.encode() not in content_of(answer), named


@pytest.mark.slow
def test_an_orders_routes_answer_its_owner_alone_and_say_one_404_to_all_others(house: House) -> None:
    mine, nobodys = str(house.order.pk), str(uuid.uuid4())

    for visitor in house.everybody():
        for route, answers in {**BY_COOKIE, **BY_TOKEN}.items():
            if visitor is (house.owner if route in BY_COOKIE else house.program):
                continue
            for method in METHODS:
                answer, missing = (visitor.ask(method, route, order_id=each) for each in (mine, nobodys))

                named = f"{visitor.name}: {method} {route}"
                refusal = 401 if route in BY_TOKEN and not visitor.token else 404
                status = expected(route, dict.fromkeys(answers, refusal), method)
                assert (answer.status_code, missing.status_code) == (status, status), named
                assert answer.content == missing.content, named
                assert sorted(answer.items()) == sorted(missing.items()), named
                assert answer["Cache-Control"] == "no-store, private", named
    assert Order.objects.get(pk=house.order.pk).state == OrderState.READY


def test_an_orders_routes_answer_its_owner_as_the_matrix_says_and_no_cache_keeps_it(house: House) -> None:
    asked = [
        (visitor, method, route, expected(route, answers, method))
        for visitor, table in ((house.owner, BY_COOKIE), (house.program, BY_TOKEN))
        for route, answers in table.items()
        for method in METHODS
        if method not in DESTROYS and not route.endswith("/delete")
    ]
    for visitor, method, route, status in asked:
        answer = visitor.ask(method, route, order_id=str(house.order.pk))

        named = f"{method} {route}"
        assert answer.status_code == status, named
        assert answer["Cache-Control"] == "no-store, private", named
        assert answer["X-Content-Type-Options"] == "nosniff", named


@pytest.mark.parametrize("how", ["cookie", "token"])
def test_deleting_is_the_owners_and_ends_every_other_route(house: House, how: str) -> None:
    mine = str(house.order.pk)

    if how == "cookie":
        deleted = house.owner.ask("POST", ONE_ORDER + "delete", order_id=mine)
    else:
        deleted = house.program.ask("DELETE", API_ORDER, order_id=mine)

    assert deleted.status_code in (202, 302)
    assert deleted["Cache-Control"] == "no-store, private"
    for visitor, table in ((house.owner, BY_COOKIE), (house.program, BY_TOKEN)):
        for route, answers in table.items():
            for method in METHODS:
                answer = visitor.ask(method, route, order_id=mine)
                assert answer.status_code == expected(route, dict.fromkeys(answers, 404), method), (
                    f"{method} {route}"
                )


def test_another_orders_picture_number_or_object_opens_nothing(house: House) -> None:
    other = Order.objects.exclude(pk=house.order.pk).filter(state=OrderState.ASSESSING)
    for order in other:
        for route in (*BY_COOKIE, *BY_TOKEN):
            for visitor in (house.owner, house.program):
                answer = visitor.ask("GET", route, order_id=str(order.pk))
                assert answer.status_code in (401, 404, 405), f"{visitor.name}: {route}"


@pytest.mark.slow
def test_the_staff_screens_send_everybody_but_staff_to_their_door(house: House) -> None:
    boss, clerk = (
        next(v for v in house.others if v.name == name) for name in ("superuser", "member of staff")
    )
    outsiders = [visitor for visitor in house.everybody() if visitor not in (boss, clerk)]
    assert len(STAFF_ROUTES) > 40
    for route in STAFF_ROUTES:
        path = filled_for_staff(route, house.order)
        for visitor in outsiders:
            for method in ("GET", "POST"):
                answer = visitor.client.generic(method, path)
                named = f"{visitor.name}: {method} {path}"
                if path in ("/admin/login/", "/admin/logout/"):
                    assert answer.status_code in (200, 302, 405), named
                else:
                    assert answer.status_code in (302, 404, 405), named
                assert answer.status_code != 302 or answer["Location"].startswith("/admin/"), named
                assert house.order.receipt_id.encode() not in content_of(answer), named
    assert Order.objects.get(pk=house.order.pk).state == OrderState.READY


def filled_for_staff(route: str, order: Order) -> str:
    """An address of a staff route: plain and regular-expression patterns alike."""
    plain = re.sub(r"\(\?P<\w+>[^)]*\)", "x", route).replace("^", "").replace("$", "").replace("\\", "")
    return re.sub(r"<(?:\w+:)?(\w+)>", lambda name: str(order.pk) if name[1] == "object_id" else "1", plain)


def content_of(answer: Any) -> bytes:
    content: bytes = answer.getvalue() if answer.streaming else answer.content
    return content


# --- tokens and temporary files -----------------------------------------------------------------------------


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
        assert placed.token.encode() not in content_of(response)


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
