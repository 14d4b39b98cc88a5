"""Redo over the API: asked for, followed, chosen, refused."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from headshots.models import Order, Shot
from headshots.services import claiming, shots, uploads
from headshots.services.orders import Placed
from headshots.states import OrderState, ShotState
from tests.api.conftest import assert_refused, bearer, plain_jpeg, plain_picture

pytestmark = pytest.mark.django_db
Ask = Callable[..., Any]


@pytest.fixture(autouse=True)
def unlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are taken as they are: the process that cleans them has tests of its own, and takes its time."""
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)


@pytest.fixture
def ask(client: Client, ready: Placed) -> Ask:
    """Asks for something below the order's address with its token."""

    def send(method: str, path: str = "") -> Any:
        url = f"/api/v1/orders/{ready.order.pk}{path}"
        return client.generic(method, url, headers=bearer(ready.token))

    return send


def make_it(now: datetime) -> None:
    (claimed,) = claiming.claim("worker", 1, now)
    assert shots.commit(claimed, plain_picture(claimed, 64, 80), now)


def shown(order: Any, index: int) -> dict[str, Any]:
    found: dict[str, Any] = next(shot for shot in order["shots"] if shot["index"] == index)
    return found


def test_a_program_has_a_picture_made_again_and_chooses_the_new_one(ask: Ask) -> None:
    before = ask("GET").json()
    until = Order.objects.get().finished_at + timedelta(hours=1)  # type: ignore[operator]
    assert (before["redos_left"], shown(before, 2)["redo"], shown(before, 2)["can_redo"]) == (1, None, True)
    assert abs(datetime.fromisoformat(before["redo_until"]) - until) < timedelta(milliseconds=1)

    asked = ask("POST", "/headshots/2/redo")

    assert asked.status_code == 202
    assert (asked.json()["state"], asked.json()["percent"], asked.json()["redos_left"]) == ("queued", 100, 0)
    waiting = {"index": 4, "state": "waiting", "url": None, "preview_url": None, "likeness": None}
    assert (shown(asked.json(), 2)["redo"], shown(asked.json(), 2)["can_redo"]) == (waiting, False)
    assert_refused(ask("GET", "/headshots/4"), "headshot_not_found")
    make_it(timezone.now())

    made = ask("GET").json()
    assert made["state"] == "ready"
    new = shown(made, 2)["redo"]
    assert new["state"] == "ready"
    assert new["url"].endswith("/headshots/4")
    assert new["preview_url"] == new["url"] + "?preview=true"
    assert ask("GET", "/headshots/4").content == plain_jpeg(64, 80)
    assert ask("GET", "/headshots/4?preview=true").content == plain_jpeg(32, 40)

    chosen = ask("POST", "/headshots/4/keep")

    assert chosen.status_code == 200
    assert sorted(shot["index"] for shot in chosen.json()["shots"]) == [1, 3, 4]
    assert all(shot["redo"] is None for shot in chosen.json()["shots"])
    assert_refused(ask("GET", "/headshots/2"), "headshot_not_found")
    assert ask("POST", "/headshots/4/keep").status_code == 200
    assert_refused(ask("POST", "/headshots/2/keep"), "choice_made")


def test_a_program_keeps_the_old_picture(ask: Ask) -> None:
    ask("POST", "/headshots/2/redo")
    make_it(timezone.now())

    chosen = ask("POST", "/headshots/2/keep")

    assert [shot["index"] for shot in chosen.json()["shots"]] == [1, 2, 3]
    assert_refused(ask("GET", "/headshots/4"), "headshot_not_found")


def test_a_refused_redo_has_the_one_shape_and_changes_nothing(ask: Ask) -> None:
    assert ask("POST", "/headshots/2/redo").status_code == 202
    states = list(Shot.objects.order_by("index").values_list("index", "state"))

    assert_refused(ask("POST", "/headshots/2/redo"), "redo_under_way")
    assert_refused(ask("POST", "/headshots/1/redo"), "redo_limit")
    for index in ("4", "0", "99999999999999999999", "x"):
        assert_refused(ask("POST", f"/headshots/{index}/redo"), "headshot_not_found")
        assert_refused(ask("POST", f"/headshots/{index}/keep"), "headshot_not_found")

    assert list(Shot.objects.order_by("index").values_list("index", "state")) == states


def test_once_the_photo_is_gone_the_api_says_so(ask: Ask) -> None:
    Order.objects.update(finished_at=timezone.now() - timedelta(hours=1))

    assert_refused(ask("POST", "/headshots/2/redo"), "selfie_deleted")

    order = ask("GET").json()
    assert (order["redo_until"], shown(order, 2)["can_redo"], order["redos_left"]) == (None, False, 1)
    assert not Shot.objects.exclude(state=ShotState.DONE).exists()
    assert Order.objects.get().state == OrderState.READY
