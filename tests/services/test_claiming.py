"""Claims as rows: which shots wait, what a claim brings along, and that no write passes another unseen."""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection, connections, transaction

from headshots.models import Order, Shot
from headshots.services import claiming, fencing, orders, queue_rows, uploads
from headshots.services.fair_queue import InFlight
from headshots.services.orders import Placed
from headshots.states import OrderState, ShotState

SECOND = timedelta(seconds=1)

on_postgres = pytest.mark.skipif(
    connection.vendor != "postgresql", reason="SQLite has one writer: infra/dev test runs this on Postgres"
)


@pytest.fixture(autouse=True)
def unlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are taken as they are: the process that cleans them has tests of its own, and takes its time."""
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)


@pytest.fixture
def queued(placed: Placed, now: datetime) -> Order:
    orders.accept(placed.order, now)
    return Order.objects.get()


def waiting(now: datetime) -> set[int]:
    found = queue_rows.waiting(50, InFlight(), now, skip_locked=True)
    return {each.shot for lane in found.values() for each in lane}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("of_shot", "of_order", "is_waiting"),
    [
        ({}, {}, True),
        ({"state": "leased", "lease_until": -1}, {}, True),
        ({"state": "leased", "lease_until": 0}, {}, False),
        ({"state": "leased", "lease_until": 1}, {}, False),
        ({"state": "done"}, {}, False),
        ({"state": "failed", "error_code": "artefacts"}, {}, False),
        ({"attempts": claiming.MAX_ATTEMPTS - 2}, {}, True),
        ({"attempts": claiming.MAX_ATTEMPTS}, {}, False),
        ({"not_before": 0}, {}, True),
        ({"not_before": 1}, {}, False),
        ({"virtual_finish": None}, {}, False),
        ({}, {"state": "rendering"}, True),
        ({}, {"state": "ready"}, False),
        ({}, {"state": "purging"}, False),
    ],
)
def test_a_shot_waits_by_its_own_row_and_its_orders(
    queued: Order, now: datetime, of_shot: dict[str, Any], of_order: dict[str, Any], is_waiting: bool
) -> None:
    """Asked in both ways: by the sweep, and by the statements that a worker claims with."""
    times = {"lease_until", "not_before"}
    changes = {name: now + value * SECOND if name in times else value for name, value in of_shot.items()}
    Shot.objects.update(**changes)
    Order.objects.update(**of_order)

    expected = set(Shot.objects.values_list("pk", flat=True)) if is_waiting else set()
    assert set(claiming.claimable(now).values_list("pk", flat=True)) == expected
    assert waiting(now) == expected
    assert claiming.has_claimable(now) == is_waiting
    assert {each.shot.pk for each in claiming.claim("worker", 3, now)} == expected


@pytest.mark.django_db
def test_a_claim_brings_the_rows_as_they_are_in_the_database(queued: Order, now: datetime) -> None:
    claimed = claiming.claim("worker", 3, now)

    assert [each.shot.index for each in claimed] == [1, 2, 3]
    for each in claimed:
        row = Shot.objects.select_related("order", "style_version__style").get(pk=each.shot.pk)
        for ours, theirs in (
            (each.shot, row),
            (each.shot.style_version, row.style_version),
            (each.shot.style_version.style, row.style_version.style),
        ):
            names = [field.attname for field in theirs._meta.concrete_fields]
            assert {n: getattr(ours, n) for n in names} == {n: getattr(theirs, n) for n in names}
        assert (row.state, row.attempts, row.lease_token, row.lease_owner) == ("leased", 1, 1, "worker")
        assert row.lease_until == now + 60 * SECOND
        assert each.shot.style_version.preset() == row.style_version.preset()
        assert each.shot.order.seed_root == row.order.seed_root
        assert each.seeds == orders.seeds_of(row.order, row.style_version_id, row.index)
    assert Order.objects.get().state == OrderState.RENDERING
    assert Order.objects.get().started_at == now


@pytest.mark.django_db
def test_a_claim_asks_the_database_the_same_few_questions_however_deep_the_queue_is(
    place: Callable[..., Placed], now: datetime, django_assert_num_queries: Any
) -> None:
    for _ in range(3):
        orders.accept(place().order, now)
    claiming.claim("worker", 1, now)

    # Any? Begin. In flight, the heads of all lanes, the lease, its orders, versions, styles; the clock. End.
    with django_assert_num_queries(10):
        claiming.claim("worker", 2, now)


@pytest.mark.django_db
def test_nothing_of_a_fenced_order_is_written(queued: Order, now: datetime) -> None:
    (claimed,) = claiming.claim("worker", 1, now)
    fencing.begin(queued, reason="customer", now=now)

    assert not claiming.held(claimed).exists()


@on_postgres
@pytest.mark.django_db(transaction=True)
def test_an_outcome_that_waited_for_the_row_looks_at_it_again(queued: Order, now: datetime) -> None:
    """One worker closes a shot while another is at its commit: who comes second changes nothing."""
    (claimed,) = claiming.claim("worker", 1, now)
    moved: list[int] = []

    def keep() -> None:
        moved.append(claiming.held(claimed).update(error_code="overwritten"))
        connections.close_all()

    late = threading.Thread(target=keep)
    with transaction.atomic():
        Shot.objects.filter(pk=claimed.shot.pk).move(ShotState.FAILED, error_code="first")
        late.start()
        _wait_for_a_blocked_writer()
    late.join(timeout=60)

    assert moved == [0]
    assert Shot.objects.get(pk=claimed.shot.pk).error_code == "first"


def _wait_for_a_blocked_writer() -> None:
    with connection.cursor() as cursor:
        for _ in range(1000):
            cursor.execute("SELECT pg_sleep(0.01), count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[1]:
                return
    raise AssertionError("nobody waited for the row")
