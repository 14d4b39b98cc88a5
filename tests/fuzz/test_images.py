"""Whatever bytes claim to be a photo: a clean JPEG, or a refusal with a code that has words."""

import io
import random
import struct
from collections.abc import Callable
from functools import cache
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from headshots.exceptions import TEXTS
from pipelines import images, sandbox
from pipelines.errors import Refused
from tests.pipelines import corpus_files as files

SEEDS: Final[dict[str, Callable[[], bytes]]] = {
    "JPEG": lambda: files.jpeg(exif=files.exif(6), icc_profile=files.display_p3(), comment=b"c"),
    "progressive JPEG": lambda: files.jpeg(progressive=True),
    "phone JPEG": files.phone_jpeg,
    "PNG": files.png_with_marker,
    "PNG palette": files.transparent_palette,
    "PNG 16 bit": files.ramp_16_bit,
    "WebP": lambda: files.webp(exif=files.exif(3), icc_profile=files.display_p3()),
    "HEIC": lambda: files.heic(6),
}
HEADS: Final = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"RIFF\0\0\0\0WEBP",
    b"\0\0\0\x18ftypheic\0\0\0\0heicmif1",
)


@cache
def seed_file(name: str) -> bytes:
    return SEEDS[name]()


def is_clean(made: bytes) -> bool:
    with Image.open(io.BytesIO(made), formats=["JPEG"]) as image:
        image.load()
        return (
            max(image.size) <= images.PORTRAIT_LONG_EDGE
            and files.MARKER not in made
            and "exif" not in image.info
        )


def judged(clean: Callable[[bytes], bytes], raw: bytes) -> str:
    """The verdict. Any exception but Refused, and any code without words, fails the test."""
    try:
        made, verdict = clean(raw), "accepted"
    except Refused as refusal:
        made, verdict = b"", refusal.code
    assert is_clean(made) if made else verdict in TEXTS
    return verdict


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """A good file with places overwritten, cut out or doubled; or a head with any bytes behind it."""
    if draw(st.integers(0, 7)) == 0:
        return draw(st.sampled_from(HEADS)) + draw(st.binary(max_size=2000))
    raw = bytearray(seed_file(draw(st.sampled_from(list(SEEDS)))))
    for _ in range(draw(st.integers(1, 6))):
        top = len(raw) if draw(st.booleans()) else min(len(raw), 700)  # headers are where parsers decide
        at, length = draw(st.integers(0, top - 1)), draw(st.integers(1, 8))
        match draw(st.integers(0, 4)):
            case 0:
                raw[at : at + length] = draw(st.binary(min_size=length, max_size=length))
            case 1:
                del raw[at : at + length]
            case 2:
                raw[at:at] = raw[at : at + length]
            case 3:
                raw[at : at + 4] = struct.pack(
                    ">I", draw(st.sampled_from((0, 1, 2**31 - 1, 2**32 - 1, 65_535)))
                )
            case _:
                raw[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(raw)


@pytest.mark.filterwarnings("ignore")
def test_any_bytes_get_a_photo_or_a_refusal(fuzz: Callable[..., None]) -> None:
    """In this process: an error of Python's is found here, and the sandbox holds what is worse."""

    @given(spoiled())
    def check(raw: bytes) -> None:
        judged(images.clean_portrait, raw)

    fuzz(check, examples=150)


def test_any_head_is_told_apart_without_an_error(fuzz: Callable[..., None]) -> None:
    @given(
        st.binary(max_size=64)
        | st.builds(lambda head, tail: head + tail, st.sampled_from(HEADS), st.binary())
    )
    def check(head: bytes) -> None:
        assert images.format_of(head) in {None, "JPEG", "PNG", "WEBP", "HEIF"}

    fuzz(check, examples=500)


@pytest.mark.slow
def test_flipped_bits_of_every_format_never_reach_the_parent(fuzz: Callable[..., None]) -> None:
    """Through real children: the same verdicts as in-process are not asked for, only that there is one."""

    @given(st.sampled_from(list(SEEDS)), st.integers(0, 2**32))
    def check(name: str, number: int) -> None:
        flips = random.Random(number).randint(1, 40)
        judged(sandbox.clean_portrait_in_sandbox, files.flipped(seed_file(name), number, flips))

    fuzz(check, examples=25)
