"""How claimed shots get their photos: what a store that is away costs, and which photos stay in memory."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from django.utils import timezone

from headshots import rendering, tasks
from headshots.models import Order, Shot
from headshots.services import objects, orders, uploads
from headshots.services.orders import Placed
from pipelines.errors import Retryable
from pipelines.types import Cancelled, Sink, Source
from tests.services.test_tasks import picture

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def unlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are taken as they are: the process that cleans them has tests of its own, and takes its time."""
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)


@pytest.fixture
def start(place: Callable[..., Placed]) -> Callable[[], Order]:
    """An accepted free order."""

    def start_one() -> Order:
        order = place().order
        orders.accept(order, timezone.now())
        return Order.objects.get(pk=order.pk)

    return start_one


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The process's own count of seconds; a test adds what passes."""
    passed = [1000.0]
    monkeypatch.setattr(rendering.time, "monotonic", lambda: sum(passed))
    return passed


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The orders whose photos were opened, in this order."""
    opened: list[object] = []
    real = uploads.open_selfie

    def open_selfie(order: Order, now: datetime) -> bytes:
        opened.append(order.pk)
        return real(order, now)

    monkeypatch.setattr(uploads, "open_selfie", open_selfie)
    return opened


def away(*arguments: Any) -> bytes:
    raise Retryable("store_away")


def test_a_store_that_is_away_is_asked_once_and_all_that_were_claimed_go_back(
    start: Callable[[], Order],
    monkeypatch: pytest.MonkeyPatch,
    seconds: list[float],
    reads: list[object],
) -> None:
    """Each question may take a minute: eight of them would outlast the leases."""
    for _ in range(4):
        start()
    run = rendering.RenderRun()
    monkeypatch.setattr(objects, "read", away)

    assert run.source(8) == []

    assert len(reads) == 1
    assert run.held == []
    rows = Shot.objects.values_list("state", "attempts", "error_code", "lease_owner")
    assert sorted(rows) == [("pending", 0, "", "")] * 4 + [("pending", 0, "store_away", "")] * 8


def test_nothing_is_claimed_while_the_store_rests_and_pictures_in_flight_go_on(
    start: Callable[[], Order],
    monkeypatch: pytest.MonkeyPatch,
    seconds: list[float],
    reads: list[object],
) -> None:
    start()
    run = rendering.RenderRun()
    flying = run.source(3)
    start()
    real = objects.read
    monkeypatch.setattr(objects, "read", away)
    assert run.source(5) == []
    monkeypatch.setattr(objects, "read", real)

    seconds.append(14.9)
    start()
    assert run.source(5) == []
    assert len(reads) == 2
    assert run.held == [int(request.shot_id) for request in flying]
    seconds.append(0.2)
    assert len(run.source(3)) == 3


def test_claims_are_held_while_their_photos_are_fetched_and_the_engine_counts_as_moving(
    start: Callable[[], Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        start()
    run = rendering.RenderRun()
    seen: list[tuple[int, int]] = []
    real = objects.read

    def slow(*arguments: Any) -> bytes:
        seen.append((len(run.held), run.moves))
        return real(*arguments)

    monkeypatch.setattr(objects, "read", slow)

    assert len(run.source(6)) == 6
    assert seen == [(6, 2), (6, 5)]


def test_a_worker_asked_to_stop_fetches_nothing_more_and_gives_back_what_it_has_not_begun(
    start: Callable[[], Order], monkeypatch: pytest.MonkeyPatch, reads: list[object]
) -> None:
    first, second = start(), start()
    real = objects.read

    def stopping(*arguments: Any) -> bytes:
        rendering.stop()
        return real(*arguments)

    class Engine:
        name = "quick"

        def run(self, source: Source, sink: Sink, cancelled: Cancelled) -> None:
            for request in source(6):
                sink(picture(request.shot_id))

    monkeypatch.setattr(objects, "read", stopping)
    monkeypatch.setattr(tasks, "_engine", Engine)
    try:
        tasks.drain()
    finally:
        rendering._stopping[0] = 0

    assert reads == [first.pk]
    assert sorted(first.shots.values_list("state", "attempts")) == [
        ("done", 1),
        ("pending", 0),
        ("pending", 0),
    ]
    assert set(second.shots.values_list("state", "attempts")) == {("pending", 0)}


def test_orders_that_take_turns_open_each_photo_once_and_photos_of_those_that_ended_are_dropped(
    start: Callable[[], Order], reads: list[object]
) -> None:
    first, second = start(), start()
    for place, shot in enumerate(Shot.objects.order_by("index", "order__created_at"), start=1):
        Shot.objects.filter(pk=shot.pk).update(virtual_finish=place)
    run = rendering.RenderRun()

    requests = [run.source(1)[0] for _ in range(6)]

    assert [request.identity for request in requests] == [first.pk.hex, second.pk.hex] * 3
    assert reads == [first.pk, second.pk]
    for request in requests:
        run.sink(picture(request.shot_id))
    last = start()
    run.source(1)
    assert reads == [first.pk, second.pk, last.pk]
    assert list(run._portraits) == [last.pk]
