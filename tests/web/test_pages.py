"""The public pages, their headers, receipts, errors and health."""

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.staticfiles import finders
from django.db import DatabaseError
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from headshots.exceptions import TEXTS
from headshots.models import Heartbeat, Order, Receipt
from headshots.services import consent, purge
from headshots.services.licences import LICENCES
from headshots.services.orders import Placed
from headshots.tiers import TIERS
from headshots.web import health
from headshots.web.middleware import POLICY

pytestmark = pytest.mark.django_db
PUBLIC = ("/", "/new", "/o", "/privacy", "/terms")


@pytest.mark.parametrize("path", [*PUBLIC, "/nowhere", "/admin/login/"])
def test_every_page_carries_the_policy_and_keeps_it(client: Client, built_in: None, path: str) -> None:
    response = client.get(path)

    page = response.content.decode()
    assert response["Content-Security-Policy"] == POLICY
    assert response["Referrer-Policy"] == "same-origin"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["Cross-Origin-Opener-Policy"] == "same-origin"
    assert response["X-Frame-Options"] == "DENY"
    assert "camera=()" in response["Permissions-Policy"]
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", page)
    assert not re.findall(r'(?:src|href|action)="(https?:)?//', page)


@pytest.mark.parametrize("path", PUBLIC)
def test_every_static_file_a_page_names_exists(client: Client, built_in: None, path: str) -> None:
    named = set(re.findall(r'"/static/([^"]+)"', client.get(path).content.decode()))

    assert {name for name in named if not finders.find(name)} == set()
    assert "web/site.css" in named


def test_sample_pictures_stay_small() -> None:
    corporate = finders.find("web/samples/corporate.jpg")
    assert isinstance(corporate, str)
    samples = list(Path(corporate).parent.glob("*.jpg"))

    assert len(samples) == 9
    assert max(sample.stat().st_size for sample in samples) <= 40_000


def test_the_front_page_says_what_it_costs_and_what_is_a_stand_in(client: Client, built_in: None) -> None:
    page = client.get("/").content.decode()

    assert page.count('<li>\n      <img src="/static/web/samples/') == 8
    assert "$19 <small>once</small>" in page
    for tier in TIERS.values():
        assert f"{tier.headshots} headshots</strong>, {tier.promise}" in page
        assert f"{tier.long_edge} pixels" in page
        assert tier.licence in page
    assert page.count("Up to 60 are made, and the best 50 that pass are yours.") == 1
    assert "Preview engine." in page
    assert "test mode" in page


def test_privacy_and_terms_quote_the_texts_that_count(client: Client) -> None:
    privacy, terms = (client.get(path).content.decode() for path in ("/privacy", "/terms"))

    assert consent.TEXT in privacy
    assert consent.VERSION in privacy
    for slug in TIERS:
        assert LICENCES[slug].summary in terms
        assert f'<a href="/licences/{slug}">The whole text of {LICENCES[slug].version}</a>' in terms


def test_a_receipt_page_shows_the_steps_and_then_the_text(
    client: Client, placed: Placed, settings: Settings
) -> None:
    settings.PURGE_SETTLE_SECONDS = 60
    address = f"/receipts/{placed.order.receipt_id}"
    before = client.get(address)
    purge.request(placed.order, actor="customer", now=timezone.now())

    waiting = client.get(address)
    unwritten = client.get(f"{address}/receipt.txt")
    purge.run(timezone.now() + timedelta(seconds=61))
    done = client.get(address)
    text = client.get(f"{address}/receipt.txt")

    assert (before.status_code, unwritten.status_code) == (404, 404)
    assert TEXTS["receipt_not_found"].message in before.content.decode()
    assert 'http-equiv="refresh"' in waiting.content.decode()
    assert waiting.content.decode().count('<li class="done">') == 4
    assert 'http-equiv="refresh"' not in done.content.decode()
    assert done.content.decode().count('<li class="done">') == 6
    assert Receipt.objects.get().text in done.content.decode()
    assert "no text can prove that a copy was never made elsewhere" in done.content.decode()
    assert text.content.decode() == Receipt.objects.get().text
    assert text["Content-Disposition"] == 'attachment; filename="deletion-receipt.txt"'
    assert "no-store" in done["Cache-Control"]


@pytest.mark.parametrize(
    "path", ["/nowhere", "/receipts/7F3K-9QXD-2M5W-PZ8T", "/orders/7/", "/admin/nowhere/x"]
)
def test_what_does_not_exist_is_said_in_our_own_words(client: Client, path: str) -> None:
    response = client.get(path, follow=True)

    if path.startswith("/admin"):
        assert response.status_code == 200  # the login
    else:
        assert response.status_code == 404
        assert 'class="wrap narrow refusal-page"' in response.content.decode()


def test_api_errors_outside_its_operations_have_the_one_shape(client: Client) -> None:
    response = client.get("/api/v1/nowhere")

    assert response.status_code == 404
    assert response.json() == {
        "code": "page_not_found",
        "message": TEXTS["page_not_found"].message,
        "advice": TEXTS["page_not_found"].advice,
    }


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("post", "/", "GET, HEAD"), ("put", "/new", "GET, POST, HEAD")]
)
def test_a_method_that_a_page_does_not_answer_is_405(
    client: Client, method: str, path: str, allowed: str
) -> None:
    response = getattr(client, method)(path)

    assert (response.status_code, response["Allow"]) == (405, allowed)
    assert TEXTS["method_not_allowed"].message in response.content.decode()


@pytest.mark.parametrize("path", ["/", "/api/v1/styles"])
def test_a_bug_of_ours_is_a_500_that_tells_nothing(
    built_in: None, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    def broken() -> None:
        raise RuntimeError("secret words")

    monkeypatch.setattr("headshots.services.styles.published_everywhere", broken)

    response = Client(raise_request_exception=False).get(path)

    assert response.status_code == 500
    assert TEXTS["server_error"].message in response.content.decode()
    assert "secret words" not in response.content.decode()


def test_a_request_for_another_host_is_a_400(client: Client) -> None:
    response = client.get("/", headers={"host": "evil.example"})

    assert response.status_code == 400
    assert TEXTS["malformed_request"].message in response.content.decode()


def test_robots_stay_out_of_orders(client: Client) -> None:
    assert "Disallow: /orders/\n" in client.get("/robots.txt").content.decode()


def test_liveness_asks_nothing_else(client: Client, django_assert_num_queries: Callable[..., object]) -> None:
    with django_assert_num_queries(0):  # type: ignore[attr-defined]
        assert client.get("/healthz").status_code == 200


def test_the_service_is_ready_with_a_store_and_nothing_overdue(client: Client, placed: Placed) -> None:
    response = client.get("/readyz")

    assert (response.status_code, response.json()) == (200, {"ready": True, "reasons": []})


def test_overdue_deletions_without_a_purge_make_it_unready(client: Client, placed: Placed) -> None:
    late = timezone.now() - timedelta(minutes=11)
    Order.objects.update(created_at=late - timedelta(hours=1), expires_at=late)

    without = client.get("/readyz")
    Heartbeat.objects.create(name=purge.HEARTBEAT, at=timezone.now())
    working = client.get("/readyz")

    assert without.status_code == 503
    assert without.json()["reasons"] == ["deletions are due and the purge has not run for ten minutes"]
    assert working.status_code == 200


def test_a_missing_store_and_a_silent_database_are_reasons(
    client: Client, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(now: object) -> None:
        raise DatabaseError

    (data / "blobs").rmdir()
    monkeypatch.setattr(health.Order.objects, "due", silent)

    response = client.get("/readyz")

    assert response.status_code == 503
    assert response.json()["reasons"] == ["the blob store cannot be written", "the database does not answer"]
