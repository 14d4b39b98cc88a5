"""The service's clock: what it does when the clocks around it jump, and what that does to orders."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.utils import timezone

from headshots.exceptions import NotFound, Refusal
from headshots.models import Order
from headshots.services import clock, delivery, orders, uploads
from headshots.services.orders import Placed
from headshots.states import OrderState
from headshots.vault.envelope import Kind

pytestmark = pytest.mark.slow

Turn = Callable[[timedelta], None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Turn:
    """Turns this machine's clock, to an offset from the true time."""

    def turn(offset: timedelta) -> None:
        monkeypatch.setattr(clock, "system_time", lambda: datetime.now(UTC) + offset)

    return turn


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Turn:
    """Turns the database server's clock."""

    def turn(offset: timedelta) -> None:
        monkeypatch.setattr(clock, "ask_database", lambda: datetime.now(UTC) + offset)

    return turn


def restart(data: Path) -> None:
    """What a new process begins with: nothing but the mark."""
    clock._seen.clear()


@pytest.mark.django_db
def test_it_is_the_time_of_this_machine_while_nothing_is_wrong(now: datetime) -> None:
    assert timedelta(0) <= clock.now() - now < timedelta(seconds=30)
    assert clock.problem() == ""


@pytest.mark.django_db
def test_a_clock_that_is_set_back_does_not_take_the_process_with_it(machine: Turn) -> None:
    before = clock.now()

    machine(-timedelta(days=3))

    assert clock.now() >= before


@pytest.mark.django_db
def test_a_clock_that_is_set_back_over_a_restart_stays_at_the_mark(data: Path, machine: Turn) -> None:
    machine(timedelta(hours=2))
    late = clock.now()

    machine(timedelta(0))
    restart(data)

    assert clock.now() >= late


@pytest.mark.django_db
def test_the_mark_is_a_private_file_beside_the_keys(data: Path) -> None:
    at = clock.now()

    path = data / "keys" / "clock.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text()) == {"era": 0, "at": at.isoformat()}


@pytest.mark.django_db
def test_the_mark_is_not_written_at_every_look(data: Path) -> None:
    clock.now()
    written = (data / "keys" / "clock.json").stat().st_mtime_ns

    for _ in range(50):
        clock.now()

    assert (data / "keys" / "clock.json").stat().st_mtime_ns == written


@pytest.mark.django_db
def test_two_processes_never_lower_each_others_mark(data: Path, machine: Turn) -> None:
    path = data / "keys" / "clock.json"
    clock.now()
    clock._raise_mark(path, datetime(2100, 1, 1, tzinfo=UTC), 0)

    clock._raise_mark(path, datetime(2050, 1, 1, tzinfo=UTC), 0)

    assert clock.read_mark(path).at == datetime(2100, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"era": 0, "at": "soon"}'])
@pytest.mark.django_db
def test_a_mark_that_cannot_be_read_is_not_guessed(data: Path, content: str) -> None:
    (data / "keys" / "clock.json").write_text(content)

    with pytest.raises(ValueError):  # noqa: PT011 (json says one thing, we another)
        clock.now()


@pytest.mark.django_db
def test_a_database_that_is_ahead_is_believed(database: Turn) -> None:
    database(timedelta(minutes=10))

    assert clock.now() - datetime.now(UTC) > timedelta(minutes=9)


@pytest.mark.django_db
@pytest.mark.parametrize("minutes", [-10, 10])
def test_clocks_that_disagree_stop_the_intake_and_show(
    client: Client, place: Callable[..., Placed], database: Turn, minutes: int
) -> None:
    database(timedelta(minutes=minutes))

    with pytest.raises(Refusal, match="clock_skew"):
        place()

    assert not Order.objects.exists()
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["reasons"] == [
        "the clocks of this machine, its past and the database are 600 s apart"
    ]


@pytest.mark.django_db
def test_a_customer_is_told_in_words_why_nothing_is_taken(
    client: Client, selfie: bytes, database: Turn
) -> None:
    database(timedelta(minutes=10))

    response = client.post("/api/v1/orders", {"consent": "true", "tier": "free", "selfie": _file(selfie)})

    assert (response.status_code, response.json()["code"]) == (503, "clock_skew")


@pytest.mark.django_db
def test_half_a_minute_is_nothing(place: Callable[..., Placed], database: Turn) -> None:
    database(timedelta(seconds=30))

    place()

    assert clock.problem() == ""


@pytest.mark.django_db
def test_a_clock_that_jumps_back_revives_nothing(
    placed: Placed, client: Client, data: Path, machine: Turn, render_all: Callable[[], None]
) -> None:
    render_all()
    assert delivery.open_headshot(placed.order, 1, Kind.PREVIEW, clock.now())
    machine(placed.order.expires_at - timezone.now() + timedelta(seconds=1))
    clock.now()

    machine(timedelta(0))
    restart(data)

    page = client.get(
        f"/api/v1/orders/{placed.order.pk}", headers={"Authorization": f"Bearer {placed.token}"}
    )
    assert (page.status_code, page.json()["code"]) == (404, "order_not_found")
    with pytest.raises(NotFound):
        delivery.open_headshot(placed.order, 1, Kind.PREVIEW, clock.now())
    with pytest.raises(NotFound):
        uploads.open_selfie(placed.order, clock.now())


@pytest.mark.django_db
def test_no_archive_of_an_order_is_begun_past_its_end(
    placed: Placed, machine: Turn, render_all: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even its licence, though the page found the order a moment earlier and nothing has purged since."""
    monkeypatch.setattr(delivery.purge, "nudge", lambda now: None)
    render_all()
    machine(placed.order.expires_at - timezone.now() + timedelta(seconds=1))

    with pytest.raises(NotFound):
        delivery.stream_archive(placed.order, clock.now())


@pytest.mark.django_db
def test_a_caller_with_an_old_time_reads_nothing_either(
    placed: Placed, now: datetime, machine: Turn, render_all: Callable[[], None]
) -> None:
    """A download that began before the end and lasts longer."""
    render_all()
    pieces = delivery.stream_archive(placed.order, now)
    next(pieces)

    machine(placed.order.expires_at - timezone.now() + timedelta(seconds=1))

    with pytest.raises(NotFound):
        list(pieces)


@pytest.mark.django_db
def test_an_operator_takes_a_wrong_jump_back_and_what_it_ended_stays_ended(
    placed: Placed, place: Callable[..., Placed], machine: Turn, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(timedelta(hours=48))
    clock.now()
    machine(timedelta(0))
    with pytest.raises(Refusal, match="clock_skew"):
        place()

    call_command("purge", "--reset-clock")

    assert "the clock is at" in capsys.readouterr().out
    assert clock.problem() == ""
    assert clock.now() - datetime.now(UTC) < timedelta(seconds=30)
    assert Order.objects.get().state in (OrderState.PURGING, OrderState.PURGED)
    with pytest.raises(NotFound):
        orders.find(placed.order.pk, placed.token, clock.now())


@pytest.mark.django_db
def test_the_databases_own_clock_is_asked_where_it_has_one() -> None:
    answer = clock.ask_database()

    if connection.vendor == "sqlite":
        assert answer is None
    else:
        assert answer is not None
        assert abs(answer - datetime.now(UTC)) < timedelta(seconds=60)


def _file(data: bytes) -> object:
    from django.core.files.uploadedfile import SimpleUploadedFile

    return SimpleUploadedFile("a.jpg", data, "image/jpeg")
