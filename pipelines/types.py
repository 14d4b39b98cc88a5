"""The whole vocabulary between the web application and the pipeline: frozen values, no behaviour."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipelines.presets import StylePreset

Pixels: TypeAlias = NDArray[np.uint8]
"""(height, width, 3), RGB, sRGB, upright."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """One face, in pixels of the picture it was found in. `left` and `right` are the viewer's."""

    left: float
    top: float
    width: float
    height: float
    left_eye: tuple[float, float]
    right_eye: tuple[float, float]
    score: float

    @property
    def eye_distance(self) -> float:
        """Pixels between the eye centres."""
        return float(np.hypot(self.right_eye[0] - self.left_eye[0], self.right_eye[1] - self.left_eye[1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpec:
    """How a headshot leaves the pipeline."""

    long_edge: int
    is_watermarked: bool
    keeps_native: bool = False
    """Also hand out the pixels as rendered, before upscaling, grain and marks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A region of a picture, in its pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartingPicture:
    """A picture to change instead of pure noise (img2img), 896 x 1152.

    `strength`, above 0 and up to 1, is the share of the steps that are done on it. With `inpaint` only the
    face, or the box, is made anew, and the rest keeps its pixels.
    """

    pixels: Pixels
    strength: float
    inpaint: Literal["face"] | Box | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotRequest:
    """One picture to make. Equal requests give equal bytes on the same engine and versions, on a CPU; a GPU
    chooses its kernels by the batch's shape, so that levels may differ with the neighbours.

    `identity` is equal for all shots of one person within one run, so that an engine may keep what it
    derived from the portrait. `seeds` are tried in order until one passes the quality gate.
    """

    shot_id: str
    identity: str
    portrait: Pixels
    preset: StylePreset
    seeds: tuple[int, ...]
    output: OutputSpec
    further_portraits: tuple[Pixels, ...] = ()
    """Up to three more photos of the same person; an engine that knows faces averages over all."""
    start: StartingPicture | None = None
    is_urgent: bool = False
    """Of a small order: an engine may let others in flight wait for it, see `turns`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityReport:
    """What was measured on a finished picture, and which measures are out of bounds (empty: it passed).

    `likeness` and `rank` are those of `gate`, "" and 0 where it did not pass or no likeness was measured.
    They alone are kept; the measures end with the picture's making.
    """

    measures: Mapping[str, float]
    problems: tuple[str, ...] = ()
    likeness: str = ""
    rank: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedShot:
    """A finished picture: sRGB JPEGs that say in XMP what they are, without any metadata of the selfie."""

    shot_id: str
    seed: int
    jpeg: bytes
    preview_jpeg: bytes
    width: int
    height: int
    report: QualityReport
    seconds: float
    native: Pixels | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedShot:
    """A picture that could not be made; `is_retryable` says whether another attempt makes sense."""

    shot_id: str
    code: str
    is_retryable: bool


Source: TypeAlias = Callable[[int], Sequence[ShotRequest]]
"""Called with the number of free slots; an empty answer with nothing in flight ends the run."""

Sink: TypeAlias = Callable[[FinishedShot | FailedShot], None]
"""Takes each result as soon as it exists. Must be thread-safe: an engine may call it from several threads at
once, and goes on rendering meanwhile. What it raises ends the run."""

Cancelled: TypeAlias = Callable[[str], bool]
"""Whether the shot of this id is no longer wanted; asked between steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What `load_engine` needs to know; given by the tasks from the settings."""

    kind: str
    weights_dir: Path | None = None
    device: str = "cpu"
    slots: int = 8
    """Shots in flight that are not urgent, and shots in one forward, at most."""
    reserved_places: int = 0
    """Shots in flight on top of these, so that urgent ones board at once while others fill every slot."""
    accepts_random_weights: bool = True
    """Whether an engine over a bundle of `weights tiny` may start; nobody is sold its pictures."""
