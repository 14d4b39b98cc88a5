"""The tasks: from a hint to a finished order, what they refuse, and what cannot stop them."""

from collections.abc import Callable
from datetime import timedelta
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from celery.exceptions import SoftTimeLimitExceeded
from django.db import OperationalError
from django.utils import timezone
from PIL import Image
from pytest_django import DjangoAssertNumQueries, Settings

from headshots import rendering, tasks
from headshots.celery import Task, app
from headshots.models import Order, Shot
from headshots.services import claiming, objects, orders, purge, shots
from headshots.services.orders import Placed
from headshots.states import OrderState, ShotState
from pipelines.errors import Final, Retryable
from pipelines.finish import finish
from pipelines.provenance import SourceType
from pipelines.types import Cancelled, FailedShot, FinishedShot, OutputSpec, QualityReport, Sink, Source

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


def jpeg(pixels: np.ndarray) -> bytes:  # type: ignore[type-arg]
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def test_every_task_that_services_name_is_registered_with_time_limits() -> None:
    for name in Task:
        task = app.tasks[name]
        assert 0 < task.soft_time_limit < task.time_limit


def test_an_order_goes_from_photo_to_three_pictures(placed: Placed, render_all: Callable[[], None]) -> None:
    render_all()

    order = Order.objects.get()
    assert order.state == OrderState.READY
    assert [(s.state, s.width, s.height) for s in order.shots.all()] == [("done", 896, 1152)] * 3
    assert len({shot.headshot_id for shot in order.shots.all()}) == 3


def test_an_assessment_of_an_unknown_or_deleted_order_does_nothing(placed: Placed) -> None:
    purge.request(placed.order, actor="customer", now=timezone.now())

    tasks.assess(str(placed.order.pk))
    tasks.assess("00000000-0000-0000-0000-000000000000")

    assert Order.objects.get().state == OrderState.PURGING


def test_a_photo_without_a_face_is_refused_with_its_code(place: Callable[..., Placed]) -> None:
    order = place(raw=jpeg(np.full((600, 600, 3), 127, np.uint8))).order

    tasks.assess(str(order.pk))

    order.refresh_from_db()
    assert (order.state, order.refusal_code) == (OrderState.REFUSED, "no_face")
    assert list(objects.blobs().list("o/")) == []


def test_an_assessment_that_comes_twice_has_one_effect(
    placed: Placed, sent: list[tuple[str, tuple[str, ...]]]
) -> None:
    tasks.assess(str(placed.order.pk))
    tasks.assess(str(placed.order.pk))

    order = Order.objects.get()
    assert (order.state, order.assess_attempts) == (OrderState.QUEUED, 1)


def test_photos_are_looked_at_one_at_a_time(placed: Placed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that looks for work once looked beside a task: the detector saw no face in either photo."""
    looks: list[bool] = []

    def look(portrait: object) -> None:
        looks.append(tasks._assessing.acquire(blocking=False))  # as another thread would

    monkeypatch.setattr(tasks, "_assessor", lambda: look)

    tasks.assess(str(placed.order.pk))

    assert looks == [False]
    assert not tasks._assessing.locked()


def test_a_hint_without_work_returns_at_once(built_in: None) -> None:
    tasks.render()

    assert not Shot.objects.exists()


def test_a_shot_that_cannot_be_prepared_does_not_stop_the_others(
    place: Callable[..., Placed], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, whole = place().order, place().order
    for order in (broken, whole):
        orders.accept(order, timezone.now())
    monkeypatch.setattr(shots, "RETRY_PAUSE", timedelta(hours=1))  # a slow machine must not try again here
    prepare = tasks.RenderRun._request

    def refuse_one(run: tasks.RenderRun, claimed: object) -> object:
        if claimed.shot.order_id == broken.pk:  # type: ignore[attr-defined]
            raise ValueError("a plan from another age")
        return prepare(run, claimed)  # type: ignore[arg-type]

    monkeypatch.setattr(tasks.RenderRun, "_request", refuse_one)
    tasks.render()

    assert Order.objects.get(pk=whole.pk).state == OrderState.READY
    assert set(broken.shots.values_list("state", "error_code", "attempts")) == {
        ("pending", "not_prepared", 1)
    }


def test_a_run_that_is_stopped_gives_its_shots_back(placed: Placed, monkeypatch: pytest.MonkeyPatch) -> None:
    orders.accept(placed.order, timezone.now())

    class Stopped:
        name = "stopped"

        def run(self, source: Callable[[int], object], *rest: object) -> None:
            source(2)
            raise SoftTimeLimitExceeded

    monkeypatch.setattr(tasks, "_engine", Stopped)
    with pytest.raises(SoftTimeLimitExceeded):
        tasks.render()

    assert set(Shot.objects.values_list("state", "attempts")) == {(ShotState.PENDING, 0)}


def test_a_run_that_breaks_spends_its_attempt(placed: Placed, monkeypatch: pytest.MonkeyPatch) -> None:
    orders.accept(placed.order, timezone.now())

    class Broken:
        name = "broken"

        def run(self, source: Callable[[int], object], *rest: object) -> None:
            source(1)
            raise OSError("device lost")

    monkeypatch.setattr(tasks, "_engine", Broken)
    with pytest.raises(OSError, match="device lost"):
        tasks.render()

    assert (Shot.objects.get(index=1).state, Shot.objects.get(index=1).attempts) == (ShotState.LEASED, 1)


def test_the_periodic_tasks_run_on_an_empty_house(built_in: None) -> None:
    tasks.sweep()
    tasks.purge_due()

    assert not Order.objects.exists()


# --- one run of the engine ----------------------------------------------------------------------------------


@pytest.fixture
def run(placed: Placed) -> rendering.RenderRun:
    """A run over an accepted free order, nothing claimed yet."""
    orders.accept(placed.order, timezone.now())
    return rendering.RenderRun()


def picture(shot_id: str) -> FinishedShot:
    done = finish(
        np.full((8, 6, 3), 127, np.uint8),
        output=OutputSpec(long_edge=8, is_watermarked=False),
        marks=(),
        source_type=SourceType.GENERATED,
    )
    return FinishedShot(
        shot_id=shot_id,
        seed=1,
        jpeg=done.jpeg,
        preview_jpeg=done.preview_jpeg,
        width=done.width,
        height=done.height,
        report=QualityReport(measures={}),
        seconds=0.1,
    )


def test_a_full_batch_asks_the_rows_once_a_second(
    run: rendering.RenderRun, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    requests = run.source(3)
    assert len(requests) == 3
    with django_assert_num_queries(1):
        for _ in range(30):
            assert [run.is_cancelled(request.shot_id) for request in requests] == [False] * 3


def test_a_dry_queue_is_not_asked_again_while_pictures_are_in_flight(
    run: rendering.RenderRun, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    requests = run.source(5)
    with django_assert_num_queries(0):
        assert run.source(2) == []
    for request in requests:
        run.sink(picture(request.shot_id))
    Shot.objects.filter(index=1).update(state=ShotState.PENDING)
    Order.objects.update(state=OrderState.RENDERING)
    assert [request.shot_id for request in run.source(5)] == [requests[0].shot_id]


def test_a_deleted_order_cancels_its_shots_and_a_late_picture_of_them_is_dropped(
    run: rendering.RenderRun, placed: Placed
) -> None:
    (request,) = run.source(1)
    purge.request(placed.order, actor="customer", now=timezone.now())
    assert run.is_cancelled(request.shot_id)
    run.sink(picture(request.shot_id))
    assert run.held == []
    assert not Shot.objects.filter(state=ShotState.DONE).exists()


def test_a_store_that_is_away_gives_the_shot_back_with_its_attempt(
    run: rendering.RenderRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    (request,) = run.source(1)

    def away(*arguments: object) -> None:
        raise Retryable("store_away")

    monkeypatch.setattr(objects, "put", away)
    run.sink(picture(request.shot_id))

    shot = Shot.objects.get(pk=request.shot_id)
    assert (shot.state, shot.attempts, shot.error_code) == (ShotState.PENDING, 0, "store_away")
    assert shot.not_before > timezone.now()
    assert run.held == []


def test_a_selfie_that_cannot_be_fetched_costs_no_attempt(
    run: rendering.RenderRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*arguments: object) -> bytes:
        raise Retryable("store_away")

    monkeypatch.setattr(objects, "read", away)
    assert run.source(3) == []
    assert set(Shot.objects.values_list("state", "attempts", "error_code")) == {("pending", 0, "store_away")}


def test_a_disk_that_is_full_spends_the_attempt_and_not_the_run(
    run: rendering.RenderRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    (request,) = run.source(1)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(objects, "put", full)
    run.sink(picture(request.shot_id))

    shot = Shot.objects.get(pk=request.shot_id)
    assert (shot.state, shot.attempts, shot.error_code) == (ShotState.PENDING, 1, "not_stored")


def test_a_picture_waits_for_a_database_that_comes_back(
    run: rendering.RenderRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    (request,) = run.source(1)
    answers = iter([OperationalError, OperationalError, None])
    commit = shots.commit

    def restarting(*arguments: object) -> bool:
        if error := next(answers):
            raise error
        return commit(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(shots, "commit", restarting)
    monkeypatch.setattr(rendering, "connection", type("Kept", (), {"close": staticmethod(lambda: None)}))
    monkeypatch.setattr(rendering, "DATABASE_PAUSES_SECONDS", (0, 0, 0))
    run.sink(picture(request.shot_id))

    assert Shot.objects.get(pk=request.shot_id).state == ShotState.DONE


def test_a_database_that_stays_away_ends_the_run(
    run: rendering.RenderRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    (request,) = run.source(1)

    def away(*arguments: object) -> bool:
        raise OperationalError

    monkeypatch.setattr(shots, "commit", away)
    monkeypatch.setattr(rendering, "connection", type("Kept", (), {"close": staticmethod(lambda: None)}))
    monkeypatch.setattr(rendering, "DATABASE_PAUSES_SECONDS", (0,))
    with pytest.raises(OperationalError):
        run.sink(picture(request.shot_id))
    assert run.held == []  # its lease runs out


def test_a_picture_that_was_kept_survives_the_error_that_came_after_and_is_delivered_by_the_sweep(
    run: rendering.RenderRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks between the server's COMMIT and its answer."""
    (request,) = run.source(1)
    keep = shots._keep

    def unheard(*arguments: object) -> bool:
        keep(*arguments)  # type: ignore[arg-type]
        raise OSError("connection reset")

    monkeypatch.setattr(shots, "_keep", unheard)
    run.sink(picture(request.shot_id))
    assert Shot.objects.get(pk=request.shot_id).state == ShotState.KEPT
    shots.sweep(timezone.now())

    shot = Shot.objects.get(pk=request.shot_id)
    assert shot.state == ShotState.DONE
    assert objects.read(shot.headshot, timezone.now())[:3] == b"\xff\xd8\xff"


def test_a_worker_that_stops_claims_nothing_and_gives_back_what_its_grace_is_too_short_for(
    run: rendering.RenderRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "GRACE_SECONDS", 0.0)
    given: list[list[bool]] = []

    class Slow:
        name = "slow"

        def run(self, source: Source, sink: Sink, cancelled: Cancelled) -> None:
            flying = source(2)
            rendering.stop()
            assert source(1) == []
            given.append([cancelled(request.shot_id) for request in flying])

    monkeypatch.setattr(tasks, "_engine", Slow)
    try:
        tasks.render()
    finally:
        rendering._stopping[0] = 0

    assert given == [[True, True]]
    assert set(Shot.objects.values_list("state", "attempts")) == {(ShotState.PENDING, 0)}


def test_a_process_renders_in_one_thread_at_a_time(run: rendering.RenderRun) -> None:
    assert tasks._draining.acquire(blocking=False)
    try:
        tasks.render()
    finally:
        tasks._draining.release()
    assert set(Shot.objects.values_list("state", flat=True)) == {ShotState.PENDING}


@pytest.mark.parametrize(("moves", "kept"), [(True, 6), (False, 2)])
def test_an_engine_that_stands_still_loses_its_leases(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, moves: bool, kept: int
) -> None:
    settings.LEASE_SECONDS, settings.STUCK_SECONDS = 40, 30  # a beat each ten seconds
    beats: list[int] = []
    run = rendering.RenderRun()

    class SixBeats:
        def wait(self, seconds: float) -> bool:
            assert seconds == 10
            run.moves += moves
            beats.append(len(beats))
            return len(beats) > 6

    extended: list[object] = []
    monkeypatch.setattr(rendering, "_keep", lambda run, now: extended.append(now))
    monkeypatch.setattr(rendering, "connections", type("Kept", (), {"close_all": staticmethod(lambda: None)}))
    rendering._beat(run, SixBeats())  # type: ignore[arg-type]

    assert len(extended) == kept


def test_only_leases_that_the_run_knows_are_kept(run: rendering.RenderRun) -> None:
    run.source(1)
    Shot.objects.filter(index=2).update(
        state=ShotState.LEASED, lease_owner=run.owner, lease_until=timezone.now()
    )
    assert claiming.extend(run.owner, timezone.now(), run.held) == 1


def test_the_engine_is_warmed_by_one_step_or_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks.warm_engine()

    class Blind:
        name = "blind"

        def run(self, source: Source, sink: Sink, cancelled: Cancelled) -> None:
            (request,) = source(1)
            sink(FailedShot(shot_id=request.shot_id, code="no_face", is_retryable=False))

    monkeypatch.setattr(tasks, "_engine", Blind)
    with pytest.raises(Final, match="no_face"):
        tasks.warm_engine()


def test_nobody_else_loads_the_engine_while_it_is_being_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that load networks at once break each other's: the one that looks for work has to wait."""
    loads: list[str] = []

    def load() -> SimpleNamespace:
        loads.append("loaded")
        tasks.drain()  # what the thread that looks for work would do just now
        return SimpleNamespace(run=lambda source, sink, cancelled: None)

    monkeypatch.setattr(tasks, "_engine", load)

    tasks.warm_engine()

    assert loads == ["loaded"]
