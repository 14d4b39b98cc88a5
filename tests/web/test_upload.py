"""The upload form: what it shows, what it takes, and every refusal beside the form with nothing stored."""

import io
import re
import uuid
from contextlib import ExitStack
from functools import partial

import pytest
from django.test import Client
from django.utils import timezone
from PIL import Image
from pytest_django import Settings

from headshots.exceptions import TEXTS
from headshots.models import Order, Style
from headshots.services import styles, uploads
from pipelines import sandbox
from pipelines.errors import Retryable
from tests.pipelines.test_images import heic
from tests.web.conftest import Send, code_of, nothing_is_stored

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


def picture(width: int, height: int, kind: str = "JPEG", **options: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (90, 110, 130)).save(out, kind, **options)
    return out.getvalue()


def animation() -> bytes:
    out = io.BytesIO()
    frames = [Image.new("RGB", (300, 300), colour) for colour in ("red", "blue")]
    frames[0].save(out, "PNG", save_all=True, append_images=frames[1:])
    return out.getvalue()


def bomb() -> bytes:
    out = io.BytesIO()
    Image.new("1", (9000, 9000)).save(out, "PNG")
    return out.getvalue()


def test_the_form_starts_unticked_and_numbered(client: Client, built_in: None) -> None:
    first, second = (client.get("/new").content.decode() for _ in range(2))

    numbers = [re.findall(r'name="upload_id" value="([0-9a-f-]{36})"', page) for page in (first, second)]
    assert numbers[0] != numbers[1]
    for name in ("consent", "adult"):
        tick = re.search(rf'<input type="checkbox" name="{name}"[^>]*>', first)
        assert tick
        assert "checked" not in tick[0]
    assert first.count('name="styles"') == first.count("checked><span>") == 8
    assert 'id="tier-free" checked' in first
    assert 'id="tier-premium" checked' in client.get("/new?tier=premium").content.decode()
    assert client.get("/new?tier=gold").status_code == 200


def test_a_good_photo_becomes_an_order_and_a_cookie_for_it_alone(send: Send) -> None:
    response = send()

    order = Order.objects.get()
    assert (response.status_code, response["Location"]) == (302, f"/orders/{order.pk}/")
    cookie = response.cookies[f"order-{order.pk.hex}"]
    assert cookie.value.startswith("hso_")
    assert (cookie["path"], cookie["samesite"]) == (f"/orders/{order.pk}", "Lax")
    assert cookie["httponly"]
    assert not cookie["secure"]
    lifetime = (order.expires_at - order.created_at).total_seconds()
    assert int(cookie["max-age"]) == pytest.approx(lifetime, abs=1)


def test_an_iphone_s_heic_is_offered_and_becomes_an_order(client: Client, send: Send) -> None:
    accept = re.search(r'accept="([^"]+)"', client.get("/new").content.decode())
    assert accept
    assert {"image/heic", "image/heif", ".heic", ".heif"} <= set(accept[1].split(","))

    response = send(heic(Image.new("RGB", (600, 800), (90, 110, 130))))

    assert response.status_code == 302
    assert Order.objects.count() == 1


def test_in_production_the_cookie_travels_over_https_only(send: Send, settings: Settings) -> None:
    settings.IS_PRODUCTION = True

    response = send()

    cookie = response.cookies[f"__Secure-order-{Order.objects.get().pk.hex}"]
    assert cookie["secure"]
    assert cookie["httponly"]


def test_premium_keeps_the_chosen_styles_and_free_ignores_them(send: Send) -> None:
    send(tier="premium", styles=["tech", "casual"])
    send(tier="free", styles=["tech", "casual"])

    slugs = [
        set(order.shots.values_list("style_version__style__slug", flat=True))
        for order in Order.objects.order_by("created_at")
    ]
    assert slugs == [{"tech", "casual"}, {"corporate"}]


@pytest.mark.parametrize(
    ("photo", "code"),
    [
        (None, "selfie_missing"),
        (b"", "empty_file"),
        (b"just words, no picture", "not_an_image"),
        (picture(600, 600)[:-900], "truncated_image"),
        (picture(255, 600), "image_too_small"),
        (picture(300, 1500), "odd_shape"),
        (animation(), "animated_image"),
        (bomb(), "too_many_pixels"),
        (bytes(uploads.MAX_BYTES + 1), "file_too_large"),
        (bytes(uploads.MAX_BYTES + 300_000), "file_too_large"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_photo_is_refused_beside_the_form(send: Send, photo: bytes | None, code: str) -> None:
    response = send(photo, tier="premium", styles=["tech"])

    page = response.content.decode()
    assert (response.status_code, code_of(response)) == (TEXTS[code].status, code)
    assert TEXTS[code].message in page
    assert TEXTS[code].advice in page
    assert 'id="tier-premium" checked' in page
    assert re.findall(r'value="(\w+)" checked><span>', page) == ["tech"]
    assert 'name="consent" value="yes" required' in page
    assert nothing_is_stored()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"consent": None}, "consent_missing"),
        ({"adult": None}, "consent_missing"),
        ({"tier": "gold"}, "unknown_tier"),
        ({"tier": "premium", "styles": ["pirate"]}, "unknown_style"),
        ({"upload_id": None}, "malformed_request"),
        ({"upload_id": "7"}, "malformed_request"),
    ],
)
def test_a_bad_field_is_refused_beside_the_form(send: Send, changes: dict[str, object], code: str) -> None:
    response = send(**changes)

    assert (response.status_code, code_of(response)) == (TEXTS[code].status, code)
    assert 'enctype="multipart/form-data"' in response.content.decode()
    assert nothing_is_stored()


def test_one_form_sent_twice_is_one_order_and_the_new_form_has_a_new_number(send: Send) -> None:
    number = str(uuid.uuid4())
    send(upload_id=number)

    response = send(upload_id=number)

    assert (response.status_code, code_of(response)) == (409, "already_ordered")
    assert number not in response.content.decode()
    assert Order.objects.count() == 1


def test_a_second_photo_in_one_form_is_refused(send: Send, selfie: bytes) -> None:
    twice = [io.BytesIO(selfie), io.BytesIO(selfie)]

    response = send(selfie=twice)

    assert (response.status_code, code_of(response)) == (400, "malformed_request")
    assert nothing_is_stored()


def test_a_machine_without_room_for_the_sandbox_asks_to_come_back(
    send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(raw: bytes, **options: bool) -> bytes:
        raise Retryable("sandbox_unavailable")

    monkeypatch.setattr(uploads, "clean_portrait_in_sandbox", no_room)

    response = send()

    assert (response.status_code, code_of(response)) == (503, "busy")
    assert nothing_is_stored()


def test_who_waits_too_long_for_a_decoder_is_asked_to_come_back(
    send: Send, client: Client, selfie: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    briefly = partial(sandbox.clean_portrait_in_sandbox, wait_seconds=0.01)
    monkeypatch.setattr(uploads, "clean_portrait_in_sandbox", briefly)
    with ExitStack() as others:
        for _ in range(sandbox.MAX_CHILDREN):
            others.enter_context(sandbox._children)

        page = send()
        fields = {"tier": "free", "consent": "true", "selfie": io.BytesIO(selfie)}
        answer = client.post("/api/v1/orders", fields)

    assert (page.status_code, code_of(page), page["Retry-After"]) == (503, "busy", "60")
    assert (answer.status_code, answer.json()["code"], answer["Retry-After"]) == (503, "busy", "60")
    assert nothing_is_stored()


def test_a_form_without_its_csrf_token_is_refused_in_our_own_words(selfie: bytes, built_in: None) -> None:
    response = Client(enforce_csrf_checks=True).post("/new", {"selfie": io.BytesIO(selfie)})

    assert response.status_code == 403
    assert TEXTS["form_expired"].message in response.content.decode()
    assert nothing_is_stored()


def test_the_form_shown_beside_a_refusal_can_be_sent_again(selfie: bytes, built_in: None) -> None:
    """The refused body is answered before any view; its form still needs a matching CSRF cookie."""
    client = Client(enforce_csrf_checks=True)
    refused = client.post("/new", {"selfie": io.BytesIO(bytes(uploads.MAX_BYTES + 1))})
    page = refused.content.decode()
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    number = re.search(r'name="upload_id" value="([^"]+)"', page)
    assert token
    assert number

    fields = {"csrfmiddlewaretoken": token[1], "upload_id": number[1], "consent": "yes", "adult": "yes"}
    response = client.post("/new", {**fields, "tier": "free", "selfie": io.BytesIO(selfie)})

    assert (refused.status_code, response.status_code) == (413, 302)


def test_a_style_without_a_sample_picture_is_shown_without_one(client: Client, built_in: None) -> None:
    corporate = Style.objects.get(slug="corporate")
    style = Style.objects.create(slug="press", name="Press", summary="For newspapers.")
    assert corporate.current
    fields = {name: getattr(corporate.current, name) for name in styles.PRESET_FIELDS}
    styles.add_version(style, fields, actor="test", now=timezone.now())
    styles.set_status(style, Style.Status.PUBLISHED, actor="test", now=timezone.now())

    page = client.get("/").content.decode()

    assert "Press" in page
    assert "samples/press.jpg" not in page
    assert "samples/corporate.jpg" in page
