"""What a rendered headshot is measured by, against the selfie it was made from."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines import gate
from pipelines.gate import Thresholds
from pipelines.instantid.faces import (
    FoundFace,
    IdentityFace,
    cosine,
    detect_faces,
    judge_embedding,
)
from pipelines.skin import Lab, delta_e, measure_skin, unnatural
from pipelines.types import Pixels, QualityReport


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reference:
    """What is derived once from a selfie, to measure all pictures made from it; lives in memory only.

    `embedding` is (512,) float32 by the judge. `texture` and `cheeks` are as in `skin.SkinMeasures`, None
    where the selfie shows too little of them.
    """

    embedding: NDArray[np.float32] = field(repr=False)
    texture: float | None
    cheeks: Lab | None


def make_reference(portrait: Pixels, face: IdentityFace, judge: Any) -> Reference:
    """The reference of the selfie `portrait` whose face is `face`."""
    skin = measure_skin(portrait, face.keypoints)
    return Reference(
        embedding=judge_embedding(judge, portrait, face), texture=skin.texture, cheeks=skin.cheeks
    )


def assess_headshot(
    picture: Pixels,
    reference: Reference,
    *,
    analysis: Any,
    judge: Any,
    is_unsafe: bool,
    thresholds: Thresholds,
) -> QualityReport:
    """What was measured on a finished picture, and which bounds it crosses. One detection, one embedding.

    Measures: `faces` (how many) and, of the largest one, `second_face` (the next one's area over its own),
    `face_share` (height over that of the picture), `similarity` (cosine by the judge), `sharpness`,
    `clipped`, `saturated` (see `skin.SkinMeasures`), `skin_texture` (over the selfie's), `cheek_distance`
    (Delta E to the selfie's), `unnatural_colour` (steps further out than the selfie's). What cannot be
    measured is left out. Problems: unsafe, and those of `gate.problems`.
    """
    found = detect_faces(analysis, picture)
    measures = {"faces": float(len(found))}
    if found:
        measures |= _measures(picture, found, reference, judge)
    problems = ("unsafe",) * is_unsafe + gate.problems(measures, thresholds)
    if problems or "similarity" not in measures:
        return QualityReport(measures=measures, problems=problems)
    return QualityReport(
        measures=measures,
        likeness=gate.likeness(measures["similarity"], thresholds),
        rank=gate.rank(measures, thresholds),
    )


def _measures(picture: Pixels, found: list[FoundFace], reference: Reference, judge: Any) -> dict[str, float]:
    face, *others = found
    skin = measure_skin(picture, face.keypoints)
    measures = {
        "second_face": others[0].area / face.area if others else 0.0,
        "face_share": face.height / picture.shape[0],
        "similarity": cosine(reference.embedding, judge_embedding(judge, picture, face)),
        "sharpness": skin.sharpness,
        "clipped": skin.clipped,
        "saturated": skin.saturated,
    }
    if skin.texture is not None and reference.texture:
        measures["skin_texture"] = skin.texture / reference.texture
    if skin.cheeks is not None and reference.cheeks is not None:
        measures["cheek_distance"] = delta_e(skin.cheeks, reference.cheeks)
        measures["unnatural_colour"] = max(0.0, unnatural(skin.cheeks) - unnatural(reference.cheeks))
    return {name: value for name, value in measures.items() if value is not None}
