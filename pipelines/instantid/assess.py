"""Looks at a selfie with the detector that the engine will use, on the CPU."""

from pathlib import Path

from pipelines import weights
from pipelines.engine import Assessor
from pipelines.faces import require_visible
from pipelines.instantid.faces import head_pose, load_analysis, require_facing, the_one_face
from pipelines.types import Face, Pixels


def load(folder: Path) -> Assessor:
    """See `engine.load_assessor`; `folder` is the weight bundle.

    Raises Final: weights_missing, weights_altered.
    """
    analysis = load_analysis(weights.resolve(folder).faces, "cpu", measures_pose=True)

    def assess(portrait: Pixels) -> Face:
        found = the_one_face(analysis, portrait)
        require_facing(head_pose(analysis, portrait, found))
        (left_eye, right_eye) = ((float(x), float(y)) for x, y in found.keypoints[:2])
        face = Face(
            left=found.left,
            top=found.top,
            width=found.width,
            height=found.height,
            left_eye=left_eye,
            right_eye=right_eye,
            score=found.score,
        )
        require_visible(portrait, face)
        return face

    return assess
