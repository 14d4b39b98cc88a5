"""The engine's loop: shots come aboard whenever there is room, and leave as pictures.

One step of the loop is one denoising step of every shot in flight, whatever order, style or step each is at;
while there are urgent ones, only of these, see `turns`.
What a finished shot still needs of the GPU (VAE, judge, upscaler) is done at once; the rest (marks,
JPEG, and whatever the sink does with them) is done in threads while the next steps run.
"""

import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from typing import Final as Constant

import torch

from pipelines.errors import EngineBroken, Final, Retryable
from pipelines.failures import OUT_OF_MEMORY, failed_shot, is_out_of_memory
from pipelines.finish import finish
from pipelines.instantid.denoise import denoise_step
from pipelines.instantid.loading import Parts
from pipelines.instantid.memory import Memory
from pipelines.instantid.quality import assess_headshot
from pipelines.instantid.samples import Sample, require_finite
from pipelines.instantid.shots import Person, Prompts, begin, make_person
from pipelines.instantid.start import blend
from pipelines.keypoints import Mask
from pipelines.presets import HEIGHT
from pipelines.provenance import SourceType
from pipelines.turns import Turns
from pipelines.types import (
    Cancelled,
    FailedShot,
    FinishedShot,
    Pixels,
    QualityReport,
    ShotRequest,
    Sink,
    Source,
)

# Threads. A 4K picture takes one about 0.3 s of a core, and as long again for a store across a network.
FINISHERS: Constant = 4
MAX_IDLE_PEOPLE: Constant = 2  # kept though none of their shots is in flight: the next may be theirs
RANDOM_WEIGHTS_MARK: Constant = "RANDOM WEIGHTS"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Flight:
    """A shot between two steps; `attempt` is the place of its seed in the request's list."""

    request: ShotRequest
    person: Person
    attempt: int
    sample: Sample
    remade: Mask | None
    started: float

    @property
    def seed(self) -> int:
        return self.request.seeds[self.attempt]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Landed:
    """A picture that passed the gate: as rendered, and at its size, before marks and JPEG."""

    flight: _Flight
    report: QualityReport
    native: Pixels
    picture: Pixels
    marks: tuple[str, ...]


class InstantIdEngine:
    """Implements `engine.Engine` over loaded parts."""

    name = "instantid"

    def __init__(self, parts: Parts, slots: int, reserved_places: int = 0) -> None:
        """`slots` is how many shots one forward takes; with the `reserved_places`, how many are in flight."""
        self.parts = parts
        self._places = slots + reserved_places
        self._memory = Memory(slots)
        self._prompts = Prompts(parts)

    @property
    def proof(self) -> dict[str, str]:
        """What the engine runs on: device, number format, versions, the hash of the weights' lock."""
        return dict(self.parts.proof)

    def run(self, source: Source, sink: Sink, cancelled: Cancelled) -> None:
        """See `Engine.run`. Nothing derived from a portrait outlives this call."""
        flights: list[_Flight] = []
        turns = Turns()
        people: dict[str, Person] = {}
        deliveries: deque[Future[None]] = deque()
        with ThreadPoolExecutor(FINISHERS, thread_name_prefix="finish") as finishers:
            while True:
                flights = [flight for flight in flights if not cancelled(flight.request.shot_id)]
                if len(flights) < self._places:
                    flights += self._boarded(source(self._places - len(flights)), people, sink)
                _forget_idle(people, flights)
                if flights:
                    moving, flights = turns.split(flights, lambda flight: flight.request.is_urgent)
                    moved, arrived = self._stepped(moving, sink)
                    flights += moved
                    for flight in arrived:
                        match self._arrival(flight):
                            case _Flight() as again:
                                flights.append(again)
                            case _Landed() as landed:
                                deliveries.append(finishers.submit(_deliver, landed, sink))
                            case FailedShot() as failed:
                                sink(failed)
                elif deliveries:
                    deliveries.popleft().result()  # new work may have come while this was waited for
                else:
                    return
                # A whole batch may arrive in one step; no more of them than that lie in memory.
                while deliveries and (deliveries[0].done() or len(deliveries) > self._places):
                    deliveries.popleft().result()

    def _boarded(
        self, requests: Sequence[ShotRequest], people: dict[str, Person], sink: Sink
    ) -> list[_Flight]:
        boarded = []
        for request in requests:
            try:
                boarded.append(self._memory.twice(partial(self._begun, request, people)))
            except Exception as error:  # of this shot alone
                sink(failed_shot(request.shot_id, error))
        return boarded

    def _begun(self, request: ShotRequest, people: dict[str, Person]) -> _Flight:
        if request.identity not in people:
            people[request.identity] = make_person(self.parts, request.portrait, request.further_portraits)
        return self._flight(request, people[request.identity], 0, time.perf_counter())

    def _flight(self, request: ShotRequest, person: Person, attempt: int, started: float) -> _Flight:
        begun = begin(self.parts, self._prompts, person, request, request.seeds[attempt])
        return _Flight(
            request=request,
            person=person,
            attempt=attempt,
            sample=begun.sample,
            remade=begun.remade,
            started=started,
        )

    def _stepped(self, flights: Sequence[_Flight], sink: Sink) -> tuple[list[_Flight], list[_Flight]]:
        """Every flight one step further: those still under way, and those that arrived.

        When memory runs out the forward is split in halves, see `Memory`. A single shot that does not fit
        goes back to the queue. Raises EngineBroken for any other error: it is that of all in the forward.
        """
        moved: list[_Flight] = []
        waiting = list(flights)
        while waiting:
            some = waiting[: self._memory.limit]
            samples = self._denoised(some)
            if samples is not None:
                moved += [replace(f, sample=sample) for f, sample in zip(some, samples, strict=True)]
                waiting = waiting[len(some) :]
                self._memory.fitted()
                continue
            self._memory.ran_out(len(some))
            if len(some) == 1:
                error = Retryable(OUT_OF_MEMORY, "not even a single shot fits into memory")
                sink(failed_shot(some[0].request.shot_id, error))
                waiting = waiting[1:]
        under_way = [flight for flight in moved if not flight.sample.is_done]
        return under_way, [flight for flight in moved if flight.sample.is_done]

    def _denoised(self, flights: Sequence[_Flight]) -> list[Sample] | None:
        """The samples one step further; None where memory ran out."""
        generators = [flight.sample.generator for flight in flights]
        states = [generator.get_state() for generator in generators]
        try:
            return denoise_step(self.parts.models, [flight.sample for flight in flights])
        except Exception as error:
            if is_out_of_memory(error):
                for generator, state in zip(generators, states, strict=True):
                    generator.set_state(state)  # some may have drawn their noise before it ran out
                return None
            raise EngineBroken(
                "engine_broken", f"a step of {len(flights)} shots failed: {type(error).__name__}"
            ) from error

    def _arrival(self, flight: _Flight) -> "_Flight | _Landed | FailedShot":
        """What comes after the last step: finishing, the next seed, or the end."""
        try:
            try:
                latents = require_finite(flight.sample).latents
                native = self._memory.twice(partial(decode, self.parts.vae, latents))
                if flight.request.start is not None:
                    native = blend(flight.request.start, native, flight.remade)
                report = self._judged(native, flight.person)
                code = "quality_gate"
            except Final as error:  # NaN: another seed may do better
                report, code = QualityReport(measures={}, problems=(error.code,)), error.code
            if not report.problems:
                return self._landed(flight, native, report)
            _log.info("shot %s: %s", flight.request.shot_id, ", ".join(report.problems))
            if flight.attempt + 1 < len(flight.request.seeds):
                return self._flight(flight.request, flight.person, flight.attempt + 1, flight.started)
            return FailedShot(shot_id=flight.request.shot_id, code=code, is_retryable=False)
        except Exception as error:  # of this shot alone
            return failed_shot(flight.request.shot_id, error)

    def _judged(self, native: Pixels, person: Person) -> QualityReport:
        return assess_headshot(
            native,
            person.reference,
            analysis=self.parts.analysis,
            judge=self.parts.judge,
            is_unsafe=self.parts.is_unsafe(native),
            thresholds=self.parts.thresholds,
        )

    def _landed(self, flight: _Flight, native: Pixels, report: QualityReport) -> "_Landed":
        output = flight.request.output
        is_enlarged = output.long_edge > HEIGHT
        return _Landed(
            flight=flight,
            report=report,
            native=native,
            picture=self.parts.upscaler.enlarge(native, output.long_edge) if is_enlarged else native,
            marks=(RANDOM_WEIGHTS_MARK,) if self.parts.is_random else (),
        )


def decode(vae: Any, latents: torch.Tensor) -> Pixels:
    """The picture of finished latents (4, height / 8, width / 8); uint8 already when it leaves the device."""
    with torch.inference_mode():
        scaled = latents[None].to(vae.dtype) / vae.config.scaling_factor
        picture = vae.decode(scaled, return_dict=False)[0][0].float()
        levels = picture.add(1).mul(127.5).clamp(0, 255).round().to(torch.uint8)
        pixels: Pixels = levels.permute(1, 2, 0).contiguous().cpu().numpy()
        return pixels


def _deliver(landed: _Landed, sink: Sink) -> None:
    """What is left for a thread; an error of the sink itself rises from the run."""
    sink(_result(landed))


def _result(landed: _Landed) -> FinishedShot | FailedShot:
    flight, output = landed.flight, landed.flight.request.output
    try:
        source_type = SourceType.GENERATED if flight.request.start is None else SourceType.EDITED
        done = finish(landed.picture, output=output, marks=landed.marks, source_type=source_type)
    except Exception as error:  # of this shot alone
        return failed_shot(flight.request.shot_id, error)
    return FinishedShot(
        shot_id=flight.request.shot_id,
        seed=flight.seed,
        jpeg=done.jpeg,
        preview_jpeg=done.preview_jpeg,
        width=done.width,
        height=done.height,
        report=landed.report,
        seconds=time.perf_counter() - flight.started,
        native=landed.native if output.keeps_native else None,
    )


def _forget_idle(people: dict[str, Person], flights: Sequence[_Flight]) -> None:
    """Keep the people in flight and the last few others."""
    flying = {flight.request.identity for flight in flights}
    idle = [identity for identity in people if identity not in flying]
    for identity in idle[: max(0, len(idle) - MAX_IDLE_PEOPLE)]:
        del people[identity]
