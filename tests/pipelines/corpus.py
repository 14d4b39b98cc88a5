"""The corpus of hostile and unusual uploads: 110 numbered cases and a few more, each with its right verdict.

Files are built by `corpus_files` when a case runs; no binary lies in the repository. Cases of the web layer
and of picture contents name the tests that hold them; four say what today's service answers, and why.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from PIL import Image

from pipelines.types import Pixels
from tests.pipelines import corpus_files as files
from tests.pipelines.corpus_files import MARKER, bare_png, base, flipped, heic, jpeg, png, saved, webp

ACCEPTED: Final = "accepted"
SLOW: Final = frozenset((30, 34, 35, 36, 67, 88, 120, 121))
Check = Callable[[Pixels], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A file, its right verdicts (one, but for flipped bits), and what the accepted picture shows."""

    number: int
    name: str
    build: Callable[[], bytes]
    verdicts: tuple[str, ...]
    check: Check | None = None

    @property
    def is_slow(self) -> bool:
        """Whether building or refusing it takes more than a second."""
        return self.number in SLOW


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """A case that is no file for the decoder: the verdict, and the test that holds it or why none does."""

    number: int
    name: str
    verdict: str
    held_by: str


def upright(pixels: Pixels) -> None:
    """The white square is in the first corner, and there only."""
    side = files.CORNER // 2
    corners = [pixels[:side, :side], pixels[:side, -side:], pixels[-side:, :side], pixels[-side:, -side:]]
    assert corners[0].min() > 225
    assert all(corner.mean() < 215 for corner in corners[1:])


def as_stored(pixels: Pixels) -> None:
    """Upright, in the size it was stored in, and close to the base picture."""
    assert pixels.shape == (files.SIZE[1], files.SIZE[0], 3)
    upright(pixels)
    assert np.abs(pixels.astype(int) - np.asarray(base())).mean() < 4


def turned_right(pixels: Pixels) -> None:
    """Orientation 6: the stored picture turned by 90 degrees clockwise, so its corner is now top right."""
    assert pixels.shape == (files.SIZE[0], files.SIZE[1], 3)
    upright(np.rot90(pixels))


def grey(pixels: Pixels) -> None:
    upright(pixels)
    assert np.ptp(pixels.astype(int), axis=2).max() <= 3


def rising(pixels: Pixels) -> None:
    assert np.allclose(pixels[240, [0, 320, 639], 0], [0, 128, 255], atol=3)


def white(pixels: Pixels) -> None:
    assert pixels.min() == 255


def half_white(pixels: Pixels) -> None:
    assert pixels[:, :300].min() >= 250
    assert np.allclose(pixels[:, 360:].mean(axis=(0, 1)), (0, 0, 200), atol=4)


def black(pixels: Pixels) -> None:
    assert pixels.max() == 0


def two_tones(pixels: Pixels) -> None:
    assert (np.minimum(pixels, 255 - pixels) < 60).mean() > 0.9


def p3_in_srgb(pixels: Pixels) -> None:
    """The sRGB numbers of the same colour; dropping the profile alone would leave its red at 200."""
    assert np.allclose(pixels.mean(axis=(0, 1)), files.in_srgb(files.P3_PATCH), atol=3.5)


def _c(
    number: int,
    name: str,
    build: Callable[..., bytes],
    verdict: str | tuple[str, ...],
    check: Check | None = None,
) -> Case:
    verdicts = (verdict,) if isinstance(verdict, str) else verdict
    return Case(number=number, name=name, build=build, verdicts=verdicts, check=check)


def _unsupported() -> list[Case]:
    def plain(file_format: str, **options: Any) -> Callable[[], bytes]:
        return lambda: saved(base(), file_format, **options)

    tga = bytes(2) + b"\2" + bytes(9) + struct.pack("<HHBB", 400, 300, 24, 0) + bytes(400 * 300 * 3)
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 400 300\n(/etc/passwd) (r) file\n"
    psd = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 300, 400, 8, 3) + bytes(400)
    fits = b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =                    8".ljust(2800)
    svg = b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>'
    named = [
        ("one byte", lambda: b"x"),
        ("text", lambda: b"Not a picture.\n" * 200),
        ("HTML named .jpg", lambda: b"<!DOCTYPE html><script>alert(1)</script>"),
        ("SVG with an external entity", lambda: svg),
        ("GIF", plain("GIF")),
        ("BMP", plain("BMP")),
        ("TIFF", plain("TIFF")),
        ("ICO", plain("ICO", sizes=[(256, 256)])),
        ("PPM", plain("PPM")),
        ("TGA", lambda: tga),
        ("PDF", plain("PDF")),
        ("PostScript", lambda: postscript),
        ("PSD", lambda: psd),
        ("FITS", lambda: fits),
        ("AVIF brand", lambda: files.ftyp(b"avif", b"mif1", b"miaf") + files.noise(4000)),
        ("MP4", lambda: files.ftyp(b"isom", b"iso2", b"mp41") + files.noise(4000)),
    ]
    cases = [_c(number, name, build, "not_an_image") for number, (name, build) in enumerate(named, 2)]
    return [_c(1, "empty", lambda: b"", "empty_file"), *cases]


def _corrupt() -> list[Case]:
    def cut(whole: Callable[[], bytes], share: float) -> Callable[[], bytes]:
        return lambda: whole()[: round(len(whole()) * share)]

    def bad_crc() -> bytes:
        whole = png()
        end = whole.index(b"IHDR") + 4 + 13
        return whole[:end] + bytes(4) + whole[end + 4 :]

    def ispe(side: int) -> bytes:
        size = struct.pack(">II", *files.SIZE)
        return files.patched(
            heic(), b"ispe" + bytes(4) + size, b"ispe" + bytes(4) + struct.pack(">II", side, side)
        )

    bad, large = "truncated_image", "too_many_pixels"
    heic_flips = ("truncated_image", ACCEPTED)
    return [
        _c(18, "JPEG magic only", lambda: b"\xff\xd8\xff", bad),
        _c(19, "JPEG cut at 10 %", cut(jpeg, 0.1), bad),
        _c(20, "JPEG cut at 50 %", cut(jpeg, 0.5), bad),
        _c(21, "JPEG without its last 2 bytes", lambda: jpeg()[:-2], bad),
        _c(22, "PNG cut", cut(png, 0.6), bad),
        _c(23, "WebP cut", cut(webp, 0.6), bad),
        _c(24, "HEIC cut", cut(heic, 0.6), bad),
        _c(25, "HEIC header only", lambda: heic()[:200], bad),
        _c(26, "PNG with a bad checksum", bad_crc, bad),
        _c(27, "PNG of 0 x 0", lambda: bare_png(0, 0), bad),
        _c(28, "PNG of 2^31-1 squared", lambda: bare_png(2**31 - 1, 2**31 - 1), large),
        _c(
            29,
            "JPEG header patched to 65 500 squared",
            lambda: files.with_frame(size=(65_500, 65_500)),
            large,
        ),
        _c(
            30,
            "30 MB of noise behind a JPEG's magic",
            lambda: b"\xff\xd8\xff\xe0" + files.noise(30_000_000),
            "file_too_large",
        ),
        _c(
            31,
            "HEIC brands, then noise",
            lambda: files.ftyp(b"heic", b"mif1", b"heic") + files.noise(50_000),
            bad,
        ),
        _c(32, "HEIC that says 60 000 squared", lambda: ispe(60_000), large),
        _c(
            33,
            "PNG of 20 000 squared in kilobytes",
            lambda: bare_png(20_000, 20_000, data=files.zeros(40_000_000)),
            large,
        ),
        _c(
            34,
            "zTXt of 200 MB",
            lambda: files.png_with_text(b"zTXt", b"Comment\0\0" + files.zeros(200_000_000)),
            large,
        ),
        _c(
            35,
            "iTXt of 200 MB",
            lambda: files.png_with_text(b"iTXt", b"Comment\0\1\0\0\0" + files.zeros(200_000_000)),
            large,
        ),
        _c(
            36,
            "iCCP of 200 MB",
            lambda: files.png_with_text(b"iCCP", b"name\0\0" + files.zeros(200_000_000)),
            large,
        ),
        *(
            _c(
                37 + seed,
                f"HEIC with flipped bits, {seed + 1}",
                lambda seed=seed: flipped(heic(), seed, 8, slice(40, 700 if seed < 5 else None)),
                heic_flips,
            )
            for seed in range(10)
        ),
    ]


def _policy() -> list[Case]:
    return [
        _c(
            47,
            "12 001 pixels wide",
            lambda: bare_png(12_001, 4_000),
            "too_many_pixels",
        ),
        _c(
            48,
            "JPEG of 65 500 x 300",
            lambda: saved(Image.new("L", (65_500, 300)), "JPEG"),
            "too_many_pixels",
        ),
        _c(49, "1 x 1", lambda: saved(base(size=(1, 1)), "PNG"), "image_too_small"),
        _c(50, "six times as long as wide", lambda: saved(base(size=(1800, 300)), "JPEG"), "odd_shape"),
        _c(51, "animated PNG", lambda: files.animation("PNG"), "animated_image"),
        _c(52, "animated WebP", lambda: files.animation("WEBP"), "animated_image"),
        _c(53, "MPO: the first picture is meant", files.phone_jpeg, ACCEPTED, as_stored),
    ]


def _rewritten() -> list[Case]:
    zip_tail = b"PK\x03\x04" + MARKER + b"PK\x05\x06" + bytes(18)
    php = b"<?php system($_GET['c']); ?>" + MARKER
    script = b"<script>alert(1)</script>" + MARKER
    flips = (ACCEPTED, "truncated_image")
    return [
        _c(54, "GPS and orientation 6", lambda: jpeg(exif=files.exif(6)), ACCEPTED, turned_right),
        _c(55, "orientation 99", lambda: jpeg(exif=files.exif(99)), ACCEPTED, as_stored),
        _c(56, "JPEG that is a ZIP too", lambda: jpeg() + zip_tail, ACCEPTED, as_stored),
        _c(57, "JPEG with a PHP tail", lambda: jpeg() + php, ACCEPTED, as_stored),
        _c(58, "script in a comment", lambda: jpeg(comment=script), ACCEPTED, as_stored),
        _c(59, "CMYK", lambda: saved(base("CMYK"), "JPEG", quality=95), ACCEPTED, upright),
        _c(60, "grey", lambda: saved(base("L"), "JPEG"), ACCEPTED, grey),
        _c(61, "progressive", lambda: jpeg(progressive=True), ACCEPTED, as_stored),
        _c(62, "PNG of 16 bits, grey", files.ramp_16_bit, ACCEPTED, rising),
        _c(63, "palette with a transparent colour", files.transparent_palette, ACCEPTED, white),
        _c(64, "PNG of 1 bit", lambda: saved(base("1"), "PNG"), ACCEPTED, two_tones),
        _c(65, "RGBA on white", files.half_transparent, ACCEPTED, half_white),
        _c(66, "PNG named .jpg", files.png_with_marker, ACCEPTED, as_stored),
        _c(
            67,
            "200 MB of pixels behind the last row",
            lambda: bare_png(*files.SIZE, data=files.zeros(200_000_000)),
            ACCEPTED,
            black,
        ),
        *(
            _c(
                68 + seed,
                f"JPEG with flipped bits, {seed + 1}",
                lambda seed=seed: flipped(jpeg(), seed, 6),
                flips,
            )
            for seed in range(20)
        ),
    ]


def _limits() -> list[Case]:
    corrupt_exif = files.segment(files.APP1, files.EXIF_HEAD + b"II*\0\xff\xff\xff\xff" + MARKER)
    adobe = files.segment(files.APP14, b"Adobe\0\x64\0\0\0\0\x63")  # colour transform 99; 0 to 2 exist
    return [
        _c(88, "PNG of 7000 squared in kilobytes", lambda: files.large_png(7_000), ACCEPTED, black),
        _c(89, "progressive JPEG of 810 scans", lambda: files.with_scans(810), "truncated_image"),
        _c(90, "corrupt EXIF", lambda: files.with_segments(corrupt_exif), ACCEPTED, as_stored),
        _c(91, "EXIF whose directory contains itself", files.recursive_exif, ACCEPTED, as_stored),
        _c(92, "EXIF thumbnail of another picture", files.exif_with_thumbnail, ACCEPTED, as_stored),
        _c(93, "XMP with an external entity", files.xmp_entity, ACCEPTED, as_stored),
        _c(94, "ICC profile of 4 MB", lambda: files.with_icc(files.large_profile()), ACCEPTED, as_stored),
        _c(
            95,
            "Adobe segment with an unknown transform",
            lambda: files.with_segments(adobe),
            ACCEPTED,
            as_stored,
        ),
        _c(96, "arithmetic-coded JPEG", lambda: files.with_frame(kind=0xC9), "not_an_image"),
        _c(97, "lossless JPEG", lambda: files.with_frame(kind=0xC3), "not_an_image"),
        _c(98, "JPEG-LS", lambda: files.with_frame(kind=0xF7), "truncated_image"),
        _c(98, "JPEG 2000", lambda: saved(base(), "JPEG2000"), "not_an_image"),
        _c(98, "JPEG XL", lambda: b"\xff\x0a" + files.noise(5_000), "not_an_image"),
        _c(99, "JPEG of 12 bits", lambda: files.with_frame(kind=0xC1, precision=12), "not_an_image"),
        _c(100, "WebP canvas of 16 383 squared", lambda: webp_canvas(16_383), "too_many_pixels"),
        _c(101, "Display P3 with a gain map", files.p3_photo, ACCEPTED, p3_in_srgb),
    ]


def webp_canvas(side: int) -> bytes:
    """An extended WebP whose canvas is larger than its picture."""
    body = webp()[12:]
    header = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (side - 1).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", 4 + len(header) + len(body)) + b"WEBP" + header + body


def _more() -> list[Case]:
    """What the list of 110 lacks."""
    return [
        _c(111, "HEIC of an iPhone, upright", heic, ACCEPTED, as_stored),
        _c(112, "HEIC, turned once although EXIF says so too", lambda: heic(6), ACCEPTED, turned_right),
        _c(113, "HEIC in Display P3", files.p3_heic, ACCEPTED, p3_in_srgb),
        _c(
            114,
            "HEIC brands on an AV1 file",
            lambda: files.ftyp(b"mif1", b"avif", b"heic") + files.noise(4000),
            "not_an_image",
        ),
        _c(
            115,
            "HEVC sequence, no still",
            lambda: files.ftyp(b"hevc", b"msf1") + files.noise(4000),
            "not_an_image",
        ),
        _c(116, "PNG of 48 bits a pixel", files.rgb_48_bit, ACCEPTED, rising),
        _c(117, "64 scans are enough, 65 are not", lambda: files.with_scans(65), "truncated_image"),
        _c(118, "JPEG with 64 scans", lambda: files.with_scans(64), ACCEPTED),
        _c(
            119,
            "phone JPEG with a film behind it",
            lambda: jpeg() + b"\xff\xda" * 500 + MARKER,
            ACCEPTED,
            as_stored,
        ),
        _c(
            120,
            "JPEG behind 25 MB of fill bytes",
            lambda: b"\xff\xd8" + b"\xff" * 25_000_000 + jpeg()[2:],
            "truncated_image",
        ),
        _c(
            121,
            "JPEG of six million empty segments",
            lambda: b"\xff\xd8" + b"\xff\xe5\0\2" * 6_000_000 + jpeg()[2:],
            "truncated_image",
        ),
        _c(
            122,
            "RGB with a transparent colour",
            lambda: saved(Image.new("RGB", files.SIZE, "red"), "PNG", transparency=(255, 0, 0)),
            ACCEPTED,
            white,
        ),
    ]


FILES: Final = (*_unsupported(), *_corrupt(), *_policy(), *_rewritten(), *_limits(), *_more())


def _e(number: int, name: str, verdict: str, held_by: str) -> Elsewhere:
    return Elsewhere(number=number, name=name, verdict=verdict, held_by=held_by)


_BODIES: Final = "tests/web/test_bodies.py::"
_PICTURES: Final = "tests/pipelines/test_corpus.py::test_what_a_picture_shows_decides"
ELSEWHERE: Final = (
    _e(
        102,
        "file names: right-to-left, NUL, 300 characters, ../",
        "accepted, name dropped",
        _BODIES + "test_whatever_a_file_is_called_is_dropped",
    ),
    _e(103, "10 000 parts", "malformed_request", _BODIES + "test_ten_thousand_parts_are_malformed"),
    _e(
        103,
        "duplicate file field",
        "malformed_request",
        "tests/web/test_upload.py::test_a_second_photo_in_one_form_is_refused",
    ),
    _e(
        103, "missing boundary", "malformed_request", _BODIES + "test_a_form_that_cannot_be_read_is_malformed"
    ),
    _e(
        103,
        "Content-Length too long",
        "incomplete_upload",
        _BODIES + "test_a_body_cut_off_half_way_is_an_incomplete_upload",
    ),
    _e(
        103,
        "Content-Length too short",
        "selfie_missing",
        _BODIES + "test_a_body_longer_than_it_says_is_read_no_further",
    ),
    _e(
        103,
        "chunked with trailers",
        "malformed_request",
        _BODIES + "test_a_body_of_unknown_length_is_refused",
    ),
    _e(103, "gzip Content-Encoding", "malformed_request", _BODIES + "test_a_packed_body_is_not_unpacked"),
    _e(
        104,
        "one byte at a time",
        "never blocks others",
        _BODIES + "test_a_client_that_sends_byte_by_byte_blocks_nobody",
    ),
    _e(
        105,
        "two uploads racing for one number",
        "already_ordered",
        _BODIES + "test_of_racing_uploads_with_one_number_one_becomes_an_order",
    ),
    _e(106, "all black", "no_face", _PICTURES),
    _e(106, "all noise", "no_face", _PICTURES),
    _e(106, "cartoon", "no_face", _PICTURES),
    _e(106, "two faces", "several_faces", _PICTURES),
    _e(106, "no face", "no_face", _PICTURES),
    _e(106, "face of 20 pixels", "no_face", _PICTURES),
    _e(106, "sunglasses", "no_face", _PICTURES),
    _e(106, "printed photo of a photo", "accepted", _PICTURES),
    _e(
        107,
        "adversarial patch",
        "accepted if a face is found",
        "nothing looks for one; it can spoil its owner's own pictures only",
    ),
    _e(
        108,
        "nudity",
        "accepted if a face is found",
        "no classifier is shipped for uploads; the photo is seen by nobody and gone in 24 hours",
    ),
    _e(
        109,
        "a child's photo",
        "accepted if a face is found",
        "no age is estimated; the form asks for 18+ and records the answer",
    ),
    _e(
        110,
        "a public figure",
        "accepted if a face is found",
        "no face database is kept, so none can be recognised; the form asks whose photo it is",
    ),
)
