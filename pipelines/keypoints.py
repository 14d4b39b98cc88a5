"""Where the face goes: a person's own five points moved into a framing, drawn, and made into a mask.

Points are always (5, 2), x then y in pixels, in insightface's order: eye, eye, nose, mouth corner, mouth
corner, the viewer's left first. Only the points of the person in the portrait are ever used; the framings
are numbers.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.errors import Refused
from pipelines.presets import HEIGHT, WIDTH
from pipelines.types import Pixels

Points: TypeAlias = NDArray[np.floating[Any]]
Mask: TypeAlias = NDArray[np.float32]

# The drawing IdentityNet was trained on: `draw_kps` in pipeline_stable_diffusion_xl_instantid.py of the
# InstantID repository (commit 2145b67, Apache-2.0); the constants are its own, the code is not.
COLOURS: Final = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))  # RGB, per point
LIMBS: Final = ((0, 2), (1, 2), (3, 2), (4, 2))
LIMB_HALF_WIDTH: Final = 4
LIMB_STRENGTH: Final = 0.6
POINT_RADIUS: Final = 10

FRAMING_VERSION: Final = 1  # raise it with any number below, up to LEVELLING: pictures change

# Eye line to mouth line as a share of the face from hairline to chin: the canon of thirds puts the eyes at
# 0.39 and the mouth at 0.77 to 0.78 of it.
EYE_MOUTH_SHARE: Final = 0.38
LEVELLING: Final = 0.75  # share of the head's tilt that is taken out; all of it looks like a passport
JITTER_POSITION: Final = 0.015  # of the canvas, each way
JITTER_SCALE: Final = 0.03
JITTER_ROLL_DEGREES: Final = 2.0

MIN_DISTANCE: Final = 1.0  # pixels between the eyes and from eyes to mouth; less is no face
MIRRORED_ORDER: Final = (1, 0, 2, 4, 3)

# The mask's half axes and the way from mid-eye to its centre, in face sizes (the larger one of eye distance
# and eye-mouth distance, so that a turned or bowed head keeps its mask). A face is 1 / 0.38 = 2.63 sizes
# high and three quarters of that wide; a tenth is added so that hairline and jaw belong to it.
MASK_HALF_HEIGHT: Final = 1.45
MASK_HALF_WIDTH: Final = 1.1
MASK_CENTRE: Final = 0.29
MASK_FEATHER: Final = 1.35  # the elliptical radius where the mask has fallen to 0; it is 1 up to radius 1
LATENT_SCALES: Final = (8, 16, 32)  # of the pictures' size: the levels of SDXL's UNet and ControlNet


@dataclass(frozen=True, slots=True)
class Framing:
    """Where the point between the eyes lies, as shares of width and height, and how high the face is."""

    x: float
    y: float
    face: float

    @property
    def eye_mouth(self) -> float:
        """Mid-eye to mid-mouth, as a share of the canvas's height."""
        return self.face * EYE_MOUTH_SHARE


FRAMING: Final = {
    "close": Framing(0.5, 0.42, 0.42),
    "head_and_shoulders": Framing(0.5, 0.37, 0.36),
    "chest": Framing(0.5, 0.33, 0.31),
}
"""One per name in `presets.FRAMINGS`; each leaves 14 to 17 % of the height above the crown."""


def draw_keypoints(keypoints: Points, width: int, height: int) -> Pixels:
    """IdentityNet's condition picture, (height, width, 3) RGB, black where there is no face.

    Limb width and point radius are absolute, so draw at the size of the picture to be made and never resize
    the drawing. Coordinates are truncated, not rounded, in the dtype they come in: as the reference does
    it. Points beyond the canvas are cut off. Raises Refused("no_face") if a number is not finite.
    """
    points = _finite(keypoints)
    canvas = np.zeros((height, width, 3), np.uint8)
    for first, second in LIMBS:
        (x0, y0), (x1, y1) = points[first], points[second]
        length = ((x0 - x1) ** 2 + (y0 - y1) ** 2) ** 0.5
        angle = math.degrees(math.atan2(y0 - y1, x0 - x1))
        centre = (int(np.mean(points[[first, second], 0])), int(np.mean(points[[first, second], 1])))
        outline = cv2.ellipse2Poly(centre, (int(length / 2), LIMB_HALF_WIDTH), int(angle), 0, 360, 1)
        cv2.fillConvexPoly(canvas, np.asarray(outline), COLOURS[first])
    canvas = (canvas * LIMB_STRENGTH).astype(np.uint8)
    for (x, y), colour in zip(points, COLOURS, strict=True):
        cv2.circle(canvas, (int(x), int(y)), POINT_RADIUS, colour, -1)
    return canvas


def place(
    keypoints: Points,
    framing: str,
    seed: int,
    *,
    mirror: bool | None = None,
    width: int = WIDTH,
    height: int = HEIGHT,
) -> NDArray[np.float64]:
    """The person's own points inside a framing, (5, 2) float64 in pixels of the (width, height) canvas.

    One similarity transform without reflection: mid-eye and the eye-mouth distance come to lie where the
    framing has them, the head's tilt is reduced by LEVELLING, and the seed adds a small shift, scale and
    roll. So the proportions stay the person's. `mirror` reflects the points first, with left and right
    exchanged; None leaves that to the seed. Equal arguments give equal points. Raises Refused("no_face")
    for points that are no face, and KeyError for an unknown framing.
    """
    frame = FRAMING[framing]
    rng = np.random.default_rng(seed)
    shift_x, shift_y, zoom, roll = rng.uniform(-1.0, 1.0, 4)
    is_mirrored = bool(rng.random() < 0.5) if mirror is None else mirror
    points = _finite(keypoints).astype(np.float64)
    if is_mirrored:
        points = points[list(MIRRORED_ORDER)] * (-1.0, 1.0)
    middle, across, down = _axes(points)

    scale = frame.eye_mouth * height / math.hypot(*down) * (1 + JITTER_SCALE * zoom)
    turn = math.radians(JITTER_ROLL_DEGREES * roll) - LEVELLING * _tilt(across, down)
    cos, sin = math.cos(turn) * scale, math.sin(turn) * scale
    target = (width * (frame.x + JITTER_POSITION * shift_x), height * (frame.y + JITTER_POSITION * shift_y))
    return np.asarray((points - middle) @ np.array([[cos, sin], [-sin, cos]]) + target, dtype=np.float64)


def face_mask(keypoints: Points, width: int, height: int) -> Mask:
    """Where identity may act: (height, width) float32, 1 inside the face's ellipse, smoothly 0 around it.

    The reference masks with the face's box ("enhance non-face region" in
    pipeline_stable_diffusion_xl_instantid_full.py); an ellipse along the head's own axis has no corners to
    show. Raises Refused("no_face") for points that are no face.
    """
    points = _finite(keypoints).astype(np.float64)
    middle, across, down = _axes(points)
    size = max(math.hypot(*across), math.hypot(*down))
    tilt = _tilt(across, down)
    cos, sin = math.cos(tilt), math.sin(tilt)
    centre_x, centre_y = middle[0] - sin * MASK_CENTRE * size, middle[1] + cos * MASK_CENTRE * size

    x = np.arange(width, dtype=np.float32)[None, :] - np.float32(centre_x)
    y = np.arange(height, dtype=np.float32)[:, None] - np.float32(centre_y)
    sideways = (x * np.float32(cos) + y * np.float32(sin)) / np.float32(MASK_HALF_WIDTH * size)
    lengthways = (y * np.float32(cos) - x * np.float32(sin)) / np.float32(MASK_HALF_HEIGHT * size)
    fall = (MASK_FEATHER - np.hypot(sideways, lengthways)) / (MASK_FEATHER - 1)
    fall = np.clip(fall, 0.0, 1.0)
    return np.asarray(fall * fall * (3 - 2 * fall), dtype=np.float32)


def mask_at(mask: Mask, scale: int) -> Mask:
    """The mask's means over blocks of `scale` pixels (8, 16 or 32): its size at that level of the UNet."""
    if scale not in LATENT_SCALES:
        raise ValueError(f"latents are 8, 16 or 32 times smaller than the picture, not {scale}")
    height, width = mask.shape
    size = (-(-width // scale), -(-height // scale))
    return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_AREA), dtype=np.float32)


def _finite(keypoints: Points) -> Points:
    points = np.asarray(keypoints)
    if points.shape != (5, 2):
        raise ValueError(f"keypoints are (5, 2), not {points.shape}")
    if not np.isfinite(points).all():
        raise Refused("no_face", "a keypoint is not finite")
    return points


def _axes(
    points: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mid-eye, the vector from eye to eye, and the one from mid-eye to mid-mouth."""
    middle = points[:2].mean(axis=0)
    across, down = points[1] - points[0], points[3:].mean(axis=0) - middle
    if min(math.hypot(*across), math.hypot(*down)) < MIN_DISTANCE:
        raise Refused("no_face", "eyes and mouth fall into one point")
    if across[0] * down[1] - across[1] * down[0] <= 0:
        raise Refused("no_face", "left and right are exchanged, or all points lie on one line")
    return middle, across, down


def _tilt(across: NDArray[np.float64], down: NDArray[np.float64]) -> float:
    """The head's roll in radians, clockwise positive, by least squares over both axes of the face.

    Umeyama (1991) in two dimensions: the rotation that best takes (1, 0) to `across` and (0, 1) to `down` has
    the angle of the sum of the dot products and the sum of the cross products.
    """
    return math.atan2(across[1] - down[0], across[0] + down[1])
