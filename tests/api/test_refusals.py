"""Every refusal of the API: its code, its status, the one shape, and nothing stored."""

import io
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from django.test import Client
from PIL import Image

from headshots.models import Order, OrderKey
from headshots.services import objects, uploads
from headshots.states import OrderState
from pipelines.errors import Retryable
from tests.api.conftest import Post, assert_nothing_is_stored, assert_refused, bearer
from tests.pipelines.test_images import hostile

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

FILES = (
    "empty",
    "text",
    "gif",
    "jpeg cut at 50 %",
    "png bomb",
    "51 MP",
    "too small",
    "banner",
    "apng",
    "animated webp",
)


def jpeg_of(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=95)
    return out.getvalue()


@cache
def noise() -> bytes:
    pixels = np.random.default_rng(7).integers(0, 256, (600, 500, 3), dtype=np.uint8)
    return jpeg_of(Image.fromarray(pixels))


def two_people(selfie: bytes) -> bytes:
    with Image.open(io.BytesIO(selfie)) as one:
        both = Image.new("RGB", (2 * one.width, one.height))
        for left in (0, one.width):
            both.paste(one, (left, 0))
    return jpeg_of(both)


def half_size(selfie: bytes) -> bytes:
    with Image.open(io.BytesIO(selfie)) as image:
        return jpeg_of(image.resize((512, 512), Image.Resampling.LANCZOS))


def no_face(selfie: bytes) -> bytes:
    return noise()


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_refused_with_its_code(post_order: Post, name: str) -> None:
    photo, code = hostile()[name]

    assert_refused(post_order(photo), code)

    assert_nothing_is_stored()


def test_a_file_over_25_mb_is_refused(post_order: Post) -> None:
    assert_refused(post_order(b"\xff\xd8\xff" + bytes(uploads.MAX_BYTES)), "file_too_large")

    assert_nothing_is_stored()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"photo": None}, "selfie_missing"),
        ({"consent": None}, "consent_missing"),
        ({"consent": "false"}, "consent_missing"),
        ({"consent": "perhaps"}, "consent_missing"),
        ({"tier": "gold"}, "unknown_tier"),
        ({"styles": "vampire"}, "unknown_style"),
        ({"styles": "outdoor"}, "style_not_in_tier"),
        ({"styles": "corporate,outdoor"}, "style_not_in_tier"),
        ({"tier": "premium", "styles": "tech,vampire"}, "unknown_style"),
        ({"key": "not-a-uuid"}, "malformed_request"),
    ],
)
def test_a_bad_field_is_refused_with_its_code(post_order: Post, changes: dict[str, Any], code: str) -> None:
    assert_refused(post_order(**changes), code)

    assert_nothing_is_stored()


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data; boundary=x", b"no part, no boundary"),
        ("multipart/form-data", b"no boundary is named"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="selfie"\r\n'),
        ("application/json", b'{"tier": "free", '),
        ("application/json", b'{"tier": "free", "consent": true}'),
        ("text/plain", b"hello"),
        ("application/x-www-form-urlencoded", b"tier=free&consent=true&selfie=%FF%D8%FF"),
        ("", b"?"),
    ],
)
def test_a_body_that_is_no_upload_is_a_400(
    client: Client, built_in: None, content_type: str, body: bytes
) -> None:
    response = client.generic("POST", "/api/v1/orders", body, content_type=content_type)

    assert response.status_code == 400
    assert_refused(response, response.json()["code"])
    assert response.json()["code"] in ("malformed_request", "selfie_missing", "incomplete_upload")
    assert_nothing_is_stored()


def test_a_null_byte_in_a_field_is_an_unknown_word_and_no_crash(post_order: Post) -> None:
    assert_refused(post_order(tier="free\0"), "unknown_tier")
    assert_refused(post_order(styles="corporate\0"), "unknown_style")

    assert_nothing_is_stored()


def test_a_machine_without_room_for_the_sandbox_asks_to_come_back(
    post_order: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(raw: bytes, **options: bool) -> bytes:
        raise Retryable("sandbox_unavailable")

    monkeypatch.setattr(uploads, "clean_portrait_in_sandbox", refuse)

    assert_refused(post_order(), "busy")

    assert_nothing_is_stored()


@pytest.mark.parametrize(
    ("photo_of", "code"), [(no_face, "no_face"), (two_people, "several_faces"), (half_size, "face_too_small")]
)
def test_a_photo_refused_after_a_look_is_explained_and_erased_at_once(
    client: Client,
    post_order: Post,
    selfie: bytes,
    render_all: Callable[[], None],
    photo_of: Callable[[bytes], bytes],
    code: str,
) -> None:
    created = post_order(photo_of(selfie)).json()

    render_all()

    shown = client.get(f"/api/v1/orders/{created['id']}", headers=bearer(created["token"])).json()
    assert (shown["state"], shown["problem"]["code"]) == ("refused", code)
    assert set(shown["problem"]) == {"code", "message", "advice"}
    assert Order.objects.get().state == OrderState.REFUSED
    assert not OrderKey.objects.exists()
    assert list(objects.blobs().list("o/")) == []
