"""The last step: exact size, marks to see and one within the pixels, and the JPEGs that say what they are."""

from functools import lru_cache
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipelines.images import srgb_profile
from pipelines.presets import HEIGHT
from pipelines.provenance import SourceType, mark, with_profile
from pipelines.types import OutputSpec, Pixels
from pipelines.watermark import embed

WATERMARK: Final = "HEADSHOTS · FREE"
WATERMARK_OPACITY: Final = 0.28
QUALITY: Final = 93
THUMBNAIL_WIDTH: Final = 448
THUMBNAIL_QUALITY: Final = 85

_SHADOW_OPACITY: Final = 0.22
_PLATE_OPACITY: Final = 0.42
_WORD_OPACITY: Final = 0.92
_SHARPENING: Final = 0.55
_GRAIN_LEVELS: Final = 1.6  # of 255: what keeps enlarged skin from looking like wax

_GRAIN_SIDE: Final = 1024  # of a tile, in pixels
_BAND: Final = 32  # rows; divides the tile
_FULL_CHROMA: Final = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)

_Mask = NDArray[np.uint8]


class Finished(NamedTuple):
    """Both JPEGs of a picture and the size of the first one."""

    jpeg: bytes
    preview_jpeg: bytes
    width: int
    height: int


def finish(
    pixels: Pixels, *, output: OutputSpec, marks: tuple[str, ...], source_type: SourceType
) -> Finished:
    """The picture with its long edge at exactly `output.long_edge`, marked, as JPEG (q93, 4:4:4), and small.

    `marks` are words for a small plate in the lower right corner. The thumbnail (448 px wide) is made of the
    marked picture, so that it carries the invisible mark, too. Both files say in their XMP what `source_type`
    is.

    The order matters: what is seen is marked first, the mark within the pixels comes after it and before the
    JPEG, the XMP before whoever signs the file, and the signature before the file is sealed.
    """
    # OpenCV encodes BGR. Grain and marks are grey, so that the order of the channels is nothing to them.
    picture = enlarge(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), dtype=np.uint8), output.long_edge)
    if output.is_watermarked:
        picture = _watermarked(picture)
    if marks:
        picture = _with_plate(picture, " · ".join(marks))
    picture = embed(picture)
    height, width = picture.shape[:2]
    return Finished(
        jpeg=mark(_encoded(picture, QUALITY), source_type),
        preview_jpeg=mark(_encoded(_thumbnail(picture), THUMBNAIL_QUALITY), source_type),
        width=width,
        height=height,
    )


def _thumbnail(picture: Pixels) -> Pixels:
    """The picture THUMBNAIL_WIDTH wide; halved first, as often as that goes, since that is quick."""
    height, width = picture.shape[:2]
    small = picture
    while small.shape[1] >= 2 * THUMBNAIL_WIDTH:
        rows, columns = small.shape[0] // 2, small.shape[1] // 2
        even = small[: 2 * rows, : 2 * columns]  # a row or column less is a fraction of a pixel in the end
        small = np.asarray(cv2.resize(even, (columns, rows), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    size = (THUMBNAIL_WIDTH, round(THUMBNAIL_WIDTH * height / width))
    return np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _encoded(bgr: Pixels, quality: int) -> bytes:
    """What `images.encode_jpeg` makes, by OpenCV: the interpreter goes on with other threads meanwhile."""
    how = (*_FULL_CHROMA, cv2.IMWRITE_JPEG_QUALITY, quality)
    encoded = cv2.imencode(".jpg", bgr, how)[1]
    return with_profile(encoded.tobytes(), srgb_profile())


def enlarge(pixels: Pixels, long_edge: int) -> Pixels:
    """The picture with its long edge at exactly this many pixels; enlarged, it is sharpened and grained.

    A picture that comes at its size but larger than the native one was enlarged by a network, which smooths
    skin and needs the grain all the more. What comes back may be `pixels` themselves, changed.
    """
    height, width = pixels.shape[:2]
    scale = long_edge / max(height, width)
    if scale == 1:
        return pixels if long_edge <= HEIGHT else _grained(pixels)
    size = (round(width * scale), round(height * scale))
    if scale < 1:
        return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    large = cv2.resize(pixels, size, interpolation=cv2.INTER_LANCZOS4)
    blurred = cv2.GaussianBlur(large, (0, 0), 0.55 * scale)
    sharp = cv2.addWeighted(large, 1 + _SHARPENING, blurred, -_SHARPENING, 0)
    return _grained(np.asarray(sharp, dtype=np.uint8))


def _grained(pixels: Pixels) -> Pixels:
    """The same memory with grain over it."""
    height, width = pixels.shape[:2]
    lighter, darker = _grain(width)
    # In bands that stay in the processor's cache between the two additions.
    for top in range(0, height, _BAND):
        band = pixels[top : top + _BAND]
        start = top % _GRAIN_SIDE
        of_grain = slice(start, start + len(band))
        cv2.add(band, lighter[of_grain], band)
        cv2.subtract(band, darker[of_grain], band)
    return pixels


@lru_cache(maxsize=2)
def _grain(width: int) -> tuple[Pixels, Pixels]:
    """What grain adds to _GRAIN_SIDE rows of a picture this wide, and what it takes away."""
    shape = (_GRAIN_SIDE, _GRAIN_SIDE)
    tile = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    tile = np.asarray(cv2.GaussianBlur(tile, (0, 0), 0.8, borderType=cv2.BORDER_REFLECT), dtype=np.float32)
    levels = np.rint(tile / tile.std() * _GRAIN_LEVELS)
    wide = np.tile(levels, -(-width // _GRAIN_SIDE))[:, :width, None]
    return _as_pixels(np.maximum(wide, 0)), _as_pixels(np.maximum(-wide, 0))


def _as_pixels(grey: NDArray[np.float32]) -> Pixels:
    return np.repeat(grey.astype(np.uint8), 3, axis=2)


def _watermarked(picture: Pixels) -> Pixels:
    height, width = picture.shape[:2]
    letters, shadow = _watermark(height, width)
    picture = _blended(picture, shadow, 0, _SHADOW_OPACITY)
    return _blended(picture, letters, 255, WATERMARK_OPACITY)


@lru_cache(maxsize=4)
def _watermark(height: int, width: int) -> tuple[_Mask, _Mask]:
    """Letters and their dark outline, tiled diagonally: any 80 % of the picture keeps whole words."""
    size = round(height * 0.034)
    font = ImageFont.load_default(size)
    step_x = round(font.getlength(WATERMARK) + 2.2 * size)
    step_y = round(size * 4.6)
    side = round(1.45 * max(height, width))
    letters, outline = Image.new("L", (side, side)), Image.new("L", (side, side))
    for row, y in enumerate(range(0, side, step_y)):
        for x in range(-(row % 2) * step_x // 2, side, step_x):
            ImageDraw.Draw(letters).text((x, y), WATERMARK, 255, font)
            ImageDraw.Draw(outline).text((x, y), WATERMARK, 255, font, stroke_width=max(1, size // 18))
    left, top = (side - width) // 2, (side - height) // 2
    turned = [
        np.asarray(layer.rotate(28, Image.Resampling.BICUBIC).crop((left, top, left + width, top + height)))
        for layer in (letters, outline)
    ]
    return turned[0], np.maximum(turned[1], turned[0]) - turned[0]


def _with_plate(picture: Pixels, text: str) -> Pixels:
    height, width = picture.shape[:2]
    plate, letters = _plate(height, width, text)
    return _blended(_blended(picture, plate, 16, _PLATE_OPACITY), letters, 255, _WORD_OPACITY)


@lru_cache(maxsize=4)
def _plate(height: int, width: int, text: str) -> tuple[_Mask, _Mask]:
    size = round(height * 0.0195)
    font = ImageFont.load_default(size)
    margin, padding = round(size * 1.1), round(size * 0.62)
    left, top, right, bottom = font.getbbox(text)
    corner = (width - margin, height - margin)
    start = (corner[0] - (right - left) - 2 * padding, corner[1] - (bottom - top) - 1.5 * padding)
    plate, letters = Image.new("L", (width, height)), Image.new("L", (width, height))
    ImageDraw.Draw(plate).rounded_rectangle((*start, *corner), radius=size * 0.35, fill=255)
    ImageDraw.Draw(letters).text(
        (start[0] + padding - left, start[1] + 0.75 * padding - top), text, 255, font
    )
    return np.asarray(plate), np.asarray(letters)


def _blended(picture: Pixels, mask: _Mask, level: int, opacity: float) -> Pixels:
    """The picture with `level` laid over it where the mask is set."""
    weight = mask.astype(np.float32)[..., None] * (opacity / 255)
    return np.asarray(np.rint(picture + weight * (level - picture.astype(np.float32))), dtype=np.uint8)
