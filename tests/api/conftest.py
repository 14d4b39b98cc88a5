"""Fixtures for the API: a program that posts orders, and an order whose pictures are plain ones."""

import io
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone
from PIL import Image

from headshots.exceptions import TEXTS
from headshots.models import ConsentRecord, Order, OrderKey, Shot, StoredObject
from headshots.services import claiming, objects, orders, shots
from headshots.services.orders import Placed
from pipelines.types import FinishedShot
from tests.payments.conftest import _server, account
from tests.rendered import rendered

__all__ = ["_server", "account"]  # fixtures of other tests

Post = Callable[..., Any]


@pytest.fixture
def post_order(client: Client, built_in: None, selfie: bytes) -> Post:
    """Posts an order; keyword arguments replace fields, None leaves one out, `key` is the Idempotency-Key."""

    def post(photo: bytes | None = selfie, *, key: str | None = None, **changes: Any) -> Any:
        upload = None if photo is None else SimpleUploadedFile("me at home.jpg", photo, "image/jpeg")
        fields: Mapping[str, Any] = {"selfie": upload, "tier": "free", "consent": "true", **changes}
        sent = {name: value for name, value in fields.items() if value is not None}
        return client.post("/api/v1/orders", sent, headers={"Idempotency-Key": key} if key else {})

    return post


@pytest.fixture
def ready(placed: Placed) -> Placed:
    """A free order whose three pictures exist; they are plain ones."""
    now = timezone.now()
    orders.accept(placed.order, now)
    for claimed in claiming.claim("worker", 3, now):
        assert shots.commit(claimed, plain_picture(claimed), now)
    return placed


def plain_picture(claimed: claiming.Claim, width: int = 896, height: int = 1152) -> FinishedShot:
    """What an engine would hand in for the claim; its bytes follow from its size."""
    jpegs = plain_jpeg(width, height), plain_jpeg(width // 2, height // 2)
    return rendered(claimed, *jpegs, width=width, height=height)


def plain_jpeg(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "grey").save(out, "JPEG")
    return out.getvalue()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def assert_refused(response: Any, code: str) -> None:
    """The one error shape, with the words and the status of `code`, and nothing else."""
    text = TEXTS[code]
    assert response.json() == {"code": code, "message": text.message, "advice": text.advice}
    assert response.status_code == text.status
    assert response["Content-Type"] == "application/json"


def assert_nothing_is_stored() -> None:
    for model in (Order, OrderKey, ConsentRecord, Shot, StoredObject):
        assert not model.objects.exists(), model.__name__
    assert list(objects.blobs().list("")) == []
