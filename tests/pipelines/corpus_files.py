"""Builds the files of the corpus from code: pictures of every format, and each way of spoiling them."""

import io
import random
import struct
import zlib
from functools import cache
from typing import Any, Final

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin

MARKER: Final = b"MARKER-9d41"  # planted in everything that must not survive
SIZE: Final = (640, 480)
CORNER: Final = 96  # side of the white square that tells which way is up
SOI, EOI, APP0, APP1, APP2, APP14, COM = 0xD8, 0xD9, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE
EXIF_HEAD, XMP_HEAD, ICC_HEAD = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"


@cache
def base(mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    """A smooth picture of many colours with a white square in its first corner."""
    rng = np.random.default_rng(11)
    small = Image.fromarray(rng.integers(20, 200, (12, 16, 3), dtype=np.uint8))
    picture = small.resize(size, Image.Resampling.BICUBIC)
    picture.paste("white", (0, 0, CORNER, CORNER))
    return picture.convert(mode)


def saved(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """The picture as a file of one of Pillow's formats."""
    out = io.BytesIO()
    image.save(out, file_format, **options)
    return out.getvalue()


def jpeg(**options: Any) -> bytes:
    """The base picture as a JPEG."""
    return saved(base(), "JPEG", **{"quality": 90, **options})


def png(**options: Any) -> bytes:
    """The base picture as a PNG."""
    return saved(base(), "PNG", **options)


def webp(**options: Any) -> bytes:
    """The base picture as a WebP."""
    return saved(base(), "WEBP", **options)


@cache
def heic(orientation: int = 1) -> bytes:
    """The base picture as an iPhone's HEIC: turned by its own transformation, and EXIF says so too."""
    out = io.BytesIO()
    pillow_heif.from_pillow(base()).save(out, format="HEIF", quality=90, exif=exif(orientation))
    return out.getvalue()


def exif(orientation: int) -> bytes:
    """An EXIF block with a camera, a GPS position and the marker."""
    tags = Image.Exif()
    tags[0x010F] = MARKER.decode()
    tags[0x0112] = orientation
    tags[0x8825] = {1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 36.0)}
    return tags.tobytes()


def segment(marker: int, data: bytes) -> bytes:
    """One JPEG segment."""
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def with_segments(*segments: bytes, picture: bytes = b"") -> bytes:
    """A JPEG with these segments right after its start."""
    whole = picture or jpeg()
    return whole[:2] + b"".join(segments) + whole[2:]


def frame_header(picture: bytes) -> int:
    """Where the JPEG's frame header (baseline or progressive) begins."""
    at = 2
    while picture[at + 1] not in (0xC0, 0xC1, 0xC2):
        at += 2 + int.from_bytes(picture[at + 2 : at + 4], "big")
    return at


def with_frame(kind: int = 0, precision: int = 8, size: tuple[int, int] = SIZE) -> bytes:
    """A JPEG whose frame header says another kind, precision or size than its data have."""
    spoiled = bytearray(jpeg())
    at = frame_header(spoiled)
    spoiled[at + 1] = kind or spoiled[at + 1]
    spoiled[at + 4] = precision
    spoiled[at + 5 : at + 9] = struct.pack(">HH", size[1], size[0])
    return bytes(spoiled)


def with_scans(count: int) -> bytes:
    """A progressive JPEG with its last scan repeated until there are `count`."""
    whole = jpeg(progressive=True, quality=60)
    starts = [at for at in range(len(whole) - 1) if whole[at : at + 2] == b"\xff\xda"]
    last = whole[starts[-1] : -2]
    return whole[:-2] + last * (count - len(starts)) + whole[-2:]


def chunk(kind: bytes, data: bytes) -> bytes:
    """One PNG chunk with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bare_png(
    width: int, height: int, *extra: bytes, depth: int = 8, colour: int = 2, data: bytes = b""
) -> bytes:
    """A PNG with any header; without `data` it has a few black rows only."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    packed = data or zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@cache
def zeros(length: int) -> bytes:
    """That many zero bytes, deflated."""
    packer = zlib.compressobj(9)
    block = bytes(1_000_000)
    parts = [packer.compress(block) for _ in range(length // len(block))]
    return b"".join((*parts, packer.compress(bytes(length % len(block))), packer.flush()))


def large_png(side: int) -> bytes:
    """A whole black square in a few kilobytes."""
    return bare_png(side, side, data=zeros((3 * side + 1) * side))


def noise(length: int) -> bytes:
    """Repeatable noise."""
    return random.Random(length).randbytes(length)


def flipped(whole: bytes, seed: int, flips: int = 8, within: slice = slice(None)) -> bytes:
    """The file with some of its bits turned over."""
    spoiled, chance = bytearray(whole), random.Random(seed)
    places = range(len(whole))[within]
    for _ in range(flips):
        spoiled[chance.choice(places)] ^= 1 << chance.randrange(8)
    return bytes(spoiled)


def patched(whole: bytes, old: bytes, new: bytes) -> bytes:
    """The file with the one place that reads `old` reading `new`. Raises ValueError when there is none."""
    at = whole.index(old)
    return whole[:at] + new + whole[at + len(old) :]


def ftyp(*brands: bytes) -> bytes:
    """An ISO base media file type box."""
    return struct.pack(">I", 16 + 4 * len(brands[1:])) + b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])


def animation(file_format: str) -> bytes:
    """Two frames."""
    second = base().transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return saved(base(), file_format, save_all=True, append_images=[second], duration=100)


def phone_jpeg(**options: Any) -> bytes:
    """A JPEG with a second picture behind the first, as phones write depth and gain maps."""
    other = Image.new("RGB", SIZE, (200, 0, 0))
    return saved(base(), "MPO", save_all=True, append_images=[other], quality=90, **options)


def png_with_text(kind: bytes, body: bytes) -> bytes:
    """A whole PNG with one more chunk before its data."""
    whole = png()
    at = whole.index(b"IDAT") - 4
    return whole[:at] + chunk(kind, body) + whole[at:]


def png_with_marker() -> bytes:
    """A PNG whose text says the marker."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", MARKER.decode())
    text.add_itxt("XML:com.adobe.xmp", MARKER.decode())
    return png(pnginfo=text)


def ramp_16_bit() -> bytes:
    """Grey from black to white in 16 bits."""
    ramp = np.tile(np.linspace(0, 65535, SIZE[0]).astype(np.uint16), (SIZE[1], 1))
    return saved(Image.fromarray(ramp), "PNG")


def rgb_48_bit() -> bytes:
    """A PNG of 16 bits a channel: red rising to the right."""
    row = b"\0" + b"".join(struct.pack(">HHH", x * 65535 // (SIZE[0] - 1), 0x8000, 0) for x in range(SIZE[0]))
    return bare_png(*SIZE, depth=16, data=zlib.compress(row * SIZE[1]))


def transparent_palette() -> bytes:
    """Red, all of it transparent."""
    image = Image.new("P", SIZE, 0)
    image.putpalette([200, 0, 0])
    return saved(image, "PNG", transparency=0)


def half_transparent() -> bytes:
    """Left half clear red, right half solid blue."""
    image = Image.new("RGBA", SIZE, (200, 0, 0, 0))
    image.paste((0, 0, 200, 255), (SIZE[0] // 2, 0, *SIZE))
    return saved(image, "PNG")


def recursive_exif() -> bytes:
    """EXIF whose first directory names itself as its EXIF and GPS directories, and as the next one."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, 8) for tag in (0x8769, 0x8825, 0xA005))
    block = b"II*\0" + struct.pack("<IH", 8, 3) + entries + struct.pack("<I", 8)
    return with_segments(segment(APP1, EXIF_HEAD + block + MARKER))


def exif_with_thumbnail() -> bytes:
    """EXIF whose thumbnail shows something else than the picture."""
    small = saved(Image.new("RGB", (160, 120), (255, 0, 0)), "JPEG", comment=MARKER)
    first = struct.pack("<H", 1) + struct.pack("<HHII", 0x0112, 3, 1, 1) + struct.pack("<I", 26)
    second = struct.pack("<H", 2) + struct.pack("<HHII", 0x0201, 4, 1, 56)
    second += struct.pack("<HHII", 0x0202, 4, 1, len(small)) + struct.pack("<I", 0)
    return with_segments(segment(APP1, EXIF_HEAD + b"II*\0" + struct.pack("<I", 8) + first + second + small))


def xmp_entity() -> bytes:
    """XMP that asks the reader for a file of the machine."""
    packet = (
        b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;'
        + MARKER
        + b"</x>"
    )
    return with_segments(segment(APP1, XMP_HEAD + packet))


def with_icc(profile: bytes, picture: bytes = b"") -> bytes:
    """A JPEG with a profile, split over as many segments as it takes."""
    parts = [profile[at : at + 65_000] for at in range(0, len(profile), 65_000)]
    segments = (
        segment(APP2, ICC_HEAD + bytes((number, len(parts))) + part) for number, part in enumerate(parts, 1)
    )
    return with_segments(*segments, picture=picture)


def large_profile() -> bytes:
    """A profile of 4 MB: sRGB with a long private tail."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile += MARKER + bytes(4_000_000)
    profile[:4] = struct.pack(">I", len(profile))
    return bytes(profile)


_TRANSFER: Final = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # IEC 61966-2-1, for both spaces
# Columns of red, green and blue in the profile's own D50, as in Apple's Display P3 profile.
_P3_PRIMARIES: Final = (
    (b"rXYZ", (0.515121, 0.241196, -0.001053)),
    (b"gXYZ", (0.291977, 0.692245, 0.041885)),
    (b"bXYZ", (0.157104, 0.066574, 0.784073)),
)
_D50: Final = (0.964203, 1.0, 0.824905)


def display_p3() -> bytes:
    """The Display P3 profile, written out after ICC.1:2010."""

    def fixed(*numbers: float) -> bytes:
        return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)

    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + fixed(*_TRANSFER)
    name = "Display P3 " + MARKER.decode()
    words = b"mluc" + bytes(4) + struct.pack(">II", 1, 12) + b"enUS"
    words += struct.pack(">II", 2 * len(name), 28) + name.encode("utf-16-be")
    tags = {b"desc": words, b"wtpt": b"XYZ " + bytes(4) + fixed(*_D50)}
    tags |= {tag: b"XYZ " + bytes(4) + fixed(*column) for tag, column in _P3_PRIMARIES}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        padded = data + bytes(-len(data) % 4)
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += padded
    size = start + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x04000000, b"mntr", b"RGB ", b"XYZ ")
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + fixed(*_D50)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


P3_PATCH: Final = (200, 90, 60)


def in_srgb(p3: tuple[int, int, int]) -> NDArray[np.float64]:
    """What a Display P3 colour is in sRGB, 0 to 255, by the matrices of CSS Color 4, section 10."""
    encoded = np.asarray(p3) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    to_srgb = [[1.2249401762805598, -0.22494017628055996, 0], [-0.042056954709688163, 1.0420569547096881, 0]]
    to_srgb.append([-0.019637554590334432, -0.078636045550631889, 1.0982736001409663])
    mixed = np.clip(np.asarray(to_srgb) @ linear, 0, 1)
    back = np.where(mixed <= 0.0031308, mixed * 12.92, 1.055 * mixed ** (1 / 2.4) - 0.055)
    return np.asarray(back * 255, dtype=np.float64)


def p3_photo() -> bytes:
    """A phone's wide-gamut JPEG: Display P3, XMP of a gain map, and the gain map as a second picture."""
    flat = Image.new("RGB", SIZE, P3_PATCH)
    gain = Image.new("RGB", SIZE, (128, 128, 128))
    whole = saved(flat, "MPO", save_all=True, append_images=[gain], quality=95, icc_profile=display_p3())
    packet = b'<x:xmpmeta><rdf:Description hdrgm:Version="1.0"/>' + MARKER + b"</x:xmpmeta>"
    return with_segments(segment(APP1, XMP_HEAD + packet), picture=whole)


def p3_heic() -> bytes:
    """The same colour as an iPhone sends it."""
    flat = Image.new("RGB", SIZE, P3_PATCH)
    flat.info["icc_profile"] = display_p3()
    out = io.BytesIO()
    pillow_heif.from_pillow(flat).save(out, format="HEIF", quality=-1, chroma=444)
    return out.getvalue()
