"""What skin and light look like in a face: measures of a picture, given the five points of the face in it.

Every face is first brought to one place and size, insightface's alignment at 256 pixels, so that measures of
a selfie and of a rendered picture compare. Parts of the face outside of the picture count nowhere; a measure
that less than half of its region is left for is None.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.types import Pixels

SIZE: Final = 256
# ArcFace's template for 112 pixels as insightface uses it at multiples of 128: shifted by 8 to the right,
# then scaled (`estimate_norm` in insightface/utils/face_align.py).
TEMPLATE: Final = (SIZE / 128) * np.array(
    [(46.2946, 51.6963), (81.5318, 51.5014), (64.0252, 71.7366), (49.5493, 92.3655), (78.7299, 92.2041)]
)

# Regions of the aligned face: centre and half axes of ellipses. The face reaches from the hairline to the
# chin; the patches lie on skin also behind glasses, under a fringe and beside a beard.
FACE: Final = ((128.0, 150.0), (76.0, 95.0))
LEFT_CHEEK: Final = ((80.0, 142.0), (13.0, 13.0))
RIGHT_CHEEK: Final = ((176.0, 142.0), (13.0, 13.0))
FOREHEAD: Final = ((128.0, 76.0), (20.0, 8.0))

MIN_SEEN: Final = 0.5  # of a region
CLIPPED: Final = 250  # of 255: JPEG and resampling move a burnt 255 by a few steps
SATURATED: Final = 0.9  # of HSV's saturation
MIN_VALUE: Final = 32  # of 255: below it a step of rounding is already a saturated colour
# Where the mean of the cheeks lies for skin of all tones: natural colour of OFIQ (ISO/IEC 29794-5).
NATURAL_A: Final = (5.0, 25.0)
NATURAL_B: Final = (5.0, 35.0)
DETAIL_SIGMA: Final = 2.0  # pixels: pores and fine lines are detail, the shading of a cheek is not

Lab: TypeAlias = tuple[float, float, float]
"""CIELAB under D65: L* from 0 to 100, a* and b* around 0."""

Mask: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class SkinMeasures:
    """What was measured on one face; None where too little of it lies in the picture.

    `sharpness`: variance of the Laplacian over the face, in grey steps squared (insightface calls a face
    blurry below 45 and entirely sharp from 250). `texture`: strength of the skin's fine detail in L* steps,
    the median of cheeks and forehead. `clipped`: share of the face with a channel at 250 or more.
    `saturated`: share of the face with a saturation above 0.9. `cheeks`: mean colour of both cheeks.
    """

    sharpness: float | None
    texture: float | None
    clipped: float | None
    saturated: float | None
    cheeks: Lab | None


def measure_skin(picture: Pixels, keypoints: NDArray[np.floating[Any]]) -> SkinMeasures:
    """The measures of the face whose five points, (5, 2) in insightface's order, are given in pixels.

    Costs some milliseconds whatever the picture's size. Raises ValueError for anything but five finite points
    that do not fall into one.
    """
    aligned, seen = align_face(picture, keypoints)
    lab = cv2.cvtColor(aligned.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    grey = cv2.cvtColor(aligned, cv2.COLOR_RGB2GRAY)
    edges = np.asarray(cv2.Laplacian(grey, cv2.CV_32F))
    value = aligned.max(axis=2)
    spread = (value - aligned.min(axis=2)) / np.maximum(value, 1)
    face = _region(FACE, seen)
    return SkinMeasures(
        sharpness=None if face is None else float(edges[face].var(dtype=np.float64)),
        texture=_texture(np.asarray(lab[..., 0]), seen),
        clipped=None if face is None else float((value[face] >= CLIPPED).mean()),
        saturated=None if face is None else float(((spread > SATURATED) & (value >= MIN_VALUE))[face].mean()),
        cheeks=_cheeks(np.asarray(lab), seen),
    )


def delta_e(first: Lab, second: Lab) -> float:
    """CIE 1976 colour difference, the distance in CIELAB (ISO/CIE 11664-4); about 2 is just noticeable.

    Not CIEDE2000: that was fitted to differences below 5 (Sharma and others, 2005) and counts chroma the less
    the stronger it is, while burnt skin is what is looked for here.
    """
    return math.dist(first, second)


def unnatural(colour: Lab) -> float:
    """How far (a*, b*) lies outside of natural skin colour; 0 inside."""
    _, a, b = colour
    outside = (max(low - value, value - high, 0.0) for value, (low, high) in ((a, NATURAL_A), (b, NATURAL_B)))
    return math.hypot(*outside)


def align_face(picture: Pixels, keypoints: NDArray[np.floating[Any]]) -> tuple[Pixels, Mask]:
    """The face as insightface's `norm_crop` gives it at 256 pixels, (256, 256, 3) uint8, and which of its
    pixels, (256, 256) bool, lie inside of the picture; those outside repeat its edge.

    A face that is larger than 256 pixels is averaged down, not sampled, so that a picture and its enlargement
    measure the same. Raises ValueError as `measure_skin` does.
    """
    matrix = _similarity(keypoints)
    part, offset = _part(picture, matrix)
    if part.size == 0:
        return np.zeros((SIZE, SIZE, 3), np.uint8), np.zeros((SIZE, SIZE), np.bool_)
    shrink = min(1.0, math.hypot(matrix[0, 0], matrix[1, 0]))
    height, width = part.shape[:2]
    small = cv2.resize(
        part, (max(1, round(width * shrink)), max(1, round(height * shrink))), interpolation=cv2.INTER_AREA
    )
    # Back from the part's pixels to the picture's; the centre of pixel 0 lies half a pixel inside.
    zoom = np.array([width / small.shape[1], height / small.shape[0]])
    back = np.eye(3)
    back[(0, 1), (0, 1)], back[:2, 2] = zoom, (zoom - 1) / 2 + offset
    there = (matrix @ back)[:2]
    aligned = cv2.warpAffine(small, there, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(np.full(small.shape[:2], 255, np.uint8), there, (SIZE, SIZE))
    return np.asarray(aligned, np.uint8), np.asarray(inside == 255)


def _similarity(keypoints: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """(3, 3): the least-squares similarity from the picture onto the template (Umeyama 1991).

    In two dimensions it is one complex factor, the regression of the template's points on the face's.
    """
    points = np.asarray(keypoints, np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise ValueError("a face has five finite points")
    source, target = (values[:, 0] + 1j * values[:, 1] for values in (points, TEMPLATE))
    centred = source - source.mean()
    size = float((np.abs(centred) ** 2).sum())
    if size == 0:
        raise ValueError("the five points fall into one")
    factor = complex((centred.conj() * (target - target.mean())).sum()) / size
    shift = complex(target.mean() - factor * source.mean())
    return np.array(
        [(factor.real, -factor.imag, shift.real), (factor.imag, factor.real, shift.imag), (0.0, 0.0, 1.0)]
    )


def _part(picture: Pixels, matrix: NDArray[np.float64]) -> tuple[Pixels, NDArray[np.float64]]:
    """The part of the picture that the aligned square shows, with a margin for filters, and its corner."""
    square = np.array([(0, 0, 1), (SIZE, 0, 1), (0, SIZE, 1), (SIZE, SIZE, 1)], np.float64)
    corners = (square @ np.linalg.inv(matrix).T)[:, :2]
    limits = np.array(picture.shape[1::-1])
    low = np.clip(np.floor(corners.min(axis=0)) - 2, 0, limits).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)) + 3, 0, limits).astype(int)
    return picture[low[1] : high[1], low[0] : high[0]], low.astype(np.float64)


def _region(ellipse: tuple[tuple[float, float], tuple[float, float]], seen: Mask) -> Mask | None:
    """Pixels of the ellipse inside of the picture; None when they are less than half of it."""
    (x, y), (half_width, half_height) = ellipse
    across, down = (np.arange(SIZE) - x) / half_width, (np.arange(SIZE) - y) / half_height
    whole = across[None, :] ** 2 + down[:, None] ** 2 <= 1
    region = whole & seen
    return region if region.sum() >= MIN_SEEN * whole.sum() else None


def _texture(lightness: NDArray[np.float32], seen: Mask) -> float | None:
    """The median over the patches, so that one strand of hair or one highlight does not count as skin."""
    detail = lightness - cv2.GaussianBlur(lightness, (0, 0), DETAIL_SIGMA)
    regions = [_region(patch, seen) for patch in (LEFT_CHEEK, RIGHT_CHEEK, FOREHEAD)]
    strengths = [float(detail[region].std(dtype=np.float64)) for region in regions if region is not None]
    return float(np.median(strengths)) if strengths else None


def _cheeks(lab: NDArray[np.float32], seen: Mask) -> Lab | None:
    """The mean of the cheeks' means; of one cheek where the other one lies outside."""
    regions = [_region(patch, seen) for patch in (LEFT_CHEEK, RIGHT_CHEEK)]
    means = [lab[region].mean(axis=0, dtype=np.float64) for region in regions if region is not None]
    if not means:
        return None
    lightness, a, b = np.mean(means, axis=0)
    return float(lightness), float(a), float(b)
