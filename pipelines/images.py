"""Bytes to pixels and back: what may come in, and the one way pictures are written. Pillow and libheif only.

Decoding a customer's file belongs into `pipelines.sandbox`: its child runs `clean_pixels`, and its parent,
which believes the child nothing, `portrait_of`. What comes out of that is safe to `decode_jpeg`.
"""

import io
import re
import struct
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from PIL import Image

from pipelines.errors import Refused

if TYPE_CHECKING:  # the sandbox's child must start without numpy
    from pipelines.types import Pixels

MAX_UPLOAD_BYTES: Final = 25 * 1024 * 1024
MAX_PIXELS: Final = 50_000_000  # 200 MB decoded: four such planes fit into the sandbox's memory
MAX_SIDE: Final = 12_000
MIN_SIDE: Final = 256
MAX_ASPECT: Final = 4.0
MAX_JPEG_SCANS: Final = 64  # a usual progressive file has 10; 800 scans cost 4 s of decoding
MAX_JPEG_SEGMENTS: Final = 2000  # a usual file has 20, one of 25 MB in segments of 64 kB has 400
MAX_JPEG_FILL: Final = 65_536  # between two segments; Pillow walks over it byte by byte
MAX_ICC_BYTES: Final = 1024 * 1024  # profiles of cameras and screens have 0.5 to 600 kB
PORTRAIT_LONG_EDGE: Final = 4096
PORTRAIT_QUALITY: Final = 95
HEAD_BYTES: Final = 256  # enough to tell the format: an iPhone's list of HEIF brands ends before byte 64

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
_HEIC_BRANDS: Final = frozenset((b"heic", b"heix", b"heim", b"heis"))  # ISO/IEC 23008-12, annex B.4
_AVIF_BRANDS: Final = frozenset((b"avif", b"avis"))
_NEXT_MARKER: Final = re.compile(
    rb"\xff[\x01-\xcf\xd8-\xfe]"
)  # neither a stuffed byte, nor a restart, nor a fill
_SOS, _EOI, _SOI, _TEM = 0xDA, 0xD9, 0xD8, 0x01  # ITU-T T.81, table B.1
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_USUAL_FRAMES: Final = frozenset((0xC0, 0xC1, 0xC2))  # Huffman-coded: baseline, extended, progressive
_HIGH_BYTE: Final = [value >> 8 for value in range(65536)]
_ICC_DATE: Final = slice(24, 36)  # ICC.1:2022, table 17: when the profile was made


def clean_portrait(raw: bytes) -> bytes:
    """The photo as a new sRGB JPEG (quality 95, 4:4:4, long edge <= 4096 px), upright, pixels only.

    No EXIF, GPS, XMP, ICC, comment, thumbnail or trailing byte of `raw` survives. Raises as `clean_pixels`.
    """
    return portrait_of(*clean_pixels(raw))


def clean_pixels(raw: bytes) -> tuple[int, int, bytes]:
    """Width, height and 8-bit sRGB pixels of the photo, upright, long edge <= 4096 px; nothing else of it.

    Raises Refused with one of: empty_file, file_too_large, not_an_image, truncated_image, too_many_pixels,
    image_too_small, odd_shape, animated_image.
    """
    if not raw:
        raise Refused("empty_file")
    if len(raw) > MAX_UPLOAD_BYTES:
        raise Refused("file_too_large")
    file_format = format_of(raw[:HEAD_BYTES])
    if file_format is None:
        raise Refused("not_an_image")
    try:
        load_decoder(file_format)
        if file_format == "JPEG":
            _check_markers(raw)
        with _opened(raw, file_format) as image:
            _check_header(image)
            image.load()
            _check_size(image)  # a HEIF's header may say another size than its pixels have
            cleaned, turn = _in_srgb(image), _orientation(image)
            if turn is not None:
                cleaned = cleaned.transpose(turn)
            return *cleaned.size, cleaned.tobytes()
    except Refused:
        raise
    except MemoryError as error:
        raise Refused("too_many_pixels") from error
    except Exception as error:  # whatever a decoder makes of hostile bytes is the photo's fault
        raise Refused(_code_of(error)) from error


def portrait_of(width: int, height: int, rgb: bytes | memoryview) -> bytes:
    """The JPEG of pixels from `clean_pixels`; decodes nothing, so that it can be given hostile ones.

    Raises Refused("truncated_image") when there are not as many as the size says, or `clean_pixels` gives no
    picture of that size.
    """
    short, long = sorted((width, height))
    is_portrait = short >= MIN_SIDE and long <= min(PORTRAIT_LONG_EDGE, short * MAX_ASPECT)
    if not is_portrait or len(rgb) != 3 * width * height:
        raise Refused("truncated_image")
    out = io.BytesIO()
    Image.frombytes("RGB", (width, height), rgb).save(out, "JPEG", quality=PORTRAIT_QUALITY, subsampling=0)
    return out.getvalue()


def format_of(head: bytes) -> str | None:
    """Pillow's name of the format that a file's first HEAD_BYTES announce; None when it is none of ours."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    return "HEIF" if _is_heic(head) else None


def load_decoder(file_format: str) -> None:
    """Import all that reading a photo of this format may need: the sandbox opens no file afterwards."""
    from PIL import ImageCms, MpoImagePlugin, TiffImagePlugin  # noqa: F401 (profiles, phones' JPEGs, EXIF)

    Image.preinit()
    if file_format == "WEBP":
        from PIL import WebPImagePlugin  # noqa: F401 (registers itself)
    if file_format == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener(
            thumbnails=False, depth_images=False, aux_images=False, decode_threads=1
        )


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
        out, "JPEG", quality=quality, subsampling=0, icc_profile=srgb_profile()
    )
    return out.getvalue()


def _is_heic(head: bytes) -> bool:
    """Whether the file type box lists a brand of HEVC still pictures, and none of AV1."""
    if head[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}
    return bool(brands & _HEIC_BRANDS) and not brands & _AVIF_BRANDS


def _check_markers(raw: bytes) -> None:
    """Refuse JPEGs that cost more to read than a photo, and the rare kinds: lossless, arithmetic, 12-bit.

    Looks at the first picture only: a phone appends films, whose bytes look like anything.
    """
    at = scans = segments = 0
    while found := _NEXT_MARKER.search(raw, at):
        marker = found[0][1]
        if marker == _EOI:
            return
        segments += 1
        scans += marker == _SOS
        is_fill = not scans and found.start() - at > MAX_JPEG_FILL
        if is_fill or scans > MAX_JPEG_SCANS or segments > MAX_JPEG_SEGMENTS:
            break
        at = found.end()
        if marker in _FRAMES and (marker not in _USUAL_FRAMES or raw[at + 2 : at + 3] != b"\x08"):
            raise Refused("not_an_image")
        if marker not in (_SOI, _TEM):
            at += max(2, int.from_bytes(raw[at : at + 2], "big"))
    raise Refused("truncated_image")


def _opened(raw: bytes, file_format: str) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
        return Image.open(io.BytesIO(raw), formats=[file_format])


def _check_header(image: Image.Image) -> None:
    """Everything that can be said before a pixel is decoded."""
    _check_size(image)
    if image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
        # JPEG and HEIF files with more pictures are a phone's: the first, or the one it names, is meant.
        raise Refused("animated_image")


def _check_size(image: Image.Image) -> None:
    short, long = sorted(image.size)
    if long > MAX_SIDE or short * long > MAX_PIXELS:
        raise Refused("too_many_pixels")
    if short < MIN_SIDE:
        raise Refused("image_too_small")
    if long > short * MAX_ASPECT:
        raise Refused("odd_shape")


def _code_of(error: Exception) -> str:
    is_bomb = isinstance(error, Image.DecompressionBombError)
    is_chunk_bomb = isinstance(error, ValueError) and "too large" in str(
        error
    )  # Pillow's text and ICC limits
    return "too_many_pixels" if is_bomb or is_chunk_bomb else "truncated_image"


def _orientation(image: Image.Image) -> Image.Transpose | None:
    if image.format == "HEIF":  # libheif has turned it already, by the file's own transformations
        return None
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


@lru_cache(maxsize=1)
def srgb_profile() -> bytes:
    """The ICC profile that every picture of ours carries, 0.6 kB; always the same bytes."""
    from PIL import ImageCms

    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[_ICC_DATE] = bytes(12)  # else equal pictures would differ by the second they were made in
    return bytes(profile)
