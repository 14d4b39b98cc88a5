"""The engine's loop on a device that breaks, or has no memory left: whose fault it is, and who goes on."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from pipelines.errors import EngineBroken
from pipelines.instantid import engine as loop
from pipelines.instantid import memory
from pipelines.instantid.engine import InstantIdEngine
from pipelines.instantid.loading import Parts
from pipelines.instantid.memory import Memory
from pipelines.instantid.shots import Begun, begin
from pipelines.types import FailedShot, FinishedShot, Pixels, ShotRequest
from tests.pipelines.instantid.test_engine import STYLE, Result, distance, request, run

pytestmark = [pytest.mark.filterwarnings("ignore:.*estimate.*:FutureWarning"), pytest.mark.slow]

ILLEGAL = "CUDA error: an illegal memory access was encountered"
EVER = 10**9


@pytest.fixture(autouse=True)
def near_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shots come aboard with their last step to do."""

    def late(parts: Any, prompts: Any, person: Any, request: ShotRequest, seed: int) -> Begun:
        begun = begin(parts, prompts, person, request, seed)
        return replace(begun, sample=replace(begun.sample, position=len(begun.sample.schedule) - 1))

    monkeypatch.setattr(loop, "begin", late)


def between(first: int, last: int, error: Exception, real: Callable[..., Any]) -> Callable[..., Any]:
    """`real`, but at the calls from `first` to `last`, counted from 1, this error."""
    calls: list[None] = []

    def call(*arguments: Any, **named: Any) -> Any:
        calls.append(None)
        if first <= len(calls) <= last:
            raise error
        return real(*arguments, **named)

    return call


@pytest.mark.parametrize("stage", ["make_person", "begin", "denoise_step", "decode"])
def test_an_error_of_the_device_ends_the_run_and_blames_no_shot(
    engine: InstantIdEngine, selfie: Pixels, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr(loop, stage, between(1, EVER, RuntimeError(ILLEGAL), getattr(loop, stage)))
    waiting, results = [request("one", selfie), request("two", selfie)], []

    with pytest.raises(EngineBroken) as broken:
        engine.run(lambda free: [waiting.pop()] if waiting else [], results.append, lambda shot_id: False)

    assert broken.value.code == "engine_broken"
    assert results == []


def test_whatever_a_step_raises_concerns_all_that_are_in_flight(
    engine: InstantIdEngine, selfie: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "denoise_step", between(1, EVER, ValueError("sizes"), loop.denoise_step))

    with pytest.raises(EngineBroken) as broken:
        run(engine, [request("one", selfie), request("two", selfie)])

    assert isinstance(broken.value.__cause__, ValueError)


def test_a_picture_that_is_on_its_way_is_delivered_before_the_run_ends(
    parts: Parts, selfie: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "denoise_step", between(2, EVER, RuntimeError(ILLEGAL), loop.denoise_step))
    waiting, results = [request("one", selfie), request("two", selfie)], list[Result]()

    with pytest.raises(EngineBroken):
        InstantIdEngine(parts, slots=1).run(
            lambda free: [waiting.pop(0)] if waiting else [], results.append, lambda shot_id: False
        )

    assert [(result.shot_id, type(result)) for result in results] == [("one", FinishedShot)]


NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("stage", ["make_person", "begin", "decode"])
def test_memory_that_runs_out_for_a_moment_costs_nobody_anything(
    engine: InstantIdEngine, selfie: Pixels, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr(loop, stage, between(1, 1, NO_MEMORY, getattr(loop, stage)))

    results = run(engine, [request("one", selfie), request("two", selfie)])

    assert {name: type(result) for name, result in results.items()} == {
        "one": FinishedShot,
        "two": FinishedShot,
    }


@pytest.mark.parametrize("stage", ["make_person", "begin", "decode"])
def test_a_shot_whose_memory_stays_away_goes_back_and_the_next_is_made(
    engine: InstantIdEngine, selfie: Pixels, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr(loop, stage, between(1, 2, NO_MEMORY, getattr(loop, stage)))

    results = run(engine, [request("one", selfie), request("two", selfie)])

    assert results["one"] == FailedShot(shot_id="one", code="out_of_memory", is_retryable=True)
    assert isinstance(results["two"], FinishedShot)


def test_a_step_that_memory_broke_off_has_drawn_no_noise(
    parts: Parts, selfie: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two_steps_left(parts: Any, prompts: Any, person: Any, request: ShotRequest, seed: int) -> Begun:
        begun = begin(parts, prompts, person, request, seed)
        return replace(begun, sample=replace(begun.sample, position=len(begun.sample.schedule) - 2))

    def broken_off(models: Any, samples: Any) -> Any:
        stepped = loop_step(models, samples)
        if not broken:
            broken.append(True)
            raise NO_MEMORY  # in the forward of other LoRAs, when this one's noise is drawn
        return stepped

    monkeypatch.setattr(loop, "begin", two_steps_left)
    loop_step, broken = loop.denoise_step, list[bool]()
    plan = [request(name, selfie, preset=replace(STYLE, scheduler="euler_a")) for name in ("one", "two")]
    expected = run(InstantIdEngine(parts, slots=2), plan)

    monkeypatch.setattr(loop, "denoise_step", broken_off)
    results = run(InstantIdEngine(parts, slots=2), plan)

    assert broken
    # Halved forwards may differ by a level; noise that was drawn twice makes it four.
    assert max(distance(results[name], expected[name]) for name in ("one", "two")) <= 1


def test_forwards_grow_again_when_the_memory_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CLEAN_FORWARDS", 3)
    shared = Memory(slots=8)
    limits = []
    for fits in [False, False, True, True, False, True, True, True, True, True, True, True, True, True]:
        if fits:
            shared.fitted()
        else:
            shared.ran_out(shared.limit)
        limits.append(shared.limit)

    assert limits == [4, 2, 2, 2, 1, 1, 1, 2, 2, 2, 4, 4, 4, 8]
    assert shared.shortages == 3
