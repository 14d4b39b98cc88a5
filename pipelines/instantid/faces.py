"""Faces through insightface: who is in the photo, where the five points are, and how alike two pictures are.

Two recognisers on purpose: one conditions the engine, another one judges its pictures. A picture judged by
the recogniser it was made with would only show that the engine obeys.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from insightface.app import FaceAnalysis
from insightface.app.common import Face
from insightface.model_zoo import get_model
from insightface.utils.face_align import norm_crop
from numpy.typing import NDArray

from pipelines.errors import Final as FinalError
from pipelines.errors import Refused
from pipelines.faces import MIN_EYE_DISTANCE
from pipelines.types import Pixels

# One size misses faces that fill the frame, another small ones, so all are asked. 640 is the published
# pipeline's; five points of a coarser pass lie less exactly, whatever its score.
DET_SIZES: Final = ((640, 640), (320, 320), (160, 160))
SAME_FACE_OVERLAP: Final = 0.4  # intersection over union; insightface's own bar within one pass
# A face cut by the photo's edge is found once there is something around it (maintainers: 15 % or more).
PADDING: Final = 0.25
SECOND_FACE_SHARE: Final = 0.25  # a second face counts above this share of the first one's area
MAX_YAW_DEGREES: Final = 35.0  # further, one eye hides and a likeness is guessed
MAX_PITCH_DEGREES: Final = 30.0
OUTLIER_COSINE: Final = 0.35  # below it, a photo shows somebody else; about 0.52 is usual for one person
LANDMARKS: Final = "landmark_3d_68"  # insightface's name for it
PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFace:
    """Where one face is.

    `keypoints` are (5, 2) float32 in pixels of the picture: eye, eye, nose, mouth corner, mouth corner, the
    viewer's left first.
    """

    left: float
    top: float
    width: float
    height: float
    score: float
    keypoints: NDArray[np.float32]

    @property
    def eye_distance(self) -> float:
        """Pixels between the eye centres."""
        return float(np.linalg.norm(self.keypoints[1] - self.keypoints[0]))

    @property
    def area(self) -> float:
        """Square pixels of the box."""
        return self.width * self.height


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityFace(FoundFace):
    """One face as the engine conditions on it; lives in memory only.

    `embedding` is (512,) float32, raw and not normalised, as InstantID was trained.
    """

    embedding: NDArray[np.float32]


def load_analysis(folder: Path, device: str, *, measures_pose: bool = False) -> FaceAnalysis:
    """Detector and recogniser of `folder` (*.onnx) on `device`, "cpu" or "cuda".

    With `measures_pose` also the landmarks that `head_pose` needs.

    Raises Final: weights_missing, no_cuda (a session that fell back to the CPU is not accepted).
    """
    if not any(folder.glob("*.onnx")):
        raise FinalError("weights_missing", f"{folder} holds no *.onnx; it finds faces and describes them")
    modules = {"detection": "face detector", "recognition": "face recogniser"}
    if measures_pose:
        modules[LANDMARKS] = "landmarks"
    analysis = FaceAnalysis(name=str(folder), allowed_modules=list(modules), providers=[PROVIDERS[device]])
    for module, name in modules.items():
        if module not in analysis.models:
            raise FinalError("weights_missing", f"{folder} holds no {name}")
    analysis.prepare(ctx_id=0 if device == "cuda" else -1, det_size=DET_SIZES[0])
    for task, model in analysis.models.items():
        _require_provider(task, model, device)
    return analysis


def load_judge(path: Path, device: str) -> Any:
    """The second recogniser, for `judge_embedding`. Raises Final: weights_missing, no_cuda."""
    if not path.exists():
        raise FinalError("weights_missing", f"{path} is missing; it judges likeness")
    judge = get_model(str(path), providers=[PROVIDERS[device]])
    judge.prepare(0 if device == "cuda" else -1)
    _require_provider("judge", judge, device)
    return judge


def _require_provider(task: str, model: Any, device: str) -> None:
    running = model.session.get_providers()
    _log.info("%s runs on %s", task, running[0])
    if running[0] != PROVIDERS[device]:
        raise FinalError("no_cuda", f"{task} was to run on {device} but runs on {running[0]}")


def find_faces(analysis: FaceAnalysis, portrait: Pixels) -> list[IdentityFace]:
    """All faces, largest first. Looks at the photo with a border around it when it shows none without."""
    faces = _described(analysis, portrait, 0)
    if not faces:
        faces = _described(analysis, portrait, round(PADDING * max(portrait.shape[:2])))
    return sorted(faces, key=lambda face: face.area, reverse=True)


def _described(analysis: FaceAnalysis, portrait: Pixels, border: int) -> list[IdentityFace]:
    padded = np.pad(portrait, ((border, border), (border, border), (0, 0)), constant_values=127)
    bgr = np.ascontiguousarray(padded[..., ::-1])
    return [
        IdentityFace(
            left=found.left - border,
            top=found.top - border,
            width=found.width,
            height=found.height,
            score=found.score,
            keypoints=found.keypoints - np.float32(border),
            embedding=_embedding(analysis, bgr, found),
        )
        for found in _detected(analysis, bgr)
    ]


def _embedding(analysis: FaceAnalysis, bgr: Pixels, found: FoundFace) -> NDArray[np.float32]:
    face = Face(kps=found.keypoints)
    return np.asarray(analysis.models["recognition"].get(bgr, face), np.float32)


def detect_faces(analysis: FaceAnalysis, picture: Pixels) -> list[FoundFace]:
    """All faces, largest first, without describing them: the detector alone, on the picture as it is."""
    found = _detected(analysis, np.ascontiguousarray(picture[..., ::-1]))
    return sorted(found, key=lambda face: face.area, reverse=True)


def _detected(analysis: FaceAnalysis, bgr: Pixels) -> list[FoundFace]:
    """Each face once, as the finest pass that sees it has it."""
    faces: list[FoundFace] = []
    for size in DET_SIZES:
        boxes, points = analysis.det_model.detect(bgr, input_size=size)
        seen = [
            FoundFace(
                left=float(left),
                top=float(top),
                width=float(right - left),
                height=float(bottom - top),
                score=float(score),
                keypoints=np.asarray(keypoints, np.float32),
            )
            for (left, top, right, bottom, score), keypoints in zip(boxes, points, strict=True)
        ]
        faces += [face for face in seen if all(_overlap(face, finer) < SAME_FACE_OVERLAP for finer in faces)]
    return faces


def _overlap(one: FoundFace, other: FoundFace) -> float:
    across = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
    down = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
    shared = max(0.0, across) * max(0.0, down)
    return shared / (one.area + other.area - shared)


def the_one_face(analysis: FaceAnalysis, portrait: Pixels) -> IdentityFace:
    """The face of the portrait. Raises Refused: no_face, several_faces, face_too_small."""
    faces = find_faces(analysis, portrait)
    if not faces:
        raise Refused("no_face")
    first, *others = faces
    if others and others[0].area > SECOND_FACE_SHARE * first.area:
        raise Refused("several_faces")
    if first.eye_distance < MIN_EYE_DISTANCE:
        raise Refused("face_too_small")
    return first


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """How a head is turned, in degrees: down or up, and to a side. 0 looks into the camera."""

    pitch: float
    yaw: float


def head_pose(analysis: FaceAnalysis, portrait: Pixels, face: FoundFace) -> Pose:
    """The pose of one face of the portrait, by an analysis that `measures_pose`."""
    box = np.array([face.left, face.top, face.left + face.width, face.top + face.height], np.float32)
    known = Face(bbox=box)
    analysis.models[LANDMARKS].get(np.ascontiguousarray(portrait[..., ::-1]), known)
    pitch, yaw, _ = map(float, known.pose)
    return Pose(pitch=pitch, yaw=yaw)


def require_facing(pose: Pose) -> None:
    """Raises Refused: face_turned."""
    if not (abs(pose.yaw) <= MAX_YAW_DEGREES and abs(pose.pitch) <= MAX_PITCH_DEGREES):  # also refuses NaN
        raise Refused("face_turned")


def mean_embedding(faces: Sequence[IdentityFace]) -> NDArray[np.float32]:
    """(512,) float32: the mean over one to four photos of one person, without the photos that do not fit.

    InstantID's paper averages embeddings (arXiv 2401.07519, 3.3). A photo is dropped when its cosine to the
    mean of the others is below OUTLIER_COSINE and there are two others. Raises ValueError for no face at all.
    """
    if not faces:
        raise ValueError("a mean needs at least one face")
    embeddings = np.stack([face.embedding for face in faces])
    if len(embeddings) < 3:
        return np.asarray(embeddings.mean(axis=0), np.float32)
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)  # a strong stranger counts once
    fits = [
        cosine(unit, np.delete(units, place, axis=0).mean(axis=0)) >= OUTLIER_COSINE
        for place, unit in enumerate(units)
    ]
    kept = embeddings[fits] if any(fits) else embeddings
    return np.asarray(kept.mean(axis=0), np.float32)


def judge_embedding(judge: Any, picture: Pixels, face: FoundFace) -> NDArray[np.float32]:
    """(512,) float32: the face as the judge sees it. The `cosine` of two says how alike they are to it, -1 to
    1; 0.4 is a usual bar for one person."""
    bgr = np.ascontiguousarray(picture[..., ::-1])
    aligned = norm_crop(bgr, landmark=face.keypoints, image_size=judge.input_size[0])
    return np.asarray(judge.get_feat(aligned), np.float32).ravel()


def cosine(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """The cosine of the angle between two embeddings; 0 when one of them is zero."""
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / norm if norm else 0.0
