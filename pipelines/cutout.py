"""Frames the person as a headshot and cuts them out of the selfie's background, with OpenCV alone.

GrabCut finds the person (Rother et al. 2004), a guided filter fits the mask to the hair (He et al. 2010), and
the edge takes its colours from inside, so that no tint of the old background stays. Where the result is
doubtful this module says so, and the caller composes nothing.
"""

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.presets import HEIGHT, WIDTH
from pipelines.types import Face, Pixels

Plane = NDArray[np.float32]
"""(height, width) or (height, width, 3) float32, 0 to 1."""

FACE_SHARE: Final = {"close": 0.42, "head_and_shoulders": 0.36, "chest": 0.31}  # Haar box / canvas height
FACE_CENTRE: Final = {"close": 0.485, "head_and_shoulders": 0.435, "chest": 0.40}  # from the top

_LOWEST_CENTRE: Final = 0.54  # how far down a face may move so that the body reaches the lower edge
_LARGEST_SHARE: Final = 0.56  # how far a photo may be zoomed in to be filled by its person
_MAX_ASIDE: Final = 0.08 * WIDTH  # how far a face may stand beside the middle for the same reason
_SEED_SCALE: Final = 0.5  # GrabCut works on a copy of this size
_GRABCUT_ROUNDS: Final = 5
_WIDEST: Final = "chest"
_LEAST_HALF: Final = 0.28  # of the face's width, from its middle to either side, at every height
_MAX_WIDE: Final = 0.04  # of the face's area, beside the head: more is background taken for hair
_MAX_UNEVENNESS: Final = 0.035  # clean heads have 0.016 to 0.022, with pieces of background on them 0.057
_CORE: Final = 0.8  # up to this matte value a pixel's own colour is taken for the old background's


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """Where the photo lies on the 896 x 1152 canvas: canvas = scale * photo + (shift_x, shift_y)."""

    scale: float
    shift_x: float
    shift_y: float

    @property
    def matrix(self) -> NDArray[np.float64]:
        """(2, 3), for cv2.warpAffine."""
        return np.array([[self.scale, 0, self.shift_x], [0, self.scale, self.shift_y]])

    def moved(self, face: Face) -> Face:
        """The face in canvas pixels."""
        return Face(
            left=face.left * self.scale + self.shift_x,
            top=face.top * self.scale + self.shift_y,
            width=face.width * self.scale,
            height=face.height * self.scale,
            left_eye=(
                face.left_eye[0] * self.scale + self.shift_x,
                face.left_eye[1] * self.scale + self.shift_y,
            ),
            right_eye=(
                face.right_eye[0] * self.scale + self.shift_x,
                face.right_eye[1] * self.scale + self.shift_y,
            ),
            score=face.score,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """(576, 448) uint8, 1 where the person is, on the canvas of `framing` at half size."""

    mask: NDArray[np.uint8]
    framing: Framing


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutout:
    """The person on the canvas. `colours` holds their own colours also where `matte` is partial."""

    colours: Plane
    matte: Plane
    face: Face
    doubt: str  # empty, or why the matte must not be used


def frame(portrait: Pixels, face: Face, framing: str) -> Framing:
    """The framing of that name; closer, lower or aside where the person would else end inside the canvas.

    Shoulders reach both sides of every framing, so the photo has to cover the canvas to the left, to the
    right and below. Above it need not: there is only background.
    """
    photo_height, photo_width = portrait.shape[:2]
    share, centre = FACE_SHARE[framing], FACE_CENTRE[framing]
    middle_x, middle_y = face.left + face.width / 2, face.top + face.height / 2
    below = (photo_height - middle_y) / face.height  # in faces
    beside = max(min(middle_x, photo_width - middle_x), 1.0)
    needed = max((WIDTH / 2 - _MAX_ASIDE) / beside, WIDTH / photo_width) * face.height / HEIGHT
    share = min(max(share, needed), _LARGEST_SHARE)
    centre = max(centre, float(np.interp(share, (0.42, _LARGEST_SHARE), (centre, 0.5))))
    if share * below < 1 - centre:
        centre = min(_LOWEST_CENTRE, 1 - share * below)
    if share * below < 1 - centre:
        share = min(_LARGEST_SHARE, (1 - centre) / below)
    scale = share * HEIGHT / face.height
    shift_x = WIDTH / 2 - scale * middle_x
    shift_x -= float(np.clip(shift_x, 0, _MAX_ASIDE))
    shift_x += float(np.clip(WIDTH - scale * photo_width - shift_x, 0, _MAX_ASIDE))
    return Framing(scale=scale, shift_x=shift_x, shift_y=centre * HEIGHT - scale * middle_y)


def frame_inside(portrait: Pixels, face: Face, framing: str) -> Framing:
    """The nearest framing that needs no pixel from outside the photo, for pictures that keep theirs."""
    height, width = portrait.shape[:2]
    wanted = frame(portrait, face, framing)
    scale = max(wanted.scale, WIDTH / width, HEIGHT / height)
    shift_x = WIDTH / 2 - scale * (face.left + face.width / 2)
    shift_y = FACE_CENTRE[framing] * HEIGHT - scale * (face.top + face.height / 2)
    return Framing(
        scale=scale,
        shift_x=min(0.0, max(WIDTH - scale * width, shift_x)),
        shift_y=min(0.0, max(HEIGHT - scale * height, shift_y)),
    )


def warp(portrait: Pixels, framing: Framing) -> Pixels:
    """(1152, 896, 3) uint8: the framed photo; what lies outside of it repeats its edge."""
    shrink = framing.scale
    if shrink < 0.5:  # cubic sampling alone would skip pixels
        portrait = cv2.GaussianBlur(portrait, (0, 0), 0.4 / shrink)  # type: ignore[assignment]  # cv2 types say MatLike
    return cv2.warpAffine(  # type: ignore[return-value]  # the same
        portrait, framing.matrix, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )


def segment(portrait: Pixels, face: Face) -> Segment:
    """Who in the portrait is the person: one answer for all framings, given on the widest of them."""
    placed = frame(portrait, face, _WIDEST)
    framed, on_canvas = warp(portrait, placed), placed.moved(face)
    small = cv2.resize(framed, None, fx=_SEED_SCALE, fy=_SEED_SCALE, interpolation=cv2.INTER_AREA)
    mask = _seeds(small.shape[:2], on_canvas)
    inside = cv2.resize(
        _inside(portrait, placed), (small.shape[1], small.shape[0]), interpolation=cv2.INTER_NEAREST
    )
    mask[inside == 0] = cv2.GC_BGD
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(1)  # GrabCut starts from k-means
    cv2.grabCut(  # type: ignore[call-overload]  # its types want a rectangle beside the mask
        small, mask, None, *models, _GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK
    )
    person = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    return Segment(mask=_tidy(person, on_canvas), framing=placed)


def cut_out(portrait: Pixels, face: Face, framing: str, segment: Segment) -> Cutout:
    """The person of the portrait on the canvas; see `Cutout.doubt` before using it."""
    placed = frame(portrait, face, framing)
    framed, on_canvas = warp(portrait, placed), placed.moved(face)
    inside = _inside(portrait, placed) > 0
    matte = _matte(framed, _mask_on(placed, segment))
    matte[~inside] = 0
    colours = _own_colours(_f32(framed) / np.float32(255), matte)
    doubt = _doubt(matte, inside, on_canvas)
    return Cutout(colours=colours, matte=matte, face=on_canvas, doubt=doubt)


def _inside(portrait: Pixels, placed: Framing) -> NDArray[np.uint8]:
    """(1152, 896) uint8: 255 where the canvas shows the photo, 0 beyond its edges."""
    photo = np.full(portrait.shape[:2], 255, np.uint8)
    return _u8(cv2.warpAffine(photo, placed.matrix, (WIDTH, HEIGHT), flags=cv2.INTER_NEAREST))


def _mask_on(placed: Framing, segment: Segment) -> Plane:
    """(1152, 896) float32: the segment's mask moved from its own framing to this one, its steps smoothed."""
    zoom = placed.scale / segment.framing.scale
    shift_x = placed.shift_x - zoom * segment.framing.shift_x
    shift_y = placed.shift_y - zoom * segment.framing.shift_y
    matrix = np.array([[zoom / _SEED_SCALE, 0, shift_x], [0, zoom / _SEED_SCALE, shift_y]])
    soft = cv2.GaussianBlur(segment.mask.astype(np.float32), (0, 0), 1.2)
    return _f32(cv2.warpAffine(soft, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE))


def _u8(array: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(array, dtype=np.uint8)


def _f32(array: NDArray[Any]) -> Plane:
    return np.asarray(array, dtype=np.float32)


def _seeds(shape: tuple[int, ...], face: Face) -> NDArray[np.uint8]:
    """Where a person with this face surely, probably and surely not is; proportions tried on portraits."""
    height, width = shape[:2]
    box = face.height * _SEED_SCALE
    x, y = (face.left + face.width / 2) * _SEED_SCALE, (face.top + face.height / 2) * _SEED_SCALE
    mask = np.full((height, width), cv2.GC_PR_BGD, np.uint8)

    def ellipse(kind: int, half_width: float, half_height: float, lower: float = 0.0) -> None:
        centre = (round(x), round(y + lower * box))
        cv2.ellipse(mask, centre, (round(half_width * box), round(half_height * box)), 0, 0, 360, kind, -1)

    def polygon(kind: int, *points: tuple[float, float]) -> None:
        corners = [(round(x + across * box), round(min(y + down * box, height))) for across, down in points]
        cv2.fillPoly(mask, [np.array(corners, np.int32)], kind)

    end = max((height - y) / box, 0.9)
    polygon(
        cv2.GC_PR_FGD,
        (-0.45, 0.45), (0.45, 0.45), (0.6, 0.72), (1.25, 0.98),
        (1.6, end), (-1.6, end), (-1.25, 0.98), (-0.6, 0.72),
    )  # fmt: skip
    ellipse(cv2.GC_PR_FGD, 0.72, 0.88, -0.06)
    sky = round(y - 1.05 * box)
    mask[: max(0, sky)] = cv2.GC_BGD
    beside = round(1.35 * box)
    chin = max(0, min(height, round(y + 0.35 * box)))
    mask[:chin, : max(2, round(x - beside))] = cv2.GC_BGD
    mask[:chin, min(width - 2, round(x + beside)) :] = cv2.GC_BGD
    ellipse(cv2.GC_FGD, 0.36, 0.52, 0.02)
    polygon(
        cv2.GC_FGD,
        (-0.2, 0.4),
        (0.2, 0.4),
        (0.28, 0.75),
        (0.7, 1.25),
        (0.8, end),
        (-0.8, end),
        (-0.7, 1.25),
        (-0.28, 0.75),
    )
    return mask


def _tidy(person: NDArray[np.uint8], face: Face) -> NDArray[np.uint8]:
    """The one piece that holds the face, without thin threads and without holes."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    person = cv2.morphologyEx(person, cv2.MORPH_OPEN, kernel)  # type: ignore[assignment]  # the same
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    person = cv2.morphologyEx(person, cv2.MORPH_CLOSE, kernel)  # type: ignore[assignment]  # the same
    _, labels = cv2.connectedComponents(person)
    row = round((face.top + face.height / 2) * _SEED_SCALE)
    column = round((face.left + face.width / 2) * _SEED_SCALE)
    person = (labels == labels[row, column]).astype(np.uint8)
    walled = np.pad(person, ((1, 0), (1, 1)))  # not below: a gap between arm and body is open there
    walled = np.pad(walled, ((0, 1), (0, 0)), constant_values=1)
    contours, _ = cv2.findContours(walled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(walled)
    cv2.drawContours(filled, contours, -1, 1, -1)
    return filled[1:-1, 1:-1]


def _matte(framed: Pixels, soft: Plane) -> Plane:
    """Soft at the hair, hard at the shoulders, as the photo itself shows the edge."""
    guide = framed.astype(np.float32) / 255
    fitted = guided_filter(_f32(cv2.cvtColor(guide, cv2.COLOR_RGB2GRAY)), soft, 10, 1e-4)
    stretched = _f32(np.clip((fitted - 0.2) / 0.72, 0, 1))
    inner = cv2.erode(stretched, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)))
    return _f32(
        cv2.GaussianBlur(inner, (0, 0), 0.9)
    )  # cameras sharpen: a pale line follows dark hair outside


def guided_filter(guide: Plane, signal: Plane, radius: int, epsilon: float) -> Plane:
    """He, Sun, Tang, "Guided image filtering", 2010, equations 5, 6 and 8, with box means."""
    size = (2 * radius + 1, 2 * radius + 1)

    def mean(plane: Plane) -> Plane:
        return np.asarray(cv2.boxFilter(plane, -1, size, borderType=cv2.BORDER_REFLECT), dtype=np.float32)

    mean_guide, mean_signal = mean(guide), mean(signal)
    covariance = mean(guide * signal) - mean_guide * mean_signal
    variance = mean(guide * guide) - mean_guide**2
    slope = covariance / (variance + epsilon)
    return np.asarray(mean(slope) * guide + mean(mean_signal - slope * mean_guide), dtype=np.float32)


def _own_colours(framed: Plane, matte: Plane) -> Plane:
    """The person's colours, also where hair and old background mix: there, what lies just inside counts.

    Blur fusion proper (Forte, "Approximate fast foreground colour estimation", 2021) left a pale seam before
    dark backdrops: it trusts the matte, and ours is a little wide at the hair.
    """
    core = np.clip((matte - _CORE) / (1 - _CORE), 0, 1)
    near = framed
    for window in (91, 31, 9):  # from afar to close by, each where it saw enough of the person
        size = (window, window)
        seen = cv2.blur(core, size)[..., None]
        trust = np.clip(seen * 4, 0, 1)
        near = trust * cv2.blur(framed * core[..., None], size) / (seen + 1e-4) + (1 - trust) * near
    share = (core**2)[..., None]
    return np.asarray(share * framed + (1 - share) * near, dtype=np.float32)


def _doubt(matte: Plane, inside: NDArray[np.bool_], face: Face) -> str:
    """Why the matte looks wrong, or nothing; every bound was set on good and on torn mattes."""
    box = face.width * face.height
    middle = face.left + face.width / 2
    chin = round(face.top + face.height)
    above_chin = matte[round(max(face.top, 0)) : chin]
    columns = np.arange(WIDTH)
    left_of, right_of = (
        (above_chin[:, side].sum(axis=1) / face.width).min() for side in (columns < middle, columns >= middle)
    )
    checks = {
        "area": not 1.8 < matte.sum() / box < WIDTH * HEIGHT / box * 0.9,
        "top": matte[:4].mean() > 0.7,
        "photo edge": bool((~inside[chin:]).any()) or _cut_by_photo(matte, inside),
        "half a head": min(left_of, right_of) < _LEAST_HALF,
        "wide": above_chin[:, np.abs(columns - middle) > face.width].sum() / box > _MAX_WIDE,
        "uneven": _unevenness(matte, face) > _MAX_UNEVENNESS,
    }
    return next((name for name, is_wrong in checks.items() if is_wrong), "")


def _cut_by_photo(matte: Plane, inside: NDArray[np.bool_]) -> bool:
    """Whether the person ends in a straight line inside the canvas, where the photo ended."""
    eroded = cv2.erode(inside.astype(np.uint8), np.ones((7, 7), np.uint8), borderValue=1)
    rim = inside & (eroded == 0)
    return bool((matte[rim] > 0.5).sum() > 3 * 0.02 * HEIGHT)


def _unevenness(matte: Plane, face: Face) -> float:
    """Area between the head's outline and the same outline smoothed, in face areas."""
    head = (matte[: round(face.top + face.height)] > 0.5).astype(np.float32)
    smooth = cv2.GaussianBlur(head, (0, 0), 0.05 * face.width) > 0.5
    return float((smooth != (head > 0)).sum()) / (face.width * face.height)
