"""A worker whose clock is ahead of the database's: leases that others keep alive look lapsed to it."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from headshots import rendering, tasks, worker
from headshots.admin import dashboard
from headshots.models import Order, Shot
from headshots.services import claiming, clock, doctor, orders, workers
from headshots.services.orders import Placed

pytestmark = pytest.mark.django_db

AHEAD = timedelta(seconds=70)  # beyond any lease


@pytest.fixture
def ahead_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Turns this machine's clock ahead of the true time, which the database has."""
    monkeypatch.setattr(clock, "ask_database", lambda: datetime.now(UTC))
    clock._seen.clear()  # what a database without a clock said

    def turn(offset: timedelta) -> None:
        monkeypatch.setattr(clock, "system_time", lambda: datetime.now(UTC) + offset)

    return turn


@pytest.fixture
def held(placed: Placed) -> list[claiming.Claim]:
    """Three shots that a healthy worker on another machine is at, for the last time that one may be."""
    orders.accept(placed.order, timezone.now())
    claims = claiming.claim("healthy", 3, timezone.now())
    Shot.objects.update(attempts=claiming.MAX_ATTEMPTS)
    return claims


def rows() -> list[tuple[object, ...]]:
    return list(
        Shot.objects.order_by("pk").values_list(
            "state", "attempts", "lease_owner", "lease_token", "error_code"
        )
    )


def test_it_takes_no_shot_from_a_worker_that_is_at_it(
    placed: Placed, ahead_by: Callable[[timedelta], None]
) -> None:
    orders.accept(placed.order, timezone.now())
    claims = claiming.claim("healthy", 3, timezone.now())
    before = rows()
    ahead_by(AHEAD)
    assert claiming.has_claimable(clock.now())  # by its own clock

    assert list(rendering.RenderRun().source(8)) == []
    tasks.render()

    assert rows() == before
    assert len(claiming.wanted(claims)) == 3


def test_it_gives_up_no_shot_that_a_worker_is_at(
    held: list[claiming.Claim], ahead_by: Callable[[timedelta], None]
) -> None:
    before = rows()
    ahead_by(AHEAD)

    tasks.sweep()
    worker._mend(clock.now())

    assert rows() == before
    assert len(claiming.wanted(held)) == 3


def test_it_looks_at_no_photo(placed: Placed, ahead_by: Callable[[timedelta], None]) -> None:
    ahead_by(AHEAD)

    tasks.assess(str(placed.order.pk))

    assert Order.objects.get().state == "assessing"
    assert Order.objects.get().assess_attempts == 0


@pytest.mark.parametrize("seconds", [-70, 0, 14])
def test_a_clock_that_is_behind_or_a_little_ahead_takes_work(
    placed: Placed, ahead_by: Callable[[timedelta], None], seconds: int
) -> None:
    """Behind, the later of the two counts, which is the database's."""
    orders.accept(placed.order, timezone.now())
    ahead_by(timedelta(seconds=seconds))

    assert workers.problem() == ""
    assert len(rendering.RenderRun().source(8)) == 3


def test_it_says_so_once_and_again_when_it_happens_again(
    ahead_by: Callable[[timedelta], None], caplog: pytest.LogCaptureFixture
) -> None:
    ahead_by(AHEAD)
    with caplog.at_level(logging.INFO, logger="headshots.services.workers"):
        assert workers.problem() == workers.problem() != ""
        first = [record.getMessage() for record in caplog.records]
        ahead_by(timedelta(0))
        clock.take_back()
        assert workers.problem() == ""
        ahead_by(AHEAD)
        workers.problem()

    assert first == ["the time of this machine is 70 s ahead of the database's: it takes no work"]
    assert [record.getMessage() for record in caplog.records] == first * 2


def test_the_doctor_and_the_dashboard_say_so(ahead_by: Callable[[timedelta], None]) -> None:
    now = timezone.now()
    ahead_by(timedelta(seconds=20))
    worker._render_waiting(clock.now())

    (finding,) = [found for found in doctor.examine() if found.check == "clocks"]
    (table,) = [
        each for each in dashboard.read(now, count_store=False) if each.title == "Workers that render"
    ]

    assert finding.message == (
        "the time of this machine is 20 s ahead of the database's: it takes no work; "
        "once they are right: manage.py purge --reset-clock"
    )
    assert table.note == "The clock of 1 worker is ahead; beyond 15 s it takes no work."


def test_a_database_that_is_slow_to_tell_the_time_sets_nobody_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = 0.0

    def ask() -> datetime:
        nonlocal waited
        waited += 8.0 if waited == 0 else 0.0
        return datetime.now(UTC) + timedelta(seconds=waited)

    monkeypatch.setattr(clock, "system_time", lambda: datetime.now(UTC) + timedelta(seconds=waited))
    monkeypatch.setattr(clock, "_ticks", lambda: waited)
    monkeypatch.setattr(clock, "ask_database", ask)

    assert clock.now() - clock.system_time() < timedelta(seconds=1)
    assert clock.lead() < timedelta(seconds=1)
