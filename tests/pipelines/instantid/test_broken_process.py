"""A device that breaks for good under the real engine, with random weights, in a worker's process."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings

from headshots import breakdown, tasks
from headshots.models import Shot
from headshots.services import orders, uploads
from headshots.services.orders import Placed
from pipelines.instantid import engine as loop
from pipelines.instantid.engine import InstantIdEngine
from pipelines.instantid.loading import Parts
from pipelines.instantid.shots import Begun, begin
from pipelines.sample import sample_selfie
from pipelines.types import ShotRequest

pytestmark = [pytest.mark.django_db, pytest.mark.filterwarnings("ignore:.*estimate.*:FutureWarning")]


class Ended(BaseException):
    """In place of the end of this process."""


@pytest.fixture(autouse=True)
def child(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process as a child of a pool, which ends by raising Ended; photos are taken as they are."""

    def end(code: int) -> None:
        raise Ended

    monkeypatch.setattr(breakdown.os, "_exit", end)
    monkeypatch.setattr(breakdown, "current_process", lambda: type("Child", (), {"daemon": True}))
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)


@pytest.fixture(autouse=True)
def engine(parts: Parts, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """The engine that tasks run on; its shots come aboard with their last step to do."""

    def late(parts: Any, prompts: Any, person: Any, request: ShotRequest, seed: int) -> Begun:
        begun = begin(parts, prompts, person, request, seed)
        return replace(begun, sample=replace(begun.sample, position=len(begun.sample.schedule) - 1))

    settings.ENGINE = "instantid"
    loaded = InstantIdEngine(parts, slots=4)
    monkeypatch.setattr(loop, "begin", late)
    monkeypatch.setattr(tasks, "_engine", lambda: loaded)


@pytest.mark.parametrize("stage", ["make_person", "denoise_step"])
def test_a_device_that_breaks_costs_nobody_an_attempt_and_ends_the_process(
    place: Callable[..., Placed], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    orders.accept(place(raw=sample_selfie()).order, timezone.now())

    def broken(*arguments: Any, **named: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(loop, stage, broken)
    with pytest.raises(Ended):
        tasks.render()

    assert set(Shot.objects.values_list("state", "attempts", "lease_owner", "error_code")) == {
        ("pending", 0, "", "engine_broken")
    }
    assert not tasks.is_draining()
