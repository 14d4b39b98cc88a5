"""Redo on the order's page: the button, the quiet wait, the two side by side, and the choice."""

import re
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from headshots.exceptions import TEXTS
from headshots.models import Order, Shot
from headshots.services import claiming, shots, uploads
from headshots.services.orders import Placed
from headshots.states import ShotState
from pipelines.types import FailedShot
from tests.api.conftest import ready
from tests.api.test_redo import make_it
from tests.web.conftest import hold

__all__ = ["ready"]  # a fixture of the API's tests

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def unlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are taken as they are: the process that cleans them has tests of its own, and takes its time."""
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)


@pytest.fixture
def url(client: Client, ready: Placed) -> str:
    """The page of an order with three pictures, whose cookie `client` holds."""
    hold(client, ready)
    return f"/orders/{ready.order.pk}/"


def buttons(page: str) -> list[str]:
    """Where the page's buttons of one picture lead, below the order's address."""
    return re.findall(r'<button[^>]* form="choice" formaction="/orders/[0-9a-f-]+/headshots/([^"]+)"', page)


def text_of(client: Client, path: str) -> str:
    return client.get(path).content.decode()


def redos_line(page: str) -> str:
    found = re.search(r'<p class="fine" id="redos">(.*?)</p>', page)
    return found[1] if found else ""


def test_each_picture_of_a_ready_order_has_a_button_and_the_page_says_until_when(
    client: Client, url: str
) -> None:
    page = text_of(client, url)

    finished_at = Order.objects.get().finished_at
    assert finished_at is not None
    assert buttons(page) == ["1/redo", "2/redo", "3/redo"]
    assert redos_line(page) == (
        f"1 of 1 redo left. Your photo is deleted at {finished_at + timedelta(hours=1):%H:%M} UTC; "
        "until then a picture can be made again."
    )
    assert 'Redo<span class="unseen"> headshot 2, Corporate</span>' in page
    assert re.search(r'<form id="choice" method="post"><input type="hidden" name="csrfmiddlewaretoken"', page)


def test_a_press_works_without_a_script_and_leads_back_to_the_picture(client: Client, url: str) -> None:
    pressed = client.post(f"{url}headshots/2/redo")

    assert (pressed.status_code, pressed["Location"]) == (302, f"{url}#headshot-2")
    page = text_of(client, url)
    assert "<h1>Your headshots are ready</h1>" in page
    assert page.count('<p class="again">Being made again</p>') == 1
    assert "A picture is being made again." in page
    assert buttons(page) == []
    assert redos_line(page).startswith("0 of 1 redo left. Your photo is deleted at ")
    assert redos_line(page).endswith(" UTC.")
    assert "<progress" not in page
    assert 'class="steps"' not in page
    assert '<noscript><meta http-equiv="refresh"' in page
    assert page.count('hx-preserve="true"') == 3

    again = client.post(f"{url}headshots/2/redo")

    assert (again.status_code, again["Location"]) == (302, f"{url}#headshot-2")
    assert Shot.objects.count() == 4


def test_the_two_stand_side_by_side_until_one_is_kept(client: Client, url: str) -> None:
    client.post(f"{url}headshots/2/redo")
    polled = re.search(r'hx-get="([^"]+)"', text_of(client, url))
    assert polled
    assert client.get(polled[1]).status_code == 204
    make_it(timezone.now())

    part = client.get(polled[1])

    assert part.status_code == 286
    news = "Your headshots are ready. A new picture is ready: keep one of the two."
    assert f'<div hx-swap-oob="innerHTML:#announcement">{news}</div>' in part.content.decode()
    page = text_of(client, url)
    assert buttons(page) == ["2/keep", "4/keep"]
    assert 'role="group" aria-label="Headshot 2, Corporate: choose one"' in page
    assert page.index('id="preview-2"') < page.index('id="preview-4"') < page.index('id="preview-3"')
    for path in ("headshots/4/preview", "headshots/4/full"):
        assert f'"{url}{path}"' in page
        assert client.get(url + path)["Content-Type"] == "image/jpeg"

    kept = client.post(f"{url}headshots/4/keep")

    assert (kept.status_code, kept["Location"]) == (302, f"{url}#headshot-4")
    page = text_of(client, url)
    assert 'id="preview-2"' not in page
    assert 'id="headshot-4"' in page
    assert client.get(f"{url}headshots/2/preview").status_code == 404


def test_a_redo_that_failed_is_told_on_its_picture(client: Client, url: str) -> None:
    client.post(f"{url}headshots/2/redo")
    (claimed,) = claiming.claim("worker", 1, timezone.now())
    failed = FailedShot(shot_id=str(claimed.shot.pk), code="quality_gate", is_retryable=False)
    shots.fail(claimed, failed, timezone.now())

    page = text_of(client, url)

    assert page.count("It could not be made again. This does not count.") == 1
    assert buttons(page) == ["1/redo", "2/redo", "3/redo"]


def test_the_buttons_go_when_the_photo_is_gone(client: Client, url: str) -> None:
    Order.objects.update(finished_at=timezone.now() - timedelta(hours=1))

    page = text_of(client, url)
    refused = client.post(f"{url}headshots/2/redo")

    assert (buttons(page), redos_line(page)) == ([], "")
    assert refused.status_code == 409
    assert TEXTS["selfie_deleted"].message in refused.content.decode()
    assert f'href="{url}"' in refused.content.decode()
    assert not Shot.objects.exclude(state=ShotState.DONE).exists()


def test_the_page_of_an_order_that_soon_ends_names_both_times(client: Client, url: str) -> None:
    order = Order.objects.get()
    assert order.finished_at is not None
    Order.objects.update(expires_at=order.finished_at + timedelta(minutes=50))

    line = redos_line(text_of(client, url))

    assert line == (
        f"1 of 1 redo left. Your photo is deleted at {order.finished_at + timedelta(minutes=50):%H:%M} UTC; "
        f"until {order.finished_at + timedelta(minutes=18):%H:%M} UTC a picture can be made again."
    )


def test_no_other_site_can_ask_or_choose(ready: Placed) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.cookies[f"order-{ready.order.pk.hex}"] = ready.token

    for what in ("redo", "keep"):
        refused = strict.post(f"/orders/{ready.order.pk}/headshots/2/{what}")
        assert refused.status_code == 403
        assert TEXTS["form_expired"].message in refused.content.decode()

    assert Shot.objects.count() == 3
