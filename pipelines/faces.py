"""Finds the face of a portrait with OpenCV's Haar cascades, and says when it cannot be used.

One cascade alone sees faces in curtains and misses them in shade. So three cascades and two eyes have a
vote each, and a box counts as a face when three of the five agree.
"""

import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.errors import Refused
from pipelines.types import Face, Pixels

MIN_EYE_DISTANCE: Final = 60  # pixels between the eyes; below it a 4K portrait is mostly invention
SECOND_FACE_AREA: Final = 0.25  # of the first's; smaller ones are passers-by and pictures on the wall
MIN_BRIGHTNESS: Final = 28.0  # 95th percentile of the face's grey values: dark skin in poor light has 60
MAX_CLIPPED: Final = 0.55  # share of the face at 250 or more: a flash at arm's length reaches 0.3
MIN_SHARPNESS: Final = 1.5  # see `sharpness`

_WORKING_EDGE: Final = 720  # long side while looking: Haar's windows then fit faces of 4 to 90 % of it
_MIN_BOX: Final = 30
_PADDING: Final = 0.2  # of the long side, around close-ups whose forehead or chin leaves the picture
_CASCADES: Final = ("frontalface_alt2", "frontalface_default", "frontalface_alt")
_EYE_CASCADES: Final = ("eye_tree_eyeglasses", "eye")
_EYE_SIZE: Final = 240  # width of a face while its eyes are looked for
_TILTS: Final = (0.0, -14.0, 14.0)
_MIN_VOTES: Final = 3  # with two, curtains and overexposed walls become faces
_OVERLAP: Final = 0.35  # intersection over union above which two boxes are one face
_USUAL_EYES: Final = ((0.305, 0.385), (0.695, 0.385))  # in a Haar box, mean over upright faces

_Gray = NDArray[np.uint8]


class _Box(NamedTuple):
    left: float
    top: float
    size: float
    cascades: frozenset[str]


def find_faces(portrait: Pixels, *, min_share: float = 0.0) -> list[Face]:
    """Every confirmed face of the picture, largest first, in its pixels; empty when there is none.

    `score` runs from 0 to 1: the share of cascades and eyes that agreed. Faces narrower than `min_share` of
    the picture's long side are not looked for, which takes most of the time. May run in several threads.
    """
    scale = min(1.0, _WORKING_EDGE / max(portrait.shape[:2]))
    small = cv2.resize(portrait, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    gray = _as_gray(small)
    min_box = max(_MIN_BOX, round(min_share * max(gray.shape)))
    evened = cv2.createCLAHE(clipLimit=3.0, tileGridSize=(8, 8)).apply(gray)
    padding = round(_PADDING * max(gray.shape))
    padded = cv2.copyMakeBorder(
        evened, padding, padding, padding, padding, cv2.BORDER_CONSTANT, value=float(np.median(evened))
    )
    for candidate, offset in ((gray, 0), (evened, 0), (padded, padding)):
        for degrees in _TILTS:
            found = _confirmed(_as_gray(candidate), degrees, min_box)
            if found:
                return sorted(
                    (_moved(face, -offset, 1 / scale) for face in found), key=lambda face: -face.width
                )
    return []


def the_one_face(portrait: Pixels) -> Face:
    """The face this portrait is of.

    Raises Refused: no_face, several_faces, face_too_small, face_too_dark, face_too_bright, face_blurred.
    """
    faces = find_faces(portrait)
    if not faces:
        raise Refused("no_face")
    first = faces[0]
    if any(other.width * other.height > SECOND_FACE_AREA * first.width * first.height for other in faces[1:]):
        raise Refused("several_faces")
    if first.eye_distance < MIN_EYE_DISTANCE:
        raise Refused("face_too_small")
    require_visible(portrait, first)
    return first


def require_visible(portrait: Pixels, face: Face) -> None:
    """Raises Refused: face_too_dark, face_too_bright, face_blurred."""
    gray = face_patch(portrait, face)
    if np.percentile(gray, 95) < MIN_BRIGHTNESS:
        raise Refused("face_too_dark")
    if (gray >= 250).mean() > MAX_CLIPPED:
        raise Refused("face_too_bright")
    if sharpness(gray) < MIN_SHARPNESS:
        raise Refused("face_blurred")


def face_patch(picture: Pixels, face: Face) -> _Gray:
    """(200, 200) uint8 grey: the face without hair and background, at one size for all measures."""
    height, width = picture.shape[:2]
    inset = 0.14  # of the box: what lies further out is hair, ears and background
    top, bottom = face.top + inset * face.height, face.top + (1 - inset / 2) * face.height
    left, right = face.left + inset * face.width, face.left + (1 - inset) * face.width
    rows = slice(max(0, round(top)), min(height, max(round(bottom), round(top) + 1)))
    columns = slice(max(0, round(left)), min(width, max(round(right), round(left) + 1)))
    return _as_gray(cv2.resize(picture[rows, columns], (200, 200), interpolation=cv2.INTER_AREA))


def sharpness(gray: _Gray) -> float:
    """Variance of the Laplacian after a slight blur (which takes sensor noise and rounding out of it),
    relative to the contrast of the patch, so that shade is not called blur.
    """
    contrast = max(float(gray.std()), 8.0) / 48.0
    smooth = cv2.GaussianBlur(gray.astype(np.float32), (0, 0), 1.5)
    return float(cv2.Laplacian(smooth, cv2.CV_32F).var()) / contrast**2


def _as_gray(picture: NDArray[Any]) -> _Gray:
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) if picture.ndim == 3 else picture
    return np.ascontiguousarray(gray, dtype=np.uint8)


class _Cascades(threading.local):
    """A set for each thread: a classifier keeps its state while it looks, so two looks at once spoil both."""

    def __init__(self) -> None:
        self._by_name: dict[str, cv2.CascadeClassifier] = {}

    def __getitem__(self, name: str) -> cv2.CascadeClassifier:
        if name not in self._by_name:
            file = Path(cv2.__file__).parent / "data" / f"haarcascade_{name}.xml"
            self._by_name[name] = cv2.CascadeClassifier(str(file))
        return self._by_name[name]


_cascades: Final = _Cascades()


def _confirmed(gray: _Gray, degrees: float, min_box: int) -> list[Face]:
    """Faces of the picture turned by `degrees`, in the coordinates of the picture as it stands."""
    turned, back = _turned(gray, degrees)
    faces = []
    for box in _candidates(turned, min_box):
        eyes, eye_count = _eyes(turned, box)
        votes = len(box.cascades) + eye_count
        if votes < _MIN_VOTES:
            continue
        centre = _mapped(back, box.left + box.size / 2, box.top + box.size / 2)
        faces.append(
            Face(
                left=centre[0] - box.size / 2,
                top=centre[1] - box.size / 2,
                width=box.size,
                height=box.size,
                left_eye=_mapped(back, *eyes[0]),
                right_eye=_mapped(back, *eyes[1]),
                score=votes / (len(_CASCADES) + 2),
            )
        )
    return faces


def _turned(gray: _Gray, degrees: float) -> tuple[_Gray, NDArray[np.float64]]:
    height, width = gray.shape
    there = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    back = np.asarray(cv2.invertAffineTransform(there), dtype=np.float64)
    if degrees == 0:
        return gray, back
    return _as_gray(cv2.warpAffine(gray, there, (width, height), borderMode=cv2.BORDER_REPLICATE)), back


def _mapped(matrix: NDArray[np.float64], x: float, y: float) -> tuple[float, float]:
    mapped = matrix @ np.array([x, y, 1.0])
    return float(mapped[0]), float(mapped[1])


def _candidates(gray: _Gray, min_box: int) -> list[_Box]:
    """Boxes of all cascades, those that overlap joined into one."""
    boxes: list[_Box] = []
    for name in _CASCADES:
        found = _cascades[name].detectMultiScale(
            gray, scaleFactor=1.1, minNeighbors=4, minSize=(min_box, min_box)
        )
        for left, top, size, _ in np.asarray(found, dtype=np.float64).reshape(-1, 4):
            box = _Box(float(left), float(top), float(size), frozenset((name,)))
            for index, other in enumerate(boxes):
                if _overlap(box, other) > _OVERLAP:
                    boxes[index] = other._replace(cascades=other.cascades | {name})
                    break
            else:
                boxes.append(box)
    return boxes


def _overlap(one: _Box, other: _Box) -> float:
    across = min(one.left + one.size, other.left + other.size) - max(one.left, other.left)
    down = min(one.top + one.size, other.top + other.size) - max(one.top, other.top)
    shared = max(0.0, across) * max(0.0, down)
    return shared / (one.size**2 + other.size**2 - shared)


def _eyes(gray: _Gray, box: _Box) -> tuple[tuple[tuple[float, float], tuple[float, float]], int]:
    """Centres of both eyes, and how many of them were seen; unseen ones stand where eyes usually are."""
    usual = tuple((box.left + x * box.size, box.top + y * box.size) for x, y in _USUAL_EYES)
    left, top = max(0, round(box.left)), max(0, round(box.top))
    upper = gray[top : round(box.top + 0.62 * box.size), left : round(box.left + box.size)]
    zoom = _EYE_SIZE / box.size
    enlarged = _as_gray(cv2.resize(upper, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC))
    seen: list[list[tuple[float, float]]] = [[], []]
    for name in _EYE_CASCADES:
        for x, y, width, height in _cascades[name].detectMultiScale(
            enlarged, scaleFactor=1.08, minNeighbors=4, minSize=(34, 34), maxSize=(90, 90)
        ):
            eye = (left + (x + width / 2) / zoom, top + (y + height / 2) / zoom)
            for side in (0, 1):
                if math.dist(eye, usual[side]) < 0.13 * box.size:
                    seen[side].append(eye)
    first, second = (_mean(points) if points else usual[side] for side, points in enumerate(seen))
    return (first, second), sum(bool(points) for points in seen)


def _mean(points: list[tuple[float, float]]) -> tuple[float, float]:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


def _moved(face: Face, offset: float, scale: float) -> Face:
    return replace(
        face,
        left=(face.left + offset) * scale,
        top=(face.top + offset) * scale,
        width=face.width * scale,
        height=face.height * scale,
        left_eye=((face.left_eye[0] + offset) * scale, (face.left_eye[1] + offset) * scale),
        right_eye=((face.right_eye[0] + offset) * scale, (face.right_eye[1] + offset) * scale),
    )
