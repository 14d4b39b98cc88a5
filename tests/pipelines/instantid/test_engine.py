"""The engine's loop over the tiny bundle: real networks, whole pictures, every way a shot can end."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipelines import images
from pipelines.gate import Thresholds
from pipelines.instantid import engine as loop
from pipelines.instantid.conditioning import encode_identity
from pipelines.instantid.engine import InstantIdEngine
from pipelines.instantid.loading import Parts
from pipelines.instantid.samples import Sample
from pipelines.instantid.shots import Begun, Person, begin, make_person
from pipelines.provenance import SourceType, source_of
from pipelines.styles import BUILTIN
from pipelines.types import (
    Box,
    FailedShot,
    FinishedShot,
    OutputSpec,
    Pixels,
    ShotRequest,
    StartingPicture,
)

pytestmark = [pytest.mark.filterwarnings("ignore:.*estimate.*:FutureWarning"), pytest.mark.slow]

STYLE = replace(BUILTIN[0].preset, num_inference_steps=20, guidance_method="interval")
FREE = OutputSpec(long_edge=1152, is_watermarked=True, keeps_native=True)
Result = FinishedShot | FailedShot


def request(shot_id: str, portrait: Pixels, **changes: Any) -> ShotRequest:
    plain = ShotRequest(
        shot_id=shot_id, identity="one", portrait=portrait, preset=STYLE, seeds=(7,), output=FREE
    )
    return replace(plain, **changes)


def run(engine: InstantIdEngine, requests: Sequence[ShotRequest]) -> dict[str, Result]:
    waiting, results = list(requests), {}

    def source(free: int) -> list[ShotRequest]:
        return [waiting.pop(0) for _ in range(min(free, len(waiting)))]

    def sink(result: Result) -> None:
        assert result.shot_id not in results
        results[result.shot_id] = result

    engine.run(source, sink, lambda shot_id: False)
    return results


def picture(result: Result) -> FinishedShot:
    assert isinstance(result, FinishedShot), result
    return result


def native(result: Result) -> Pixels:
    pixels = picture(result).native
    assert pixels is not None
    return pixels


def distance(first: Result, second: Result) -> int:
    return int(np.abs(native(first).astype(int) - native(second).astype(int)).max())


@pytest.fixture
def near_the_end(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Sample, int], Sample]], None]:
    """Shots come aboard with their last step to do, so that a test of the loop is not one of patience;
    a test may change what comes aboard, knowing the seed."""

    def install(change: Callable[[Sample, int], Sample] = lambda sample, seed: sample) -> None:
        def late(parts: Any, prompts: Any, person: Any, request: ShotRequest, seed: int) -> Begun:
            begun = begin(parts, prompts, person, request, seed)
            sample = replace(begun.sample, position=len(begun.sample.schedule) - 1)
            return replace(begun, sample=change(sample, seed))

        monkeypatch.setattr(loop, "begin", late)

    install()
    return install


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The shots of each denoising step, as the steps are made."""
    made: list[list[str]] = []
    real = loop.denoise_step

    def watched(models: Any, samples: Sequence[Sample]) -> list[Sample]:
        made.append([sample.shot_id for sample in samples])
        return real(models, samples)

    monkeypatch.setattr(loop, "denoise_step", watched)
    return made


@pytest.mark.slow
def test_each_part_of_a_plan_changes_the_picture_and_nothing_else_does(
    engine: InstantIdEngine, selfie: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_face = selfie.copy()  # the tiny detector knows one face: the other person gets an embedding

    def people(parts: Parts, portrait: Pixels, further_portraits: Sequence[Pixels] = ()) -> Person:
        person = make_person(parts, portrait)
        if portrait is not other_face:
            return person
        other = torch.randn(512, generator=torch.Generator().manual_seed(1))
        return replace(person, identity=encode_identity(parts.models, other), negative_identities={})

    monkeypatch.setattr(loop, "make_person", people)
    other_style = replace(BUILTIN[3].preset, num_inference_steps=20, guidance_method="interval")
    plan = request("plan", selfie)
    alone = run(engine, [plan])["plan"]
    together = run(
        InstantIdEngine(engine.parts, slots=5),
        [
            request("seed", selfie, seeds=(8,)),
            request("identity", other_face, identity="two"),
            plan,
            request("style", selfie, preset=other_style),
            request("guidance", selfie, preset=replace(STYLE, guidance_scale=12.0)),
        ],
    )
    assert distance(together["plan"], alone) <= 1
    for part in ("seed", "identity", "style", "guidance"):
        assert distance(together[part], alone) >= 3, part
    assert picture(run(engine, [plan])["plan"]).jpeg == picture(alone).jpeg


@pytest.mark.slow
def test_a_picture_starts_from_another_and_keeps_every_pixel_outside_the_box(
    engine: InstantIdEngine, selfie: Pixels
) -> None:
    original = np.full((1152, 896, 3), (90, 120, 150), np.uint8)
    box = Box(left=200, top=300, width=320, height=256)
    start = StartingPicture(pixels=original, strength=0.2, inpaint=box)
    done = picture(run(engine, [request("box", selfie, start=start)])["box"])
    assert source_of(done.jpeg) == SourceType.EDITED
    changed = native(done)
    inside = changed[300:556, 200:520]
    assert np.abs(inside.astype(int) - (90, 120, 150)).max() > 20
    outside = changed.copy()
    outside[300:556, 200:520] = (90, 120, 150)
    assert np.array_equal(outside, original)


@pytest.mark.usefixtures("near_the_end")
def test_a_premium_picture_is_exactly_4k_and_says_that_the_weights_are_random(
    engine: InstantIdEngine, selfie: Pixels
) -> None:
    premium = OutputSpec(long_edge=3840, is_watermarked=False)
    done = picture(run(engine, [request("big", selfie, output=premium)])["big"])
    assert images.decode_jpeg(done.jpeg).shape == (3840, 2987, 3)
    assert (done.width, done.height, done.seed, done.native) == (2987, 3840, 7, None)
    assert source_of(done.jpeg) == source_of(done.preview_jpeg) == SourceType.GENERATED
    corner = images.decode_jpeg(done.jpeg)[-100:, -900:]
    assert corner.max() > 235  # the letters of the plate


@pytest.mark.usefixtures("near_the_end")
def test_a_photo_without_a_face_fails_alone(engine: InstantIdEngine, selfie: Pixels) -> None:
    empty = np.full((800, 800, 3), 128, np.uint8)
    results = run(engine, [request("empty", empty, identity="nobody"), request("fine", selfie)])
    assert results["empty"] == FailedShot(shot_id="empty", code="no_face", is_retryable=False)
    assert picture(results["fine"]).seed == 7


def test_latents_that_are_not_numbers_cost_their_own_shot_a_seed(
    engine: InstantIdEngine, selfie: Pixels, near_the_end: Any
) -> None:
    def poisoned(sample: Sample, seed: int) -> Sample:
        return replace(sample, latents=sample.latents * float("nan")) if seed < 10 else sample

    near_the_end(poisoned)
    results = run(
        engine,
        [
            request("lost", selfie, seeds=(1, 2)),
            request("second", selfie, seeds=(3, 11)),
            request("fine", selfie, seeds=(12,)),
        ],
    )
    assert results["lost"] == FailedShot(shot_id="lost", code="nan_latents", is_retryable=False)
    assert [picture(results[name]).seed for name in ("second", "fine")] == [11, 12]


@pytest.mark.usefixtures("near_the_end")
def test_a_picture_that_fails_the_gate_is_made_again_and_then_given_up(
    parts: Parts, selfie: Pixels, caplog: pytest.LogCaptureFixture
) -> None:
    strict = InstantIdEngine(replace(parts, thresholds=Thresholds()), slots=2)
    with caplog.at_level(logging.INFO, logger=loop.__name__):
        results = run(strict, [request("refused", selfie, seeds=(1, 2, 3))])
    assert results == {"refused": FailedShot(shot_id="refused", code="quality_gate", is_retryable=False)}
    assert [record.getMessage() for record in caplog.records].count("shot refused: no_face") == 3


@pytest.mark.usefixtures("near_the_end")
def test_memory_running_out_halves_the_forward_and_loses_no_shot(
    parts: Parts, selfie: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    real = loop.denoise_step

    def small_device(models: Any, samples: Sequence[Sample]) -> list[Sample]:
        sizes.append(len(samples))
        if len(samples) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(models, samples)

    monkeypatch.setattr(loop, "denoise_step", small_device)
    results = run(InstantIdEngine(parts, slots=5), [request(f"shot {n}", selfie) for n in range(5)])
    assert sizes == [5, 2, 2, 1]
    assert all(isinstance(result, FinishedShot) for result in results.values())
    assert len(results) == 5


@pytest.mark.usefixtures("near_the_end")
def test_a_single_shot_without_memory_goes_back_to_the_queue(
    engine: InstantIdEngine, selfie: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(models: Any, samples: Sequence[Sample]) -> list[Sample]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loop, "denoise_step", full)
    assert run(engine, [request("big", selfie)]) == {
        "big": FailedShot(shot_id="big", code="out_of_memory", is_retryable=True)
    }


def test_a_cancelled_shot_stops_within_one_step_and_its_slot_is_taken(
    parts: Parts, selfie: Pixels, monkeypatch: pytest.MonkeyPatch, steps: list[list[str]]
) -> None:
    """The first shot has all its steps to do, the second only its last."""

    def late(parts: Any, prompts: Any, person: Any, request: ShotRequest, seed: int) -> Begun:
        begun = begin(parts, prompts, person, request, seed)
        if request.shot_id == "late":
            return replace(begun, sample=replace(begun.sample, position=len(begun.sample.schedule) - 1))
        return begun

    monkeypatch.setattr(loop, "begin", late)
    waiting = [request("unwanted", selfie), request("late", selfie)]
    results: list[str] = []
    InstantIdEngine(parts, slots=1).run(
        lambda free: [waiting.pop(0) for _ in range(min(free, len(waiting)))],
        lambda result: results.append(result.shot_id),
        lambda shot_id: shot_id == "unwanted" and len(steps) >= 2,
    )
    assert steps == [["unwanted"], ["unwanted"], ["late"]]
    assert results == ["late"]


@pytest.mark.usefixtures("near_the_end")
def test_an_order_that_comes_late_is_taken_aboard_between_two_steps(
    parts: Parts, selfie: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    answers = iter(
        [
            [request("first", selfie, preset=replace(STYLE, num_inference_steps=21))],
            [request("second", selfie, identity="two")],
        ]
    )

    def source(free: int) -> list[ShotRequest]:
        asked.append(free)
        return next(answers, [])

    def one_step_earlier(parts: Any, prompts: Any, person: Any, request: ShotRequest, seed: int) -> Begun:
        begun = begin(parts, prompts, person, request, seed)
        steps_left = 2 if request.shot_id == "first" else 1
        position = len(begun.sample.schedule) - steps_left
        return replace(begun, sample=replace(begun.sample, position=position))

    monkeypatch.setattr(loop, "begin", one_step_earlier)
    results: list[str] = []
    InstantIdEngine(parts, slots=3).run(
        source, lambda result: results.append(result.shot_id), lambda shot_id: False
    )
    assert asked[:2] == [3, 2]
    assert sorted(results) == ["first", "second"]


def test_an_urgent_order_goes_ahead_of_the_pack_in_flight(
    parts: Parts, selfie: Pixels, monkeypatch: pytest.MonkeyPatch, steps: list[list[str]]
) -> None:
    def two_steps_left(parts: Any, prompts: Any, person: Any, request: ShotRequest, seed: int) -> Begun:
        begun = begin(parts, prompts, person, request, seed)
        return replace(begun, sample=replace(begun.sample, position=len(begun.sample.schedule) - 2))

    monkeypatch.setattr(loop, "begin", two_steps_left)
    answers = iter([[request("pack", selfie)], [replace(request("free", selfie), is_urgent=True)]])
    results: list[str] = []
    InstantIdEngine(parts, slots=2).run(
        lambda free: next(answers, []), lambda result: results.append(result.shot_id), lambda shot_id: False
    )
    assert steps == [["pack"], ["free"], ["free"], ["pack"]]
    assert sorted(results) == ["free", "pack"]  # several threads finish them


def test_a_style_that_cannot_be_is_the_presets_error() -> None:
    for wrong in ({"guidance_scale": 6.9}, {"guidance_scale": 12.1}, {"scheduler": "magic"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(STYLE, **wrong)
