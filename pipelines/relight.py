"""Brings the cut-out person into the light of the place behind them, and develops both as one photograph."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.backdrops import Backdrop
from pipelines.cutout import Cutout
from pipelines.types import Face

Plane = NDArray[np.float32]
"""(height, width) or (height, width, 3) float32 sRGB, 0 to 1."""

_LUMA: Final = np.array([0.2126, 0.7152, 0.0722], np.float32)  # ITU-R BT.709
_MAX_TINT: Final = 0.07  # more of the room's colour on a face reads as a colour cast
_WRAP: Final = 0.22  # share of the backdrop's light that bends around the outline
_GRAIN: Final = 0.0075
_DULL: Final = 0.62  # highlights of a person below this mean an underexposed photo, whatever their skin
_MAX_LIFT: Final = 1.22


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a style develops its pictures; 0 changes nothing."""

    side_light: float = 0.12  # how much brighter the lit side is than the middle
    tint: float = 0.35  # how much of the backdrop's colour falls on the person
    contrast: float = 0.10
    saturation: float = 0.0
    exposure: float = 0.0  # in stops


LOOKS: Final[dict[str, Look]] = {
    "corporate": Look(side_light=0.10, tint=0.25, contrast=0.10, saturation=-0.06),
    "executive": Look(side_light=0.20, tint=0.30, contrast=0.16, saturation=-0.06, exposure=-0.12),
    "creative": Look(side_light=0.15, tint=0.07, contrast=0.14, saturation=0.05),
    "tech": Look(side_light=0.12, tint=0.35, contrast=0.10, saturation=-0.08),
    "academic": Look(side_light=0.16, tint=0.26, contrast=0.10, saturation=-0.04, exposure=-0.05),
    "healthcare": Look(side_light=0.07, tint=0.30, contrast=0.05, exposure=0.08),
    "casual": Look(side_light=0.13, tint=0.22, contrast=0.08, saturation=0.02),
    "outdoor": Look(side_light=0.12, tint=0.12, contrast=0.08, saturation=0.03),
}


def look_of(slug: str) -> Look:
    """The look of a built-in style; a plain one for an administrator's own style."""
    return LOOKS.get(slug, Look())


def compose(cutout: Cutout, backdrop: Backdrop, look: Look, seed: int) -> Plane:
    """(1152, 896, 3): the person before the backdrop, lit from its side and in its colours."""
    alpha = cutout.matte[..., None]
    ambient = _chroma(backdrop.pixels.mean(axis=(0, 1)))
    person = _lit(_lifted(cutout), cutout.face, backdrop.light_from * look.side_light)
    person = person * (1 + np.clip(look.tint * (ambient - 1), -_MAX_TINT, _MAX_TINT))
    person = _toned(person, look)
    near = cv2.GaussianBlur(cv2.resize(backdrop.pixels, None, fx=0.25, fy=0.25), (0, 0), 8)
    near = cv2.resize(near, (alpha.shape[1], alpha.shape[0]))
    rim = _WRAP * cv2.GaussianBlur(1 - cutout.matte, (0, 0), 7)[..., None] * alpha
    person = person + rim * (near - person * 0.6).clip(0, 1)
    return _grained(person * alpha + backdrop.pixels * (1 - alpha), seed)


def keep_background(framed: Plane, face: Face, look: Look, seed: int) -> Plane:
    """(1152, 896, 3): the selfie itself, its surroundings softly out of focus and toned to the style.

    For people who cannot be cut out cleanly: nothing here has an outline that could be torn.
    """
    height, width = framed.shape[:2]
    quarter = cv2.resize(framed, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    soft = cv2.resize(cv2.GaussianBlur(quarter, (0, 0), 4.5), (width, height), interpolation=cv2.INTER_CUBIC)
    sharp = cv2.resize(_surely_person(face, width // 4, height // 4), (width, height))[..., None]
    picture = framed * sharp + soft * (1 - sharp) * 0.94
    side = 1 if seed % 2 else -1
    return _grained(_toned(_lit(picture, face, side * look.side_light * 0.6), look), seed)


def _surely_person(face: Face, width: int, height: int) -> Plane:
    """(height, width) at a quarter of the canvas: 1 on head and shoulders, falling off widely around them."""
    mask = np.zeros((height, width), np.float32)
    box = face.height / 4
    x, y = (face.left + face.width / 2) / 4, (face.top + face.height / 2) / 4
    cv2.ellipse(
        mask, (round(x), round(y - 0.08 * box)), (round(0.72 * box), round(0.95 * box)), 0, 0, 360, 1.0, -1
    )
    shoulders = [(-0.5, 0.5), (0.5, 0.5), (1.5, 1.05), (1.7, 3), (-1.7, 3), (-1.5, 1.05)]
    corners = np.array(
        [(round(x + across * box), round(y + down * box)) for across, down in shoulders], np.int32
    )
    cv2.fillPoly(mask, [corners], 1.0)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), 0.16 * box), dtype=np.float32)


def _chroma(colour: NDArray[np.float32]) -> NDArray[np.float32]:
    """The colour without its brightness: three factors around 1."""
    return np.asarray(colour / max(float(colour @ _LUMA), 1e-3), dtype=np.float32)


def _lifted(cutout: Cutout) -> Plane:
    """The person, brighter where the whole photo was taken too dark; never judged by the skin alone."""
    bright = float(np.percentile((cutout.colours @ _LUMA)[cutout.matte > 0.9], 98))
    lift = float(np.clip(_DULL / max(bright, 1e-3), 1.0, _MAX_LIFT))
    return np.asarray(cutout.colours ** (1 / lift), dtype=np.float32) if lift > 1 else cutout.colours


def _lit(picture: Plane, face: Face, side: float) -> Plane:
    """Brighter towards one side, by `side` at the face's edge; positive is the viewer's right."""
    height, width = picture.shape[:2]
    across = (np.arange(width, dtype=np.float32) - (face.left + face.width / 2)) / face.width
    down = (np.arange(height, dtype=np.float32) - (face.top + face.height / 2)) / face.height
    slope = np.tanh(across[None, :] * 1.1 - np.sign(side) * 0.35 * down[:, None])
    return np.asarray(picture * (1 + side * slope - abs(side) * 0.15)[..., None], dtype=np.float32)


def _toned(picture: Plane, look: Look) -> Plane:
    """Exposure, a gentle S-curve and saturation; highlights roll off instead of clipping."""
    picture = picture * np.float32(2 ** (look.exposure / 2.2))
    curve = picture + look.contrast * (picture - 0.42) * np.clip(picture * (1 - picture) * 4, 0, 1)
    gray = (curve @ _LUMA)[..., None]
    toned = gray + (1 + look.saturation) * (curve - gray)
    over = np.maximum(toned - 0.9, 0) / 0.1
    return np.asarray(np.clip(np.minimum(toned, 0.9) + 0.1 * (1 - np.exp(-over)), 0, 1), dtype=np.float32)


def _grained(picture: Plane, seed: int) -> Plane:
    """Even, fine grain over person and backdrop: what a smooth drawing lacks beside a photograph."""
    rng = np.random.default_rng([seed, 0x6772])
    grain = rng.standard_normal(picture.shape[:2], dtype=np.float32)
    grain = cv2.GaussianBlur(grain, (0, 0), 0.7) * (1.9 * _GRAIN)
    return np.asarray(np.clip(picture + grain[..., None], 0, 1), dtype=np.float32)
