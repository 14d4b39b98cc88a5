"""A whole order over the API, from the styles to the receipt; and what each tier gives, and never gives."""

import io
import uuid
import zipfile
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from PIL import Image

from headshots.models import Order, Shot, StoredObject
from headshots.services import objects, orders
from headshots.services.orders import Placed
from headshots.states import OrderState, ShotState
from tests.api.conftest import Post, assert_refused, bearer

pytestmark = pytest.mark.django_db

SLUGS = {"corporate", "creative", "tech", "healthcare", "academic", "executive", "casual", "outdoor"}


def picture_size(jpeg: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(jpeg)) as image:
        assert image.format == "JPEG"
        return image.size


def test_the_styles_say_which_tiers_include_them(client: Client, built_in: None) -> None:
    shown = client.get("/api/v1/styles").json()

    assert {style["slug"] for style in shown} == SLUGS
    assert [style["slug"] for style in shown if "free" in style["tiers"]] == ["corporate"]
    assert all("premium" in style["tiers"] and style["version"] == 1 for style in shown)
    assert all(set(style) == {"slug", "name", "summary", "tiers", "version"} for style in shown)


@pytest.mark.slow
def test_one_selfie_becomes_three_pictures_and_then_nothing(
    client: Client,
    post_order: Post,
    render_all: Callable[[], None],
    purge_all: Callable[[], None],
) -> None:
    created = post_order()
    order = created.json()
    assert created.status_code == 201
    assert order["state"] == "assessing"
    assert order["links"]["private_link"].endswith(f"/o#{order['token']}")
    auth = bearer(order["token"])
    url = f"/api/v1/orders/{order['id']}"

    render_all()

    shown = client.get(url, headers=auth).json()
    assert (shown["state"], shown["done"], shown["failed"], shown["percent"]) == ("ready", 3, 0, 100)
    assert [(s["index"], s["style"], s["state"], s["width"], s["height"]) for s in shown["shots"]] == [
        (index, "corporate", "done", 896, 1152) for index in (1, 2, 3)
    ]
    assert "token" not in shown
    assert shown["links"]["private_link"] is None
    pictures = [client.get(f"{url}/headshots/{index}", headers=auth) for index in (1, 2, 3)]
    assert [picture_size(picture.content) for picture in pictures] == [(896, 1152)] * 3
    assert len({picture.content for picture in pictures}) == 3
    small = client.get(f"{url}/headshots/1?preview=true", headers=auth)
    assert picture_size(small.content) == (448, 576)
    archive = zipfile.ZipFile(io.BytesIO(client.get(f"{url}/archive.zip", headers=auth).getvalue()))
    assert archive.read("headshot-02-corporate.jpg") == pictures[1].content

    deleted = client.delete(url, headers=auth)
    purge_all()

    assert deleted.status_code == 202
    assert deleted.json()["receipt_id"] == order["receipt_id"]
    receipt = client.get(f"/api/v1/receipts/{order['receipt_id']}").json()
    assert receipt["state"] == "purged"
    assert "deleted selfies=1 headshots=3 previews=3 versions=0 uploads=0\n" in receipt["text"]
    assert_refused(client.get(url, headers=auth), "order_not_found")
    assert list(objects.blobs().list("o/")) == []
    assert not StoredObject.objects.exists()


def test_pictures_are_attachments_with_plain_names_that_no_cache_keeps(client: Client, ready: Placed) -> None:
    url, auth = f"/api/v1/orders/{ready.order.pk}", bearer(ready.token)

    picture = client.get(f"{url}/headshots/1", headers=auth)
    archive = client.get(f"{url}/archive.zip", headers=auth)

    assert (picture["Content-Type"], archive["Content-Type"]) == ("image/jpeg", "application/zip")
    assert picture["Content-Disposition"] == 'attachment; filename="headshot-01.jpg"'
    assert archive["Content-Disposition"] == 'attachment; filename="headshots.zip"'
    for response in (picture, archive):
        assert response["Cache-Control"] == "no-store, private"
        assert response["X-Content-Type-Options"] == "nosniff"


def test_the_zip_is_streamed_stored_and_names_nobody(client: Client, ready: Placed) -> None:
    response = client.get(f"/api/v1/orders/{ready.order.pk}/archive.zip", headers=bearer(ready.token))

    assert response.streaming
    archive = zipfile.ZipFile(io.BytesIO(response.getvalue()))
    assert archive.testzip() is None
    assert archive.namelist() == [
        "LICENCE.txt",
        "headshot-01-corporate.jpg",
        "headshot-02-corporate.jpg",
        "headshot-03-corporate.jpg",
    ]
    assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
    assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert ready.order.receipt_id in archive.read("LICENCE.txt").decode()


def test_answers_that_hold_the_state_of_an_order_are_not_cached(
    client: Client, post_order: Post, ready: Placed
) -> None:
    shown = client.get(f"/api/v1/orders/{ready.order.pk}", headers=bearer(ready.token))

    for response in (post_order(), shown):
        assert "no-store" in response["Cache-Control"]


def test_the_token_stands_in_the_created_order_alone(client: Client, post_order: Post) -> None:
    created = post_order()
    order = created.json()

    assert created.content.decode().count(order["token"]) == 2  # itself, and the private link's fragment
    assert order["token"] not in str(created.headers)
    for path in (f"/api/v1/orders/{order['id']}", "/api/v1/styles"):
        response = client.get(path, headers=bearer(order["token"]))
        assert order["token"] not in response.content.decode() + str(response.headers)


def test_premium_waits_for_its_payment_and_then_plans_fifty_pictures(
    client: Client, post_order: Post
) -> None:
    order = post_order(tier="premium").json()
    url, auth = f"/api/v1/orders/{order['id']}", bearer(order["token"])
    orders.accept(Order.objects.get(), timezone.now())
    waiting = client.get(url, headers=auth).json()
    assert waiting["state"] == "awaiting_payment"
    assert waiting["links"]["checkout"].endswith(f"{url}/checkout")
    assert_refused(client.post(waiting["links"]["checkout"]), "token_missing")
    assert Order.objects.get().state == "awaiting_payment"

    paid = client.post(waiting["links"]["checkout"], headers=auth)

    assert (paid.status_code, paid.json()) == (200, {"url": None})  # the test provider takes it at once
    shown = client.get(url, headers=auth).json()
    assert (shown["state"], shown["headshots"], len(shown["shots"])) == ("queued", 50, 50)
    assert shown["links"]["checkout"] is None
    assert set(Counter(shot["style"] for shot in shown["shots"]).values()) == {6, 7}
    assert Order.objects.values_list("long_edge", "is_watermarked").get() == (3840, False)


def test_a_spare_stands_in_for_a_picture_that_failed_and_the_best_come_first(
    client: Client, place: Callable[..., Placed]
) -> None:
    placed = place(tier_slug="premium")
    Order.objects.update(state=OrderState.READY)
    Shot.objects.update(state=ShotState.DONE, rank=3, likeness="good likeness", width=2987, height=3840)
    Shot.objects.filter(index__gt=51).update(state=ShotState.SURPLUS)
    Shot.objects.filter(index=7).update(
        state=ShotState.FAILED, error_code="quality_gate", likeness="", rank=0
    )
    Shot.objects.filter(index=51).update(rank=1, likeness="strong likeness")
    url = f"/api/v1/orders/{placed.order.pk}"

    shown = client.get(url, headers=bearer(placed.token)).json()

    assert (shown["done"], shown["compared"], shown["failed"], shown["percent"]) == (50, 0, 0, 100)
    delivered = [shot["index"] for shot in shown["shots"]]
    assert delivered[:10] == [51, 1, 2, 3, 4, 5, 6, 8, 15, 9]  # one of each style, then the next of each
    assert sorted(delivered) == [*range(1, 7), *range(8, 52)]
    assert [shot["place"] for shot in shown["shots"]] == list(range(1, 51))
    assert [shot["likeness"] for shot in shown["shots"]] == ["strong likeness", *["good likeness"] * 49]
    assert shown["shots"][0]["url"].endswith(f"{url}/headshots/51")
    assert set(shown["shots"][0]) == {
        *("index", "place", "style", "state", "width", "height", "url", "preview_url", "likeness"),
        *("redo", "can_redo"),
    }
    assert_refused(client.get(f"{url}/headshots/7", headers=bearer(placed.token)), "headshot_not_found")


@pytest.mark.parametrize("chosen", ["tech,outdoor", ["tech", "outdoor"], [" tech , ", "outdoor"]])
def test_chosen_styles_are_named_by_commas_or_repetition(post_order: Post, chosen: Any) -> None:
    created = post_order(tier="premium", styles=chosen)

    assert created.status_code == 201
    assert set(Shot.objects.values_list("style_version__style__slug", flat=True)) == {"tech", "outdoor"}


def test_free_never_gives_more_than_three_small_watermarked_pictures(post_order: Post) -> None:
    extras = {"headshots": "50", "long_edge": "3840", "is_watermarked": "false", "price_cents": "0"}

    shown = post_order(**extras, styles="corporate").json()

    assert (shown["tier"], shown["headshots"], len(shown["shots"])) == ("free", 3, 3)
    assert Order.objects.values_list("headshots", "long_edge", "is_watermarked").get() == (3, 1152, True)
    assert Shot.objects.count() == 3


def test_an_idempotency_key_names_one_order(post_order: Post) -> None:
    key = str(uuid.uuid4())
    first = post_order(key=key).json()

    assert_refused(post_order(key=key), "already_ordered")

    assert [str(order.pk) for order in Order.objects.all()] == [first["id"]]
    assert len(list(objects.blobs().list("o/"))) == 1


def test_a_receipt_says_purging_until_the_second_look(client: Client, placed: Placed, settings: Any) -> None:
    settings.PURGE_SETTLE_SECONDS = 600
    receipt = f"/api/v1/receipts/{placed.order.receipt_id}"
    assert_refused(client.get(receipt), "receipt_not_found")

    client.delete(f"/api/v1/orders/{placed.order.pk}", headers=bearer(placed.token))

    shown = client.get(receipt).json()
    assert (shown["state"], shown["text"], shown["absent_again_at"]) == ("purging", None, None)
    assert shown["keys_destroyed_at"]
    assert shown["objects_deleted_at"]
    assert list(objects.blobs().list("o/")) == []
