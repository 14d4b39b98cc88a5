"""What a picture of the preview engine is measured by; the bounds are `gate.PREVIEW`.

No likeness: nothing here recognises anybody, and the face is the selfie's own.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines import faces, gate
from pipelines.types import Face, Pixels, QualityReport

MIN_SHARE: Final = 0.15  # of the height: main faces are a third of it wide, and half as wide is a second face
CERTAIN: Final = 0.8  # a second face needs this score: shelves and leaves look like faces to Haar


def assess_headshot(pixels: Pixels, matte: NDArray[np.float32] | None = None) -> QualityReport:
    """What was measured on a picture at native size (1152 x 896), and what is wrong with it.

    Problems: no_face, several_faces, face_blurred, face_too_bright, soft_edge. `matte` is (1152, 896),
    0 to 1, and absent where the picture kept its own background.
    """
    found = faces.find_faces(pixels, min_share=MIN_SHARE)
    measures = {"faces": float(len(found))}
    if main := _central(found, pixels):
        patch = faces.face_patch(pixels, main)
        rivals = [face for face in found if face is not main and face.score >= CERTAIN]
        measures |= {
            "second_face": max(((face.width / main.width) ** 2 for face in rivals), default=0.0),
            "face_share": main.height / pixels.shape[0],
            "sharpness": faces.sharpness(patch),
            "clipped": float((patch >= 250).mean()),
        }
    if matte is not None:
        measures["soft_edge"] = float(((matte > 0.05) & (matte < 0.95)).mean())
    return QualityReport(measures=measures, problems=gate.problems(measures, gate.PREVIEW))


def _central(found: list[Face], pixels: Pixels) -> Face | None:
    """The largest face whose centre lies in the middle half of the picture."""
    width = pixels.shape[1]
    for face in found:
        if 0.25 < (face.left + face.width / 2) / width < 0.75:
            return face
    return found[0] if found else None
