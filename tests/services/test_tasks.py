"""The tasks: from a hint to a finished order, what they refuse, and what cannot stop them."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from celery.exceptions import SoftTimeLimitExceeded
from django.utils import timezone
from PIL import Image

from headshots import tasks
from headshots.celery import Task, app
from headshots.models import Order, Shot
from headshots.services import objects, orders, purge
from headshots.services.orders import Placed
from headshots.states import OrderState, ShotState

pytestmark = pytest.mark.django_db


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


def test_a_hint_without_work_returns_at_once(built_in: None) -> None:
    tasks.render()

    assert not Shot.objects.exists()


def test_a_shot_that_cannot_be_prepared_does_not_stop_the_others(
    place: Callable[..., Placed], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, whole = place().order, place().order
    for order in (broken, whole):
        orders.accept(order, timezone.now())
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
