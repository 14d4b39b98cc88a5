"""The engine that needs no weights: finds, cuts out, relights and composes with OpenCV on one core.

It shows the whole product anywhere, in 1 to 2 s a picture. It is not the product: its pictures say PREVIEW.
"""

import time
from dataclasses import replace
from typing import Final

import cv2
import numpy as np

from pipelines.backdrops import paint
from pipelines.cutout import Cutout, cut_out, frame_inside, segment, warp
from pipelines.faces import the_one_face
from pipelines.failures import failed_shot
from pipelines.finish import finish
from pipelines.presets import HEIGHT, WIDTH
from pipelines.provenance import SourceType
from pipelines.quality import assess_headshot
from pipelines.relight import Plane, compose, keep_background, look_of
from pipelines.scenes import scene_of
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

MARK: Final = "PREVIEW"
_MAX_PEOPLE: Final = 2  # kept at once: 16 MB a person and framing
_MAX_ZOOM: Final = 0.08  # by seed, so that two pictures of a style are not the same crop
_MAX_SHIFT: Final = 22.0  # px, by seed


class _Person:
    """What is derived from one portrait, once."""

    def __init__(self, portrait: Pixels) -> None:
        self.portrait = portrait
        self.face = the_one_face(portrait)
        self._segment = segment(portrait, self.face)
        self._cutouts: dict[str, Cutout] = {}

    def cutout(self, framing: str) -> Cutout:
        """The person in that framing; the caller looks at its `doubt`."""
        if framing not in self._cutouts:
            self._cutouts[framing] = cut_out(self.portrait, self.face, framing, self._segment)
        return self._cutouts[framing]


class PreviewEngine:
    """Implements `engine.Engine` without weights or GPU; single-threaded, deterministic."""

    name = "preview"

    def __init__(self) -> None:
        cv2.setNumThreads(1)  # one picture per core; also keeps sums in one order

    @property
    def proof(self) -> dict[str, str]:
        """See `Engine.proof`."""
        return {"device": "cpu", "opencv": cv2.__version__}

    def run(self, source: Source, sink: Sink, cancelled: Cancelled) -> None:
        """See `Engine.run`. Nothing derived from a portrait outlives this call."""
        people: dict[str, _Person] = {}
        while requests := source(1):
            for request in requests:
                result = _attempt(request, people, cancelled)
                if result is not None:
                    sink(result)


def _attempt(
    request: ShotRequest, people: dict[str, _Person], cancelled: Cancelled
) -> FinishedShot | FailedShot | None:
    """The shot's result; None when it was cancelled on the way."""
    try:
        return _shot(request, people, cancelled)
    except Exception as error:  # of this shot alone
        return failed_shot(request.shot_id, error)


def _shot(
    request: ShotRequest, people: dict[str, _Person], cancelled: Cancelled
) -> FinishedShot | FailedShot | None:
    started = time.perf_counter()
    for seed in request.seeds:
        if cancelled(request.shot_id):
            return None
        picture, report = _candidate(request, _person(request, people), seed)
        if report.problems:
            continue
        if cancelled(request.shot_id):
            return None
        done = finish(picture, output=request.output, marks=(MARK,), source_type=SourceType.COMPOSITE)
        return FinishedShot(
            shot_id=request.shot_id,
            seed=seed,
            jpeg=done.jpeg,
            preview_jpeg=done.preview_jpeg,
            width=done.width,
            height=done.height,
            report=report,
            seconds=time.perf_counter() - started,
        )
    return FailedShot(shot_id=request.shot_id, code="quality_gate", is_retryable=False)


def _person(request: ShotRequest, people: dict[str, _Person]) -> _Person:
    if request.identity not in people:
        while len(people) >= _MAX_PEOPLE:
            del people[next(iter(people))]
        people[request.identity] = _Person(request.portrait)
    return people[request.identity]


def _candidate(request: ShotRequest, person: _Person, seed: int) -> tuple[Pixels, QualityReport]:
    """One picture at native size, and what the gate says about it."""
    look = look_of(request.preset.slug)
    cutout = person.cutout(request.preset.framing)
    if cutout.doubt:
        placed = frame_inside(person.portrait, person.face, request.preset.framing)
        framed = warp(person.portrait, placed).astype(np.float32) / np.float32(255)
        picture = _as_pixels(keep_background(framed, placed.moved(person.face), look, seed))
        return picture, assess_headshot(picture)
    varied = _varied(cutout, seed)
    picture = _as_pixels(compose(varied, paint(scene_of(request.preset.slug), seed), look, seed))
    return picture, assess_headshot(picture, varied.matte)


def _varied(cutout: Cutout, seed: int) -> Cutout:
    """The same cut-out a little closer and a few pixels aside. It only grows, so no edge opens below it."""
    rng = np.random.default_rng([seed, 0x6372])
    zoom = 1 + float(rng.uniform(0, _MAX_ZOOM))
    room = min(_MAX_SHIFT, (zoom - 1) * WIDTH / 2)
    shift_x = (1 - zoom) * WIDTH / 2 + float(rng.uniform(-room, room))
    shift_y = (1 - zoom) * HEIGHT * 0.4
    matrix = np.array([[zoom, 0, shift_x], [0, zoom, shift_y]])

    def moved(plane: Plane) -> Plane:
        warped = cv2.warpAffine(
            plane, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        return np.asarray(np.clip(warped, 0, 1), dtype=np.float32)

    face = cutout.face
    return replace(
        cutout,
        colours=moved(cutout.colours),
        matte=moved(cutout.matte),
        face=replace(
            face,
            left=face.left * zoom + shift_x,
            top=face.top * zoom + shift_y,
            width=face.width * zoom,
            height=face.height * zoom,
        ),
    )


def _as_pixels(picture: Plane) -> Pixels:
    return np.rint(picture * 255).astype(np.uint8)
