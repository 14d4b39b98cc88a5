"""Reserved places: a worker whose slots are full still takes an urgent shot aboard, and no forward grows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pipelines.instantid import engine as loop
from pipelines.instantid.engine import InstantIdEngine
from pipelines.instantid.loading import Parts
from pipelines.instantid.samples import Sample
from pipelines.instantid.shots import Begun, begin
from pipelines.types import Pixels, ShotRequest
from tests.pipelines.instantid.test_engine import request


def test_a_full_worker_takes_an_urgent_shot_aboard_at_once(
    parts: Parts, selfie: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two_steps_left(parts: Any, prompts: Any, person: Any, request: ShotRequest, seed: int) -> Begun:
        begun = begin(parts, prompts, person, request, seed)
        return replace(begun, sample=replace(begun.sample, position=len(begun.sample.schedule) - 2))

    def noted(models: Any, samples: Sequence[Sample]) -> list[Sample]:
        forwards.append(len(samples))
        return [replace(sample, position=sample.position + 1) for sample in samples]

    monkeypatch.setattr(loop, "begin", two_steps_left)
    monkeypatch.setattr(loop, "denoise_step", noted)
    pack = [request(f"pack {number}", selfie) for number in (1, 2)]
    urgent = [replace(request("free", selfie), is_urgent=True)]
    asked: list[int] = []
    forwards: list[int] = []
    results: list[str] = []
    answers = iter([pack, urgent])

    def source(free: int) -> list[ShotRequest]:
        asked.append(free)
        return next(answers, [])

    InstantIdEngine(parts, slots=2, reserved_places=1).run(
        source, lambda result: results.append(result.shot_id), lambda shot_id: False
    )

    assert asked[:2] == [3, 1]
    assert forwards == [2, 1, 1, 2]
    assert sorted(results) == ["free", "pack 1", "pack 2"]  # several threads finish them


def test_more_shots_than_slots_are_stepped_in_two_forwards(
    parts: Parts, selfie: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noted(models: Any, samples: Sequence[Sample]) -> list[Sample]:
        forwards.append(len(samples))
        return list(samples)

    monkeypatch.setattr(loop, "denoise_step", noted)
    forwards: list[int] = []
    answers = iter([[request(f"{number}", selfie) for number in range(3)]])

    InstantIdEngine(parts, slots=2, reserved_places=1).run(
        lambda free: next(answers, []), lambda result: None, lambda shot_id: bool(forwards)
    )

    assert forwards == [2, 1]
