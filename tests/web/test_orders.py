"""An order's pages: who may open them, what they show on the way, the pictures, paying and deleting."""

import io
import re
import uuid
import zipfile
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from headshots.exceptions import TEXTS
from headshots.models import Order, Payment, PaymentEvent, Shot
from headshots.services import objects, orders, purge
from headshots.services.orders import Placed
from headshots.states import OrderState, ShotState
from headshots.vault.tokens import new_token
from headshots.web.order_views import time_left
from tests.web.conftest import code_of, hold

pytestmark = [pytest.mark.django_db, pytest.mark.slow]
PATHS = ("", "progress", "archive.zip", "checkout", "headshots/1/", "headshots/1/preview", "headshots/1/full")


def url(placed: Placed, path: str = "") -> str:
    return f"/orders/{placed.order.pk}/{path}"


def age(placed: Placed) -> None:
    """Let the order's 24 hours be over."""
    late = timezone.now() - timedelta(minutes=1)
    Order.objects.filter(pk=placed.order.pk).update(created_at=late - timedelta(hours=1), expires_at=late)


@pytest.mark.parametrize("path", PATHS)
def test_unknown_foreign_expired_and_deleted_orders_are_one_404(
    client: Client, place: Callable[..., Placed], path: str
) -> None:
    mine, foreign, expired, deleted = (place() for _ in range(4))
    for placed in (mine, expired, deleted):
        hold(client, placed)
    client.cookies[f"order-{foreign.order.pk.hex}"] = mine.token
    age(expired)
    purge.request(deleted.order, actor="customer", now=timezone.now())

    answers = [
        client.get(f"/orders/{order_id}/{path}")
        for order_id in (uuid.uuid4(), foreign.order.pk, expired.order.pk, deleted.order.pk)
    ]

    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1
    assert len({str(sorted(answer.items())) for answer in answers}) == 1
    assert answers[0]["Cache-Control"] == "no-store, private"
    assert TEXTS["order_not_found"].message in answers[0].content.decode()
    assert not answers[0].cookies


def test_deleting_needs_the_cookie_and_a_post(client: Client, placed: Placed) -> None:
    assert client.post(url(placed, "delete")).status_code == 404
    hold(client, placed)
    refused = client.get(url(placed, "delete"))

    assert (refused.status_code, refused["Allow"]) == (405, "POST")
    assert Order.objects.get().state == OrderState.ASSESSING


def test_the_private_link_opens_the_order_in_another_browser(placed: Placed) -> None:
    for pasted in (placed.token, f"http://localhost:8000/o#{placed.token}", f"  {placed.token}\n"):
        other = Client()
        response = other.post("/o", {"token": pasted})

        assert response["Location"] == url(placed)
        assert other.get(url(placed)).status_code == 200


def test_a_wrong_private_link_opens_nothing(client: Client, placed: Placed) -> None:
    for token in ("", "nonsense", new_token()):
        response = client.post("/o", {"token": token})

        assert response.status_code == 404
        assert TEXTS["order_not_found"].message in response.content.decode()
    assert not [name for name in client.cookies if name.startswith("order-")]


def test_the_page_shows_each_stage_in_words(
    client: Client, held: Placed, render_all: Callable[[], None]
) -> None:
    def stages() -> tuple[str, str]:
        page, part = (client.get(url(held, path)).content.decode() for path in ("", "progress"))
        return tuple(re.findall(r"<h1>([^<]+)</h1>", page + part))  # type: ignore[return-value]

    assert stages() == ("Checking your photo",) * 2
    orders.accept(held.order, timezone.now())
    assert stages() == ("In the queue",) * 2
    Order.objects.update(state=OrderState.RENDERING)
    Shot.objects.filter(index=1).update(state=ShotState.DONE)
    assert stages() == ("Rendering 2 of 3",) * 2
    Shot.objects.update(state=ShotState.PENDING)
    Order.objects.update(state=OrderState.QUEUED)
    render_all()
    assert stages() == ("Your headshots are ready",) * 2


def test_polling_answers_204_while_nothing_changed_and_286_at_the_end(
    client: Client, held: Placed, render_all: Callable[[], None]
) -> None:
    page = client.get(url(held)).content.decode()
    polled = re.search(r'hx-get="([^"]+)"', page)
    assert polled
    assert '<noscript><meta http-equiv="refresh"' in page

    assert client.get(polled[1]).status_code == 204
    render_all()
    final = client.get(polled[1])

    assert final.status_code == 286
    assert "hx-get" not in final.content.decode()
    assert 'hx-swap-oob="innerHTML:#announcement"' in final.content.decode()
    assert final.content.decode().count('hx-preserve="true"') == 3
    assert 'http-equiv="refresh"' not in client.get(url(held)).content.decode()


def test_the_finished_pictures_are_shown_large_and_given_away_uncached(
    client: Client, held: Placed, render_all: Callable[[], None]
) -> None:
    render_all()

    small, full, kept = (
        client.get(url(held, f"headshots/2/{name}")) for name in ("preview", "full", "download")
    )
    page = client.get(url(held, "headshots/2/")).content.decode()

    assert full.content == kept.content
    assert len(small.content) < len(full.content)
    for response in (small, full, kept):
        assert response.content[:3] == b"\xff\xd8\xff"
        assert response["Content-Type"] == "image/jpeg"
        assert response["Cache-Control"] == "no-store, private"
        assert response["Content-Security-Policy"] == "sandbox; default-src 'none'"
        assert response["Cross-Origin-Resource-Policy"] == "same-origin"
        assert response["X-Content-Type-Options"] == "nosniff"
    assert kept["Content-Disposition"] == 'attachment; filename="headshot-02.jpg"'
    assert full["Content-Disposition"] == 'inline; filename="headshot-02.jpg"'
    assert 'rel="prev" href="' + url(held, "headshots/1/") in page
    assert 'rel="next" href="' + url(held, "headshots/3/") in page


def test_the_zip_holds_the_pictures_and_the_licence(
    client: Client, held: Placed, render_all: Callable[[], None]
) -> None:
    render_all()

    response = client.get(url(held, "archive.zip"))
    archive = zipfile.ZipFile(io.BytesIO(b"".join(response.streaming_content)))  # type: ignore[arg-type]

    assert response["Cache-Control"] == "no-store, private"
    assert response["Content-Disposition"] == 'attachment; filename="headshots.zip"'
    assert archive.testzip() is None
    names = [f"headshot-{index:02d}-corporate.jpg" for index in (1, 2, 3)]
    assert archive.namelist() == ["LICENCE.txt", *names]
    assert archive.read(names[1]) == client.get(url(held, "headshots/2/full")).content


def test_the_best_come_first_with_their_likeness_in_words(client: Client, held: Placed) -> None:
    Order.objects.update(state=OrderState.READY)
    said = {1: (5, "fair likeness"), 2: (1, "strong likeness"), 3: (3, "good likeness")}
    for index, (rank, likeness) in said.items():
        delivered = {"state": ShotState.DONE, "width": 896, "height": 1152}
        Shot.objects.filter(index=index).update(rank=rank, likeness=likeness, **delivered)

    page = client.get(url(held)).content.decode()
    best = client.get(url(held, "headshots/2/")).content.decode()

    assert re.findall(r'<li id="headshot-(\d)"', page) == ["2", "3", "1"]
    shown = re.findall(r'<p class="under"><span>(\d\. \w+)<br><span class="fine">([\w ]+)</span>', page)
    assert shown == [
        ("1. Corporate", "Strong likeness"),
        ("2. Corporate", "Good likeness"),
        ("3. Corporate", "Fair likeness"),
    ]
    assert "judged by a face recogniser that had no part in making it" in page
    assert "headshot 1 of 3, strong likeness, 896 × 1152" in best
    assert 'rel="prev"' not in best
    assert 'rel="next" href="' + url(held, "headshots/3/") in best


def test_a_likeness_that_was_not_measured_is_not_spoken_of(client: Client, held: Placed) -> None:
    Order.objects.update(state=OrderState.READY)
    Shot.objects.update(state=ShotState.DONE, width=896, height=1152)

    page = client.get(url(held)).content.decode() + client.get(url(held, "headshots/2/")).content.decode()

    assert "likeness" not in page
    assert "recogniser" not in page


def test_pictures_that_are_compared_are_counted_and_not_shown(
    client: Client, place: Callable[..., Placed]
) -> None:
    placed = place(tier_slug="premium")
    hold(client, placed)
    Order.objects.update(state=OrderState.RENDERING)
    Shot.objects.filter(index__lte=49).update(state=ShotState.KEPT, rank=3, likeness="good likeness")
    Shot.objects.filter(index=1).update(state=ShotState.DONE, width=2987, height=3840)
    before_the_last = client.get(url(placed)).content.decode()
    Shot.objects.filter(index=50).update(state=ShotState.KEPT, rank=3, likeness="good likeness")
    page = client.get(url(placed)).content.decode()

    assert "Rendering 50 of 50" in before_the_last
    assert '<progress max="50" value="49"' in before_the_last
    assert "Choosing the best" in page
    assert '<progress max="50" value="50"' in page
    assert re.findall(r'<li id="headshot-(\d+)"', page) == ["1"]
    assert page.count('<div class="frame">') == 49
    assert client.get(url(placed, "headshots/2/full")).status_code == 404


@pytest.mark.parametrize("path", ["archive.zip", "headshots/1/", "headshots/1/full", "headshots/99/preview"])
def test_a_picture_that_does_not_exist_yet_says_so_and_leads_back(
    client: Client, held: Placed, path: str
) -> None:
    response = client.get(url(held, path))

    page = response.content.decode()
    assert response.status_code == 404
    assert TEXTS["headshot_not_found"].message in page
    assert f'href="{url(held)}">Back to the order' in page


def test_a_refused_photo_is_explained_and_another_one_is_asked_for(client: Client, held: Placed) -> None:
    orders.refuse(held.order, "several_faces", timezone.now())

    response = client.get(url(held))

    page = response.content.decode()
    assert (response.status_code, code_of(response)) == (200, "several_faces")
    assert TEXTS["several_faces"].advice in page
    assert 'href="/new?tier=free">Try another photo' in page
    assert "hx-get" not in page
    assert not list(objects.blobs().list("o/"))


def test_premium_is_paid_in_a_checkout_that_says_test(client: Client, place: Callable[..., Placed]) -> None:
    placed = place(tier_slug="premium")
    hold(client, placed)
    orders.accept(placed.order, timezone.now())

    waiting = client.get(url(placed)).content.decode()
    checkout = client.get(url(placed, "checkout")).content.decode()
    paid = client.post(url(placed, "checkout"))
    again = client.post(url(placed, "checkout"))

    assert f'href="{url(placed, "checkout")}"' in waiting
    assert ">TEST<" in checkout
    assert "$19.00" in checkout
    assert "Full commercial licence" in checkout
    assert (paid.status_code, paid["Location"]) == (302, url(placed))
    assert (again.status_code, PaymentEvent.objects.count()) == (409, 1)
    assert TEXTS["not_payable"].message in again.content.decode()
    assert Payment.objects.get().state == Payment.State.PAID
    assert Order.objects.get().state == OrderState.QUEUED


def test_a_free_order_has_nothing_to_pay(client: Client, held: Placed) -> None:
    for response in (client.get(url(held, "checkout")), client.post(url(held, "checkout"))):
        assert response.status_code == 409
    assert Order.objects.get().state == OrderState.ASSESSING


def test_before_a_paid_pack_is_deleted_the_page_tells_what_becomes_of_the_money(
    client: Client, place: Callable[..., Placed], held: Placed
) -> None:
    told = "What is paid for headshots that are not there by then goes back to you."
    premium = place(tier_slug="premium")
    hold(client, premium)
    orders.accept(premium.order, timezone.now())

    def is_told(placed: Placed) -> bool:
        return told in client.get(url(placed)).content.decode()

    assert not is_told(premium)  # nothing is paid yet
    client.post(url(premium, "checkout"))
    assert Order.objects.get(pk=premium.order.pk).state == OrderState.QUEUED
    assert is_told(premium)
    assert not is_told(held)  # free

    Order.objects.update(state=OrderState.READY)
    assert not is_told(premium)  # everything is there


def test_failed_pictures_are_told_with_their_refund(client: Client, place: Callable[..., Placed]) -> None:
    placed = place(tier_slug="premium")
    hold(client, placed)
    orders.accept(placed.order, timezone.now())
    client.post(url(placed, "checkout"))
    Order.objects.update(state=OrderState.RENDERING)
    Shot.objects.update(state=ShotState.DONE)
    Shot.objects.filter(index__lte=12).update(state=ShotState.FAILED, error_code="gate")
    orders.finish(placed.order.pk, timezone.now())
    some = client.get(url(placed)).content.decode()

    Shot.objects.update(state=ShotState.FAILED, error_code="gate")
    Order.objects.update(state=OrderState.RENDERING)
    orders.finish(placed.order.pk, timezone.now())
    none = client.get(url(placed)).content.decode()

    assert "Ready: 48 of 50 headshots" in some
    assert "$0.76 are refunded to you" in some
    assert "We could not make your headshots" in none
    assert "$19.00 are refunded to you" in none


def test_deleting_ends_on_a_receipt_and_forgets_the_cookie(
    client: Client, held: Placed, render_all: Callable[[], None]
) -> None:
    render_all()

    response = client.post(url(held, "delete"))
    receipt = client.get(response["Location"])

    cookie = response.cookies[f"order-{held.order.pk.hex}"]
    assert (cookie.value, cookie["path"], cookie["max-age"]) == ("", f"/orders/{held.order.pk}", 0)
    assert response["Clear-Site-Data"] == receipt["Clear-Site-Data"] == '"cache"'
    assert response["Location"] == f"/receipts/{held.order.receipt_id}"
    assert "1 photo, 3 headshots, 3 previews" in receipt.content.decode()
    assert client.get(url(held)).status_code == 404
    assert not list(objects.blobs().list("o/"))


def test_an_order_page_keeps_its_link_out_of_caches_and_addresses(client: Client, held: Placed) -> None:
    response = client.get(url(held))

    page = response.content.decode()
    assert response["Cache-Control"] == "no-store, private"
    assert f'readonly value="http://localhost:8000/o#{held.token}"' in page
    assert not re.search(rf'(href|action|src|hx-get)="[^"]*{held.token}', page)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (84_600, "23 h 30 min"),
        (3_660, "1 h 01 min"),
        (119, "1 min"),
        (20, "less than a minute"),
        (-5, "less than a minute"),
    ],
)
def test_the_time_left_reads_as_words(seconds: int, words: str) -> None:
    assert time_left(seconds) == words
