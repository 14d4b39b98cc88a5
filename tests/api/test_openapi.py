"""The API's description: complete, stable, and readable without any other host."""

import re

import pytest
from django.contrib.staticfiles import finders
from django.test import Client

from headshots.services import incarnation, payments
from headshots.services.orders import Placed
from tests.api.conftest import assert_refused, bearer

pytestmark = pytest.mark.slow

OPERATIONS = {
    ("get", "/api/v1/styles"): {"200"},
    ("get", "/api/v1/tiers"): {"200"},
    ("get", "/api/v1/challenge"): {"200"},
    ("post", "/api/v1/orders"): {"201", "400", "403", "408", "409", "413", "415", "422", "429", "503"},
    ("get", "/api/v1/orders/{order_id}"): {"200", "401", "404", "503"},
    ("delete", "/api/v1/orders/{order_id}"): {"202", "401", "404", "503"},
    ("post", "/api/v1/orders/{order_id}/checkout"): {"200", "401", "404", "409", "503"},
    ("get", "/api/v1/orders/{order_id}/headshots/{index}"): {"200", "400", "401", "403", "404", "503"},
    ("post", "/api/v1/orders/{order_id}/headshots/{index}/redo"): {"202", "401", "403", "404", "409", "503"},
    ("post", "/api/v1/orders/{order_id}/headshots/{index}/keep"): {"200", "401", "403", "404", "409", "503"},
    ("get", "/api/v1/orders/{order_id}/archive.zip"): {"200", "401", "403", "404", "503"},
    ("get", "/api/v1/orders/{order_id}/export.zip"): {"200", "401", "404", "503"},
    ("get", "/api/v1/receipts/{receipt_id}"): {"200", "404"},
}


def test_every_operation_is_described_with_its_errors(client: Client) -> None:
    described = client.get("/api/v1/openapi.json").json()

    assert described["openapi"].startswith("3.")
    assert {
        (method, path): set(operation["responses"])
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
    } == OPERATIONS


def test_every_error_is_described_as_the_one_shape(client: Client) -> None:
    described = client.get("/api/v1/openapi.json").json()

    shape = described["components"]["schemas"]["ErrorOut"]
    assert set(shape["properties"]) == set(shape["required"]) == {"code", "message", "advice"}
    for operations in described["paths"].values():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                if status >= "400":
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/ErrorOut"}


FILES = {
    "/api/v1/orders/{order_id}/headshots/{index}": "image/jpeg",
    "/api/v1/orders/{order_id}/archive.zip": "application/zip",
    "/api/v1/orders/{order_id}/export.zip": "application/zip",
}


@pytest.mark.parametrize(("path", "media_type"), FILES.items())
def test_a_file_is_described_as_its_bytes(client: Client, path: str, media_type: str) -> None:
    described = client.get("/api/v1/openapi.json").json()

    content = described["paths"][path]["get"]["responses"]["200"]["content"]
    assert content == {media_type: {"schema": {"type": "string", "format": "binary"}}}


@pytest.mark.parametrize(("path", "media_type"), FILES.items())
def test_a_file_is_what_the_description_says(
    client: Client, ready: Placed, path: str, media_type: str
) -> None:
    response = client.get(path.format(order_id=ready.order.pk, index=1), headers=bearer(ready.token))

    assert (response.status_code, response["Content-Type"]) == (200, media_type)


OPENING = [(method, path) for method, path in OPERATIONS if "{order_id}" in path]


@pytest.mark.parametrize(("method", "path"), OPENING)
def test_a_service_that_is_put_in_order_after_a_restore_says_so_everywhere(
    client: Client, ready: Placed, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    monkeypatch.setattr(incarnation, "is_restored", lambda: True)
    url = path.format(order_id=ready.order.pk, index=1)

    assert_refused(getattr(client, method)(url, headers=bearer(ready.token)), "restored")


@pytest.mark.parametrize(("method", "path"), [each for each in OPENING if "403" in OPERATIONS[each]])
def test_a_dispute_holds_back_what_is_described_to_answer_so(
    client: Client, ready: Placed, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    monkeypatch.setattr(payments, "is_frozen", lambda order: True)
    url = path.format(order_id=ready.order.pk, index=1)

    assert_refused(getattr(client, method)(url, headers=bearer(ready.token)), "payment_disputed")


def test_every_reference_in_the_description_leads_somewhere(client: Client) -> None:
    response = client.get("/api/v1/openapi.json")

    known = set(response.json()["components"]["schemas"])
    assert set(re.findall(r"#/components/schemas/(\w+)", response.content.decode())) <= known


@pytest.mark.parametrize(
    ("path", "method"), [(path, method) for method, path in OPERATIONS if "orders/" in path]
)
def test_private_operations_ask_for_a_bearer_token(client: Client, path: str, method: str) -> None:
    described = client.get("/api/v1/openapi.json").json()

    (scheme,) = described["paths"][path][method]["security"][0]
    assert described["components"]["securitySchemes"][scheme] == {"type": "http", "scheme": "bearer"}


def test_the_docs_page_needs_no_other_host_and_no_inline_script(client: Client) -> None:
    response = client.get("/api/v1/docs")

    page = response.content.decode()
    assert response.status_code == 200
    assert "script-src 'self';" in response["Content-Security-Policy"]
    assert "//" not in "".join(re.findall(r'(?:src|href)="([^"]*)"', page))
    assert re.findall(r"<script(?![^>]*(?:src=|application/json))[^>]*>", page) == []
    assets = re.findall(r'(?:src|href)="/static/([^"]+)"', page)
    assert assets
    assert all(finders.find(asset) for asset in assets)
