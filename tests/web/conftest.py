"""Fixtures for the pages: a browser that fills in the upload form, and an order it holds the cookie of."""

import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpResponse
from django.test import Client

from headshots.models import ConsentRecord, LicenceGrant, MailAddress, Order, OrderKey, Shot, StoredObject
from headshots.services import objects
from headshots.services.orders import Placed

Send = Callable[..., Any]


@pytest.fixture
def send(client: Client, built_in: None, selfie: bytes) -> Send:
    """Posts the upload form as a browser would; keyword arguments replace fields, None leaves one out."""

    def post(photo: bytes | None = selfie, **changes: Any) -> Any:
        fields: Mapping[str, Any] = {
            "tier": "free",
            "consent": "yes",
            "adult": "yes",
            "upload_id": str(uuid.uuid4()),
            "selfie": SimpleUploadedFile("me at home.jpg", photo, "image/jpeg")
            if photo is not None
            else None,
            **changes,
        }
        return client.post("/new", {name: value for name, value in fields.items() if value is not None})

    return post


@pytest.fixture
def held(client: Client, placed: Placed) -> Placed:
    """A free order, and its cookie in `client`."""
    hold(client, placed)
    return placed


def hold(client: Client, placed: Placed) -> None:
    """Give the browser the order's cookie by the way of its private link."""
    response = client.post("/o", {"token": placed.token})
    assert response.status_code == 302
    assert response["Location"] == f"/orders/{placed.order.pk}/"


def nothing_is_stored() -> bool:
    """Whether a refusal left no row and no object behind."""
    rows = Order, OrderKey, ConsentRecord, LicenceGrant, MailAddress, Shot, StoredObject
    return not any(model.objects.exists() for model in rows) and not list(objects.blobs().list("o/"))


def code_of(response: HttpResponse) -> str:
    """The code of the refusal that a page shows; empty when it shows none."""
    found = re.search(r'data-code="([a-z_]+)"', response.content.decode())
    return found[1] if found else ""
