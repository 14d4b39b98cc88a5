"""The quality gate: which measures let a picture through to its customer, and how good it is then.

All bounds stand here. The defaults are meant for real photographs judged by AuraFace. Calibration belongs to
the weights: another judge has other cosines, and a bundle whose pictures were measured carries its own
bounds, `calibration.json`. Every entry of that file is optional and named as a field of `Thresholds`. The
preview engine has no weights; its bounds are `PREVIEW`.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self
from typing import Final as Constant

from pipelines.errors import Final

LIKENESSES: Constant = ("strong likeness", "good likeness", "fair likeness")
"""What a customer is told of a picture that passed, the best first."""

UNRANKED: Constant = 0
"""The rank of a picture whose likeness was not measured: the engine has nothing to compare it by."""

BEST_RANK: Constant = 1
LOWEST_RANK: Constant = 2 * len(LIKENESSES)

# What a value may be at all: shares run from 0 to 1, cosines from -1 to 1.
_RANGES: Constant = {
    "max_second_face": (0.0, 1.0),
    "min_similarity": (-1.0, 1.0),
    "good_similarity": (-1.0, 1.0),
    "strong_similarity": (-1.0, 1.0),
    "max_clipped": (0.0, 1.0),
    "max_saturated": (0.0, 1.0),
    "max_soft_edge": (0.0, 1.0),
}
_ORDERED: Constant = (
    ("min_similarity", "good_similarity"),
    ("good_similarity", "strong_similarity"),
    ("min_texture", "max_texture"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """When a picture passes, and from where its likeness is called good or strong.

    Raises ValueError, which begins with the field's name, for values that can be no bounds.
    """

    requires_face: bool = True
    """False lets pictures without any face pass, unmeasured: random weights draw none."""

    max_second_face: float = 0.05
    """Area of the second largest face over that of the largest. A studio portrait shows one face; what is
    smaller than this is a pattern or a picture on the wall."""

    min_similarity: float = 0.40
    """The usual bar for one person (WithAnyone, arXiv 2510.14975)."""

    good_similarity: float = 0.52
    """What two different real photos of one person reach on average (there)."""

    strong_similarity: float = 0.62
    """The aim for the median: InstantID on SDXL reaches 0.648 (PuLID, arXiv 2404.16022, table 6)."""

    min_sharpness: float = 45.0
    """Below it insightface calls a face blurry; 250 is its full score (`gui/core/quality.py`)."""

    min_texture: float = 0.6
    max_texture: float = 1.4
    """Fine detail of the skin over that of the selfie: below, skin looks like plastic; above, like grit."""

    max_clipped: float = 0.10
    max_saturated: float = 0.05
    """Shares of the face. They are to be what guidance 5 gives without corrections; these two are guesses
    until real pictures have been measured."""

    max_cheek_distance: float = 25.0
    """Delta E (CIE 1976) to the selfie's cheeks. Wide, because studio light is not the light of a room; a
    guess until real pictures have been measured."""

    max_unnatural_colour: float = 2.0
    """Steps in a* and b* that the cheeks lie further outside of natural skin colour than the selfie's do;
    about 2 is just noticeable."""

    max_soft_edge: float = 0.10
    """Share of half-transparent pixels where a person was cut out; good mattes have 0.01 to 0.05."""

    def __post_init__(self) -> None:
        for field in fields(self):
            _require_possible(field.name, getattr(self, field.name))
        for lower, upper in _ORDERED:
            if getattr(self, lower) > getattr(self, upper):
                raise ValueError(f"{lower} is above {upper}")

    def halved(self) -> Self:
        """Bounds half as wide, likeness apart: what keeps within them keeps well away from these."""
        middle = (self.min_texture + self.max_texture) / 2
        return replace(
            self,
            max_second_face=self.max_second_face / 2,
            min_sharpness=self.min_sharpness * 2,
            min_texture=(self.min_texture + middle) / 2,
            max_texture=(self.max_texture + middle) / 2,
            max_clipped=self.max_clipped / 2,
            max_saturated=self.max_saturated / 2,
            max_cheek_distance=self.max_cheek_distance / 2,
            max_unnatural_colour=self.max_unnatural_colour / 2,
            max_soft_edge=self.max_soft_edge / 2,
        )

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """The defaults, with the entries of the JSON object at `path` in place of theirs.

        Raises Final("bad_calibration"), which names the file and the entry.
        """
        if path is None:
            return cls()
        try:
            entries = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise Final("bad_calibration", f"{path} cannot be read ({type(error).__name__})") from error
        if not isinstance(entries, dict):
            raise Final("bad_calibration", f"{path} is not a JSON object")
        unknown = sorted(set(entries) - {field.name for field in fields(cls)})
        if unknown:
            raise Final("bad_calibration", f"{path}: {unknown[0]} is no bound of the quality gate")
        try:
            return cls(**entries)
        except ValueError as error:
            raise Final("bad_calibration", f"{path}: {error}") from error


def _require_possible(name: str, value: Any) -> None:
    if name == "requires_face":
        if not isinstance(value, bool):
            raise ValueError(f"{name} is true or false, not {value!r}")
        return
    low, high = _RANGES.get(name, (0.0, math.inf))
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} is a finite number, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} lies between {low} and {high}, not at {value!r}")


# The preview engine's pictures are made of the selfie's own pixels, so these follow from what a selfie may be
# (`faces`): a little less sharp after enlarging, a little brighter after relighting. Its sharpness is another
# measure than insightface's.
PREVIEW: Constant = Thresholds(max_second_face=0.25, min_sharpness=0.9, max_clipped=0.65)


def problems(measures: Mapping[str, float], thresholds: Thresholds) -> tuple[str, ...]:
    """The codes of all bounds that the measures cross, each once; what was not measured crosses none.

    no_face, several_faces, not_alike, face_blurred, skin_too_smooth, skin_too_rough, face_too_bright,
    oversaturated, skin_tone_drift, soft_edge. A value at its bound passes.
    """
    no_upper, no_lower = math.inf, -math.inf
    bounds = (
        ("faces", float(thresholds.requires_face), no_upper, "no_face"),
        ("second_face", no_lower, thresholds.max_second_face, "several_faces"),
        ("similarity", thresholds.min_similarity, no_upper, "not_alike"),
        ("sharpness", thresholds.min_sharpness, no_upper, "face_blurred"),
        ("skin_texture", thresholds.min_texture, no_upper, "skin_too_smooth"),
        ("skin_texture", no_lower, thresholds.max_texture, "skin_too_rough"),
        ("clipped", no_lower, thresholds.max_clipped, "face_too_bright"),
        ("saturated", no_lower, thresholds.max_saturated, "oversaturated"),
        ("cheek_distance", no_lower, thresholds.max_cheek_distance, "skin_tone_drift"),
        ("unnatural_colour", no_lower, thresholds.max_unnatural_colour, "skin_tone_drift"),
        ("soft_edge", no_lower, thresholds.max_soft_edge, "soft_edge"),
    )
    crossed = (
        code for name, low, high, code in bounds if name in measures and not low <= measures[name] <= high
    )
    return tuple(dict.fromkeys(crossed))


def likeness(similarity: float, thresholds: Thresholds) -> str:
    """The likeness of a picture that passed, in words for its customer: one of LIKENESSES."""
    strong, good, fair = LIKENESSES
    if similarity >= thresholds.strong_similarity:
        return strong
    if similarity >= thresholds.good_similarity:
        return good
    return fair


def rank(measures: Mapping[str, float], thresholds: Thresholds) -> int:
    """How good a picture that passed is: BEST_RANK to LOWEST_RANK, or UNRANKED without a similarity.

    Likeness decides. Of two that are called alike, the better one keeps within half of every other bound.
    Coarse on purpose: it is kept with the picture, and is to say nothing about the face.
    """
    if "similarity" not in measures:
        return UNRANKED
    level = LIKENESSES.index(likeness(measures["similarity"], thresholds))
    return BEST_RANK + 2 * level + bool(problems(measures, thresholds.halved()))
