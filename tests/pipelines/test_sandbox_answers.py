"""The child that decodes photos gives the same answers as the decoder, and is believed nothing else."""

import os
import struct
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest
from PIL import Image

from pipelines import images, sandbox
from pipelines.errors import Refused, Retryable
from tests.pipelines.test_images import heic, hostile, picture, saved


@pytest.fixture(scope="module")
def heic_photo() -> bytes:
    return heic(picture())


def test_a_photo_comes_back_as_the_decoder_makes_it(selfie_jpeg: bytes) -> None:
    assert sandbox.clean_portrait_in_sandbox(selfie_jpeg) == images.clean_portrait(selfie_jpeg)


@pytest.mark.parametrize(
    "name", ["empty", "text", "jpeg cut at 50 %", "png bomb", "png text bomb", "apng", "banner"]
)
def test_refusals_of_the_child_reach_the_caller(name: str) -> None:
    raw, code = hostile()[name]

    with pytest.raises(Refused) as refusal:
        sandbox.clean_portrait_in_sandbox(raw)

    assert refusal.value.code == code


def test_a_child_out_of_time_is_killed_and_leaves_no_zombie(selfie_jpeg: bytes) -> None:
    with pytest.raises((Refused, Retryable)):
        sandbox.clean_portrait_in_sandbox(selfie_jpeg, timeout_seconds=0.01)

    with suppress(ChildProcessError):  # other tests may have children of their own, but no dead one
        assert os.waitpid(-1, os.WNOHANG) == (0, 0)


def test_a_child_that_cannot_start_is_not_the_photo_s_fault(
    monkeypatch: pytest.MonkeyPatch, selfie_jpeg: bytes
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent")

    with pytest.raises(Retryable) as error:
        sandbox.clean_portrait_in_sandbox(selfie_jpeg)

    assert error.value.code == "sandbox_unavailable"


def pixels(width: int, height: int, length: int | None = None) -> bytes:
    """A child's whole answer with a picture of this size; `length` bytes of pixels where given."""
    count = 3 * width * height if length is None else length
    return b"ready\nok\n" + struct.pack(">II", width, height) + bytes(count)


@pytest.mark.parametrize(
    ("written", "code"),
    [
        (b"ready\n", "truncated_image"),
        (b"ready\nhalf a status", "truncated_image"),
        (b"ready\nodd_shape\n", "odd_shape"),
        (b"ready\nok\n", "truncated_image"),
        (b"ready\nok\n\0\0\1", "truncated_image"),
        (pixels(300, 400, 3 * 300 * 400 - 1), "truncated_image"),
    ],
)
def test_a_child_that_dies_reads_as_a_damaged_photo(
    monkeypatch: pytest.MonkeyPatch, written: bytes, code: str
) -> None:
    monkeypatch.setattr(sandbox, "_ask_child", lambda raw, deadline, arguments: written)

    with pytest.raises(Refused) as refusal:
        sandbox.clean_portrait_in_sandbox(b"x")

    assert refusal.value.code == code


HOSTILE_ANSWERS = {
    "a file instead of pixels": b"ready\nok\n" + images.clean_portrait(saved(picture(), "PNG")),
    "one byte more": pixels(300, 400, 3 * 300 * 400 + 1),
    "a side longer than asked for": pixels(4097, 2000),
    "a strip": pixels(4096, 256),
    "a speck": pixels(255, 255),
    "nothing": pixels(0, 0),
    "a size beyond all memory": pixels(2**32 - 1, 2**32 - 1, 300),
    "a status without end": b"ready\n" + b"x" * 1_000_000,
    "a status that is no word": b"ready\n\xff\0\n",
}


@pytest.mark.parametrize("what", HOSTILE_ANSWERS)
def test_a_child_taken_over_gives_pixels_of_the_size_it_says_or_nothing(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(sandbox, "_ask_child", lambda raw, deadline, arguments: HOSTILE_ANSWERS[what])

    with pytest.raises(Refused) as refusal:
        sandbox.clean_portrait_in_sandbox(b"x")

    assert refusal.value.code == "truncated_image"


def test_what_a_child_taken_over_can_give_is_a_picture_encoded_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_ask_child", lambda raw, deadline, arguments: pixels(300, 400))

    portrait = sandbox.clean_portrait_in_sandbox(b"x")

    assert portrait == images.clean_portrait(saved(Image.new("RGB", (300, 400)), "PNG"))


def test_a_child_that_writes_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.Popen
    flood = "import os\nos.write(1, b'ready\\nok\\n')\nwhile True: os.write(1, bytes(65536))"

    def flooding(command: list[str], **options: Any) -> Any:
        return real([*command[:2], "-c", flood], **options)

    monkeypatch.setattr(subprocess, "Popen", flooding)

    with pytest.raises(Refused, match="truncated_image"):
        sandbox.clean_portrait_in_sandbox(b"x")


def test_who_finds_no_decoder_free_is_told_so_after_a_bounded_wait(selfie_jpeg: bytes) -> None:
    """The wait for a decoder has a bound of its own: slow photos may not hold whoever comes after them."""
    for _ in range(sandbox.MAX_CHILDREN):
        sandbox._children.acquire()
    try:
        with pytest.raises(Retryable) as busy:
            sandbox.clean_portrait_in_sandbox(selfie_jpeg, wait_seconds=0.01)
    finally:
        for _ in range(sandbox.MAX_CHILDREN):
            sandbox._children.release()

    assert busy.value.code == "sandbox_busy"
    assert sandbox.clean_portrait_in_sandbox(selfie_jpeg, wait_seconds=0.01)  # it took no place of theirs


def test_the_parent_opens_no_photo_itself_nor_what_its_child_made_of_it(heic_photo: bytes) -> None:
    code = (
        "import sys\nfrom PIL import Image\nfrom pipelines import sandbox\n"
        "Image.open = None\n"
        "cleaned = sandbox.clean_portrait_in_sandbox(sys.stdin.buffer.read())\n"
        "print(cleaned[:2] == bytes([255, 216]), [name for name in sys.modules if 'heif' in name])"
    )

    answer = subprocess.run([sys.executable, "-c", code], input=heic_photo, capture_output=True, check=True)

    assert answer.stdout == b"True []\n"
