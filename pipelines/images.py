"""Bytes to pixels and back: what may come in, and the one way pictures are written. Pillow only.

Decoding a customer's file belongs into `pipelines.sandbox`; what comes out of it is safe to `decode_jpeg`.
"""

import io
import struct
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from PIL import Image, UnidentifiedImageError

from pipelines.errors import Refused

if TYPE_CHECKING:  # the sandbox's child must start without numpy
    from pipelines.types import Pixels

MAX_UPLOAD_BYTES: Final = 25 * 1024 * 1024
MAX_PIXELS: Final = 50_000_000  # 200 MB decoded: four such planes fit into the sandbox's memory
MAX_SIDE: Final = 12_000
MIN_SIDE: Final = 256
MAX_ASPECT: Final = 4.0
MAX_JPEG_SCANS: Final = 100  # a usual progressive file has 10; 800 scans cost 4 s of decoding
MAX_ICC_BYTES: Final = 1024 * 1024  # profiles of cameras and screens have 0.5 to 600 kB
PORTRAIT_LONG_EDGE: Final = 4096
PORTRAIT_QUALITY: Final = 95
FORMATS: Final = ("JPEG", "PNG", "WEBP")

_ORIENTATION_TAG: Final = 0x0112
_UPRIGHT: Final = {  # EXIF 2.32, section 4.6.4: how the picture must be turned to stand upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HIGH_BYTE: Final = [value >> 8 for value in range(65536)]
_ICC_DATE: Final = slice(24, 36)  # ICC.1:2022, table 17: when the profile was made


def clean_portrait(raw: bytes) -> bytes:
    """The photo as a new sRGB JPEG (quality 95, 4:4:4, long edge <= 4096 px), upright, pixels only.

    No EXIF, GPS, XMP, ICC, comment, thumbnail or trailing byte of `raw` survives.
    Raises Refused with one of: empty_file, file_too_large, not_an_image, truncated_image, too_many_pixels,
    image_too_small, odd_shape, animated_image.
    """
    if not raw:
        raise Refused("empty_file")
    if len(raw) > MAX_UPLOAD_BYTES:
        raise Refused("file_too_large")
    try:
        with _opened(raw) as image:
            _check_header(image, raw)
            image.load()
            turn = _orientation(image)
            return _encoded(_in_srgb(image), turn)
    except Refused:
        raise
    except MemoryError as error:
        raise Refused("too_many_pixels") from error
    except Exception as error:  # whatever a decoder makes of hostile bytes is the photo's fault
        raise Refused(_code_of(error)) from error


def decode_jpeg(data: bytes) -> "Pixels":
    """(height, width, 3) uint8 RGB of a JPEG made by `clean_portrait` or `encode_jpeg`; writable, own memory.

    Raises OSError when the bytes are not such a JPEG: they came from our own store, so that is no refusal.
    """
    import numpy as np

    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return np.array(image.convert("RGB"), dtype=np.uint8)


def encode_jpeg(pixels: "Pixels", quality: int) -> bytes:
    """The picture as a 4:4:4 JPEG with a 0.6 kB sRGB profile and no other metadata; equal in, equal out."""
    out = io.BytesIO()
    Image.fromarray(pixels, "RGB").save(
        out, "JPEG", quality=quality, subsampling=0, icc_profile=_srgb_profile()
    )
    return out.getvalue()


def _opened(raw: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
        try:
            return Image.open(io.BytesIO(raw), formats=FORMATS)
        except UnidentifiedImageError as error:
            raise Refused("truncated_image" if _has_magic(raw) else "not_an_image") from error


def _has_magic(raw: bytes) -> bool:
    is_webp = raw.startswith(b"RIFF") and raw[8:12] == b"WEBP"
    return is_webp or raw.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"))


def _check_header(image: Image.Image, raw: bytes) -> None:
    """Everything that can be said before a pixel is decoded."""
    short, long = sorted(image.size)
    if long > MAX_SIDE or short * long > MAX_PIXELS:
        raise Refused("too_many_pixels")
    if short < MIN_SIDE:
        raise Refused("image_too_small")
    if long > short * MAX_ASPECT:
        raise Refused("odd_shape")
    if image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
        raise Refused(
            "animated_image"
        )  # a JPEG with more pictures (MPO) is a phone's: its first one is meant
    if image.format not in ("PNG", "WEBP") and raw.count(b"\xff\xda") > MAX_JPEG_SCANS:
        raise Refused("truncated_image")


def _code_of(error: Exception) -> str:
    is_bomb = isinstance(error, Image.DecompressionBombError)
    is_chunk_bomb = isinstance(error, ValueError) and "too large" in str(
        error
    )  # Pillow's text and ICC limits
    return "too_many_pixels" if is_bomb or is_chunk_bomb else "truncated_image"


def _orientation(image: Image.Image) -> Image.Transpose | None:
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels: take them as they stand
        return None


def _in_srgb(image: Image.Image) -> Image.Image:
    """The picture in 8-bit sRGB, on white where it was transparent, no larger than needed."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I;16") or image.mode == "I":
        image = image.convert("I").point(_HIGH_BYTE, "L")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.new("RGB", rgba.size, "white")
        image.paste(rgba, mask=rgba.getchannel("A"))
    if image.mode not in ("RGB", "CMYK"):
        image = image.convert("RGB")
    scale = PORTRAIT_LONG_EDGE / max(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    if profile and len(profile) <= MAX_ICC_BYTES:
        image = _converted(image, profile)
    return image.convert("RGB")


def _converted(image: Image.Image, profile: bytes) -> Image.Image:
    from PIL import ImageCms  # only photos with a profile pay for it

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return image
        target = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, source, target, outputMode="RGB") or image
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError, struct.error):
        return image  # a profile that does not fit the pixels: read them as sRGB, as browsers do


def _encoded(image: Image.Image, turn: Image.Transpose | None) -> bytes:
    if turn is not None:
        image = image.transpose(turn)
    bare = Image.new("RGB", image.size)  # saving would copy what hangs on the opened picture
    bare.paste(image)
    out = io.BytesIO()
    bare.save(out, "JPEG", quality=PORTRAIT_QUALITY, subsampling=0)
    return out.getvalue()


@lru_cache(maxsize=1)
def _srgb_profile() -> bytes:
    from PIL import ImageCms

    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[_ICC_DATE] = bytes(12)  # else equal pictures would differ by the second they were made in
    return bytes(profile)
