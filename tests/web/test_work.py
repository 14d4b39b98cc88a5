"""The free pack's price at both doors, the page and the API: a solved challenge, and room for the network."""

import re
from collections.abc import Callable
from typing import Any

import altcha
import pytest
from django.contrib.staticfiles import finders
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from pytest_django import Settings

from headshots.exceptions import TEXTS
from headshots.models import Order, SpentChallenge
from headshots.services import uploads
from headshots.services.networks import parse_networks
from tests.api.conftest import assert_refused
from tests.web.conftest import Send, code_of, nothing_is_stored


@pytest.fixture(autouse=True)
def worked_for(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.FREE_WORK = 2
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)  # the sandbox has tests of its own


def solution(client: Client) -> str:
    """A new challenge of the API, solved by ALTCHA's own library."""
    challenge = altcha.Challenge.from_dict(client.get("/api/v1/challenge").json())
    found = altcha.solve_challenge(challenge)
    assert found
    return altcha.Payload(challenge, found).to_base64()


@pytest.fixture
def post(client: Client, built_in: None, selfie: bytes) -> Callable[..., Any]:
    """Posts an order to the API."""

    def send_one(**fields: str) -> Any:
        photo = SimpleUploadedFile("me.jpg", selfie, "image/jpeg")
        return client.post("/api/v1/orders", {"consent": "true", "tier": "free", "selfie": photo, **fields})

    return send_one


# --- the API ------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_challenge_is_what_altchas_clients_take_and_no_cache_keeps_it(client: Client) -> None:
    first, second = (client.get("/api/v1/challenge") for _ in range(2))

    assert set(first.json()) == {"parameters", "signature"}
    assert set(first.json()["parameters"]) == {
        *("algorithm", "nonce", "salt", "cost", "keyLength", "keyPrefix", "keySignature", "expiresAt", "data")
    }
    assert first.json()["signature"] != second.json()["signature"]
    assert first["Cache-Control"] == "no-store, private"


def test_a_free_order_takes_one_solution_and_the_next_one_another(
    client: Client, post: Callable[..., Any]
) -> None:
    solved = solution(client)

    assert post(altcha=solved).status_code == 201
    assert_refused(post(altcha=solved), "challenge_expired")
    assert post(altcha=solution(client)).status_code == 201
    assert Order.objects.count() == SpentChallenge.objects.count() == 2


@pytest.mark.parametrize(
    ("sent", "code"), [({}, "challenge_missing"), ({"altcha": "e30="}, "challenge_wrong")]
)
def test_without_one_nothing_is_written(post: Callable[..., Any], sent: dict[str, str], code: str) -> None:
    assert_refused(post(**sent), code)
    assert nothing_is_stored()
    assert not SpentChallenge.objects.exists()


def test_premium_needs_none(post: Callable[..., Any]) -> None:
    assert post(tier="premium").status_code == 201


def test_a_network_that_had_its_share_is_told_when_to_come_back(
    client: Client, post: Callable[..., Any], settings: Settings
) -> None:
    settings.FREE_PER_HOUR = 1
    assert post(altcha=solution(client)).status_code == 201
    kept = solution(client)

    refused = post(altcha=kept)

    seconds = int(refused["Retry-After"])
    assert 0 < seconds <= 3600
    assert refused.status_code == 429
    assert refused.json() == {
        "code": "too_many",
        "message": TEXTS["too_many"].message,
        "advice": f"Please try again in {_wait(seconds)}, or choose premium.",
    }
    assert Order.objects.count() == SpentChallenge.objects.count() == 1  # the solution is still good
    settings.FREE_PER_HOUR = 2
    assert post(altcha=kept).status_code == 201


def _wait(seconds: int) -> str:
    hours, minutes = divmod(-(-seconds // 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def test_customers_behind_a_proxy_are_told_apart_only_where_it_is_trusted(
    built_in: None, selfie: bytes, settings: Settings
) -> None:
    settings.FREE_PER_HOUR = 1

    def statuses() -> list[int]:
        said = []
        for address in ("198.51.100.1", "198.51.100.2", "198.51.100.1"):
            customer = Client(REMOTE_ADDR="10.9.8.7", headers={"X-Forwarded-For": address})
            photo = SimpleUploadedFile("me.jpg", selfie, "image/jpeg")
            fields = {"consent": "true", "selfie": photo, "altcha": solution(customer)}
            said.append(customer.post("/api/v1/orders", fields).status_code)
        return said

    assert statuses() == [201, 429, 429]
    settings.TRUSTED_PROXIES = parse_networks("10.0.0.0/8")
    assert statuses() == [201, 201, 429]


# --- the page -----------------------------------------------------------------------------------------------


def test_the_form_names_the_challenge_and_the_scripts_that_solve_it(client: Client, built_in: None) -> None:
    page = client.get("/new").content.decode()

    (field,) = re.findall(r'<input type="hidden" name="altcha"[^>]*>', page)
    assert 'data-challenge="/api/v1/challenge"' in field
    scripts = [
        re.search(r'data-worker="/static/([^"]+)"', field),
        re.search(r'src="/static/(web/work.js)"', page),
    ]
    assert all(found and finders.find(found[1]) for found in scripts)
    assert client.get("/static/web/solve.js").status_code == 200
    assert "The free pack needs JavaScript." in page.partition("<noscript>")[2].partition("</noscript>")[0]


def test_a_form_that_asks_for_no_work_has_none_of_it(
    client: Client, built_in: None, settings: Settings
) -> None:
    settings.FREE_WORK = 0

    page = client.get("/new").content.decode()

    assert not [words for words in ("altcha", "noscript", "work.js") if words in page]


def test_a_posted_form_with_its_solution_is_an_order(client: Client, send: Send) -> None:
    assert send(altcha=solution(client)).status_code == 302
    assert Order.objects.count() == 1


def test_a_posted_form_without_one_is_shown_again_with_the_reason(send: Send) -> None:
    response = send()

    assert (response.status_code, code_of(response)) == (403, "challenge_missing")
    assert "Allow JavaScript for this page" in response.content.decode()
    assert nothing_is_stored()


def test_the_form_says_how_long_to_wait(client: Client, send: Send, settings: Settings) -> None:
    settings.FREE_PER_DAY = 1
    send(altcha=solution(client))

    response = send(altcha=solution(client))

    assert (response.status_code, code_of(response)) == (429, "too_many")
    wait = _wait(int(response["Retry-After"]))
    assert f"Please try again in {wait}, or choose premium." in response.content.decode()
    assert send(tier="premium").status_code == 302


def test_a_network_that_had_its_premium_orders_is_told_when_to_come_back(
    post: Callable[..., Any], send: Send, settings: Settings
) -> None:
    settings.PREMIUM_PER_HOUR = 1
    assert post(tier="premium").status_code == 201

    refused, shown = post(tier="premium"), send(tier="premium")

    seconds = int(refused["Retry-After"])
    assert 0 < seconds <= 3600
    assert (refused.status_code, shown.status_code) == (429, 429)
    assert refused.json() == {
        "code": "too_many_premium",
        "message": "Too many premium packs were ordered from your network for now.",
        "advice": f"Please try again in {_wait(seconds)}.",
    }
    assert "Too many premium packs were ordered from your network for now." in shown.content.decode()
    assert Order.objects.count() == 1
