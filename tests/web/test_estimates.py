"""What customers and programs are told of the wait, and of a queue that is full."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from headshots.exceptions import TEXTS, Refusal
from headshots.models import Order, Shot
from headshots.services import clock, estimates, orders, uploads
from headshots.services.estimates import Estimate
from headshots.services.orders import Placed
from headshots.states import OrderState
from headshots.web.order_views import about
from tests.web.conftest import Send, code_of, hold

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 3, 1, 12, 0, 3, tzinfo=UTC)


@pytest.fixture(autouse=True)
def unlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are taken as they are: the process that cleans them has tests of its own, and takes its time."""
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)


@pytest.fixture
def expect(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
    """Lets every order be estimated at so many seconds."""

    def set_to(start_seconds: float, ready_seconds: float) -> None:
        estimate = Estimate(start_seconds=start_seconds, ready_seconds=ready_seconds)
        monkeypatch.setattr(estimates, "of_order", lambda order, now: estimate)

    return set_to


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "less than a minute"),
        (44, "less than a minute"),
        (46, "about a minute"),
        (100, "about 2 minutes"),
        (10 * 60, "about 10 minutes"),
        (13 * 60, "about 15 minutes"),
        (40 * 60, "about 40 minutes"),
        (55 * 60, "about an hour"),
        (150 * 60, "about 2 hours"),
    ],
)
def test_a_wait_reads_as_a_person_says_it(seconds: float, text: str) -> None:
    assert about(seconds) == text


def test_the_page_says_when_it_starts_and_when_it_is_ready(
    client: Client, placed: Placed, expect: Callable[[float, float], None]
) -> None:
    hold(client, placed)
    orders.accept(placed.order, clock.now())
    page = f"/orders/{placed.order.pk}/"

    assert 'class="expected"' not in client.get(page).content.decode()
    expect(120, 300)
    assert "Starts in about 2 minutes, ready in about 5 minutes." in client.get(page).content.decode()
    Order.objects.update(state=OrderState.RENDERING, started_at=clock.now())
    assert "Ready in about 5 minutes." in client.get(page).content.decode()


def test_the_part_of_the_page_changes_with_its_words_alone(
    client: Client, placed: Placed, expect: Callable[[float, float], None]
) -> None:
    hold(client, placed)
    orders.accept(placed.order, clock.now())
    seen = "queued-0-0-0-0-starts-in-about-2-minutes-ready-in-about-5-minutes"
    part = f"/orders/{placed.order.pk}/progress?seen={seen}"

    expect(115, 295)
    assert client.get(part).status_code == 204
    expect(60, 240)
    assert client.get(part).status_code == 200


def test_the_api_gives_rounded_times_and_null_where_nothing_is_known(
    client: Client,
    placed: Placed,
    expect: Callable[[float, float], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    orders.accept(placed.order, clock.now())
    ends = {"expires_at": NOON + timedelta(hours=20), "not_after": NOON + timedelta(hours=21)}
    Order.objects.update(created_at=NOON, **ends)
    Shot.objects.update(not_before=NOON)
    monkeypatch.setattr(clock, "now", lambda: NOON)

    def shown() -> tuple[object, object]:
        headers = {"Authorization": f"Bearer {placed.token}"}
        body = client.get(f"/api/v1/orders/{placed.order.pk}", headers=headers).json()
        return body["estimated_start_at"], body["estimated_ready_at"]

    assert shown() == (None, None)
    expect(15, 200)
    assert shown() == ("2026-03-01T12:00:20Z", "2026-03-01T12:04:00Z")


def test_a_full_queue_is_said_beside_the_form_and_to_programs(
    client: Client, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise Refusal("queue_full")

    monkeypatch.setattr(estimates, "require_room", refuse)
    page = send()
    fields = {"tier": "free", "consent": "true"}
    answer = client.post(
        "/api/v1/orders", {**fields, "selfie": SimpleUploadedFile("me.jpg", b"a photo", "image/jpeg")}
    )

    assert (page.status_code, code_of(page), page["Retry-After"]) == (503, "queue_full", "600")
    assert TEXTS["queue_full"].message in page.content.decode()
    assert (answer.status_code, answer.json()["code"], answer["Retry-After"]) == (503, "queue_full", "600")
    assert not Order.objects.exists()


def test_a_refusal_that_waiting_does_not_mend_has_no_retry_after(client: Client, built_in: None) -> None:
    assert "Retry-After" not in client.post("/api/v1/orders", {"tier": "free", "consent": "true"})
