"""The gate between a rendered picture and its customer."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines import faces
from pipelines.types import Face, Pixels, QualityReport

MIN_SHARPNESS: Final = faces.MIN_SHARPNESS * 0.6  # what passed intake may lose a little by enlarging
MAX_CLIPPED: Final = faces.MAX_CLIPPED + 0.1
MAX_SOFT_EDGE: Final = 0.10  # share of half-transparent pixels; good mattes have 0.01 to 0.05
CERTAIN: Final = 0.8  # a second face needs this score: shelves and leaves look like faces to Haar


def assess_headshot(pixels: Pixels, matte: NDArray[np.float32] | None = None) -> QualityReport:
    """What was measured on a picture at native size (1152 x 896), and what is wrong with it.

    Problems: no_face, several_faces, face_blurred, face_too_bright, soft_edge. `matte` is (1152, 896),
    0 to 1, and absent where the picture kept its own background.
    """
    found = faces.find_faces(pixels)
    main = _central(found, pixels)
    rivals = [face for face in found if face is not main and face.score >= CERTAIN]
    measures = {"faces": float(len(found))}
    problems = []
    if main is None:
        problems.append("no_face")
    else:
        patch = faces.face_patch(pixels, main)
        measures |= {
            "face_share": main.height / pixels.shape[0],
            "sharpness": faces.sharpness(patch),
            "clipped": float((patch >= 250).mean()),
        }
        if any(face.width > main.width * faces.SECOND_FACE_AREA**0.5 for face in rivals):
            problems.append("several_faces")
        if measures["sharpness"] < MIN_SHARPNESS:
            problems.append("face_blurred")
        if measures["clipped"] > MAX_CLIPPED:
            problems.append("face_too_bright")
    if matte is not None:
        measures["soft_edge"] = float(((matte > 0.05) & (matte < 0.95)).mean())
        if measures["soft_edge"] > MAX_SOFT_EDGE:
            problems.append("soft_edge")
    return QualityReport(measures=measures, problems=tuple(problems))


def _central(found: list[Face], pixels: Pixels) -> Face | None:
    """The largest face whose centre lies in the middle half of the picture."""
    width = pixels.shape[1]
    for face in found:
        if 0.25 < (face.left + face.width / 2) / width < 0.75:
            return face
    return found[0] if found else None
