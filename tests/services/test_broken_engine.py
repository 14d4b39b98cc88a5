"""An engine that breaks: what it held goes back, nobody else pays for it, and the process ends."""

from collections.abc import Callable, Sequence

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from django.utils import timezone

from headshots import breakdown, tasks
from headshots.models import Order, Shot
from headshots.services import orders, uploads
from headshots.services.orders import Placed
from headshots.states import OrderState
from pipelines.errors import EngineBroken
from pipelines.types import Cancelled, FailedShot, Sink, Source
from tests.services.test_tasks import picture

pytestmark = pytest.mark.django_db


class Ended(BaseException):
    """In place of the end of this process."""


@pytest.fixture(autouse=True)
def child(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process as a child of a pool: it ends by raising Ended, and has seen no error yet."""

    def end(code: int) -> None:
        assert code == 70
        raise Ended

    monkeypatch.setattr(breakdown.os, "_exit", end)
    monkeypatch.setattr(breakdown, "current_process", lambda: type("Child", (), {"daemon": True}))
    monkeypatch.setattr(breakdown, "_errors", [0])
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)


def rows() -> set[tuple[str, int, str]]:
    return set(Shot.objects.values_list("state", "attempts", "error_code"))


Render = Callable[[Source, Sink], None]


@pytest.fixture
def run_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[Render], None]:
    """Lets the tasks render with an engine that is this function."""

    def run(render: Render) -> None:
        class Engine:
            name = "function"

            def run(self, source: Source, sink: Sink, cancelled: Cancelled) -> None:
                render(source, sink)

        monkeypatch.setattr(tasks, "_engine", Engine)
        tasks.render()

    return run


def rested() -> None:
    """The shots that were given back have rested long enough."""
    Shot.objects.update(not_before=timezone.now())


def whole(source: Source, sink: Sink) -> None:
    while requests := source(8):
        for request in requests:
            sink(picture(request.shot_id))


def broken(source: Source, sink: Sink) -> None:
    if source(8):
        raise EngineBroken("engine_broken")


def test_the_next_process_makes_what_the_broken_one_held(
    placed: Placed, run_with: Callable[[Render], None]
) -> None:
    orders.accept(placed.order, timezone.now())
    with pytest.raises(Ended):
        run_with(broken)
    rested()

    run_with(whole)

    assert Order.objects.get().state == OrderState.READY
    assert rows() == {("done", 1, "")}


def test_a_shot_that_breaks_the_engine_whenever_it_is_alone_is_given_up_and_the_others_are_not(
    placed: Placed, run_with: Callable[[Render], None]
) -> None:
    orders.accept(placed.order, timezone.now())
    poison = str(Shot.objects.get(index=2).pk)
    taken: list[list[str]] = []

    def poisoned(source: Source, sink: Sink) -> None:
        while requests := source(8):
            taken.append([request.shot_id for request in requests])
            if poison in taken[-1]:
                raise EngineBroken("engine_broken")
            for request in requests:
                sink(picture(request.shot_id))

    deaths = 0
    while Shot.objects.filter(state="pending").exists():
        rested()
        try:
            run_with(poisoned)
        except Ended:
            deaths += 1

    assert [len(shots) for shots in taken] == [3, 1, 1, 1, 1, 1]
    assert deaths == 4
    assert list(Shot.objects.order_by("index").values_list("state", "attempts", "error_code")) == [
        ("done", 1, ""),
        ("failed", 3, "engine_broken"),
        ("done", 1, ""),
    ]


def failing(codes: Sequence[str]) -> Render:
    """An engine that ends one shot after the other like this; "" is a picture."""

    def render(source: Source, sink: Sink) -> None:
        for code in codes:
            (request,) = source(1)
            if code:
                sink(FailedShot(shot_id=request.shot_id, code=code, is_retryable=True))
            else:
                sink(picture(request.shot_id))

    return render


def test_eight_errors_in_a_row_that_nobody_foresaw_end_the_process(
    place: Callable[..., Placed], run_with: Callable[[Render], None]
) -> None:
    for _ in range(3):
        orders.accept(place().order, timezone.now())

    def busy(source: Source, sink: Sink) -> None:
        kept = [request.shot_id for request in source(1)]
        failing(["engine_error"] * 7)(source, sink)
        assert set(Shot.objects.filter(pk__in=kept).values_list("state", flat=True)) == {"leased"}
        failing(["engine_error"])(source, sink)

    with pytest.raises(Ended):
        run_with(busy)

    counts = {
        row: Shot.objects.filter(state=row[0], attempts=row[1], error_code=row[2]).count() for row in rows()
    }
    assert counts == {("pending", 1, "engine_error"): 8, ("pending", 1, "engine_broken"): 1}


@pytest.mark.parametrize(
    "codes",
    [
        ["engine_error"] * 7,
        ["engine_error"] * 7 + [""] + ["engine_error"] * 1,
        ["quality_gate"] * 9,
        ["out_of_memory"] * 9,
    ],
    ids=["seven", "a picture between", "refused", "memory"],
)
def test_other_failures_do_not(
    place: Callable[..., Placed], run_with: Callable[[Render], None], codes: list[str]
) -> None:
    for _ in range(3):
        orders.accept(place().order, timezone.now())

    run_with(failing(codes))

    assert not Shot.objects.filter(error_code="engine_broken").exists()


def test_a_time_limit_that_strikes_amid_a_step_is_no_breakdown(
    placed: Placed, run_with: Callable[[Render], None]
) -> None:
    orders.accept(placed.order, timezone.now())

    def stopped(source: Source, sink: Sink) -> None:
        source(1)
        raise EngineBroken("engine_broken") from SoftTimeLimitExceeded()

    with pytest.raises(SoftTimeLimitExceeded):
        run_with(stopped)

    assert rows() == {("pending", 0, "")}


def test_outside_of_a_pool_the_error_is_the_callers(
    placed: Placed, run_with: Callable[[Render], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    orders.accept(placed.order, timezone.now())
    monkeypatch.setattr(breakdown, "current_process", lambda: type("Main", (), {"daemon": False}))

    with pytest.raises(EngineBroken):
        run_with(broken)

    assert rows() == {("pending", 0, "engine_broken")}


def test_memory_that_ran_out_beside_others_costs_no_attempt_and_alone_it_does(
    placed: Placed, run_with: Callable[[Render], None]
) -> None:
    orders.accept(placed.order, timezone.now())
    tried: list[int] = []

    def full(source: Source, sink: Sink) -> None:
        """The first of what is given does not fit, and the others are made."""
        unfit, *fit = source(8)
        tried.append(1 + len(fit))
        sink(FailedShot(shot_id=unfit.shot_id, code="out_of_memory", is_retryable=True))
        for request in fit:
            sink(picture(request.shot_id))

    run_with(full)
    first = rows()
    for _ in range(3):
        rested()
        run_with(full)

    assert first == {("pending", 0, "out_of_memory"), ("done", 1, "")}
    assert rows() == {("failed", 3, "out_of_memory"), ("done", 1, "")}
    assert tried == [3, 1, 1, 1]


def test_beside_a_shot_that_must_have_no_company_nothing_is_claimed(
    placed: Placed, run_with: Callable[[Render], None]
) -> None:
    orders.accept(placed.order, timezone.now())
    Shot.objects.filter(index=1).update(error_code="engine_broken")
    taken: list[int] = []

    def three_times(source: Source, sink: Sink) -> None:
        first = source(8)
        taken.extend([len(first), len(source(7))])
        sink(picture(first[0].shot_id))
        taken.append(len(source(8)))

    run_with(three_times)

    assert taken == [1, 0, 2]
