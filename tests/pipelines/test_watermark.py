"""The invisible mark: there, unseen, found again after what happens to pictures, never where it is not."""

import binascii
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from pipelines import watermark
from pipelines.types import Pixels
from pipelines.watermark import REQUIRED_BITS, REQUIRED_BITS_OF_A_PART, embed, read, read_part, read_whole

Change = Callable[[Pixels], Pixels]


@pytest.fixture(scope="module")
def unmarked(decoded_selfie: Pixels) -> Pixels:
    """The sample selfie as large as a free headshot, in OpenCV's order."""
    height, width = decoded_selfie.shape[:2]
    left = (width - height * 7 // 9) // 2
    upright = np.ascontiguousarray(decoded_selfie[:, left : width - left, ::-1])
    return np.asarray(cv2.resize(upright, (896, 1152), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


@pytest.fixture(scope="module")
def marked(unmarked: Pixels) -> Pixels:
    return embed(unmarked.copy())


def recompressed(picture: Pixels, quality: int) -> Pixels:
    """As a JPEG with half the chroma's resolution."""
    encoded = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, quality))[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), dtype=np.uint8)


def resized(picture: Pixels, long_edge: int) -> Pixels:
    height, width = picture.shape[:2]
    size = (round(width * long_edge / max(height, width)), round(height * long_edge / max(height, width)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def cropped(picture: Pixels, share: float) -> Pixels:
    """So much of width and height, from where no block begins."""
    height, width = (round(side * share) for side in picture.shape[:2])
    top, left = (picture.shape[0] - height) // 3, (picture.shape[1] - width) // 2
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


# --- unseen -------------------------------------------------------------------------------------------------


def test_marking_changes_blue_alone_and_little_of_it(unmarked: Pixels, marked: Pixels) -> None:
    change = marked.astype(int) - unmarked

    assert (marked.shape, marked.dtype) == (unmarked.shape, np.uint8)
    assert not change[..., 1:].any()
    assert 0 < np.abs(change[..., 0]).max() <= 8
    assert 10 * np.log10(255**2 / np.square(change).mean()) > 45
    assert np.abs(change @ (0.114, 0.587, 0.299)).max() < 1  # of 255 levels of light


@pytest.mark.parametrize("size", [(1, 1, 3), (8, 6, 3), (96, 72, 3), (300, 1200, 3)])
def test_pictures_of_any_size_keep_it_and_are_marked_in_place(size: tuple[int, int, int]) -> None:
    picture = np.full(size, 255, dtype=np.uint8)

    result = embed(picture)

    assert result is picture
    assert (result.shape, result.dtype) == (size, np.uint8)
    assert result.min() >= 255 - 8


def test_equal_pictures_are_marked_alike(unmarked: Pixels, marked: Pixels) -> None:
    assert (embed(unmarked.copy()) == marked).all()


def test_the_message_is_the_same_for_everybody() -> None:
    assert b"SW" + binascii.crc32(b"SW").to_bytes(4) == watermark.MESSAGE


# --- found again --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda picture: picture, id="nothing"),
        pytest.param(lambda picture: recompressed(picture, 70), id="JPEG 70"),
        pytest.param(lambda picture: recompressed(picture, 50), id="JPEG 50"),
        pytest.param(lambda picture: resized(picture, 576), id="half the size"),
        pytest.param(lambda picture: resized(picture, 1024), id="1024 px"),
        pytest.param(lambda picture: resized(picture, 512), id="512 px"),
        pytest.param(lambda picture: recompressed(resized(picture, 512), 70), id="512 px and JPEG 70"),
        pytest.param(lambda picture: cv2.resize(picture, (2987, 3840)), id="enlarged"),
    ],
)
def test_a_mark_is_found_after(change: Change, marked: Pixels) -> None:
    reading = read(change(marked))

    assert reading.is_marked
    assert not reading.is_part


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda picture: cropped(picture, 0.9), id="crop of 90 %"),
        pytest.param(lambda picture: cropped(picture, 0.75), id="crop of 75 %", marks=pytest.mark.slow),
        pytest.param(lambda picture: cropped(picture, 0.5), id="crop of 50 %", marks=pytest.mark.slow),
        pytest.param(
            lambda picture: recompressed(resized(cropped(picture, 0.75), 600), 70),
            id="crop of 75 %, 600 px and JPEG 70",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_mark_is_found_in_a(change: Change, marked: Pixels) -> None:
    part = change(marked)

    assert not read_whole(part).is_marked
    assert read(part).is_marked


# --- never where it is not ----------------------------------------------------------------------------------


def test_a_hundred_unmarked_crops_are_not_called_marked(unmarked: Pixels) -> None:
    chance = np.random.default_rng(0)
    found = []
    for _ in range(100):
        top, left = chance.integers(400), chance.integers(300)
        height, width = chance.integers(200, 700), chance.integers(150, 500)
        found.append(read_whole(unmarked[top : top + height, left : left + width]))

    assert not any(reading.is_marked for reading in found)
    assert 20 < np.mean([reading.bits for reading in found]) < 28  # half of 48, as coins fall


@pytest.mark.slow
def test_a_search_finds_no_mark_where_there_is_none(unmarked: Pixels) -> None:
    reading = read_part(unmarked)

    assert not reading.is_marked
    assert reading.bits < REQUIRED_BITS_OF_A_PART - 2


@pytest.mark.parametrize("level", [0, 128, 255])
def test_an_even_picture_is_not_called_marked(level: int) -> None:
    assert not read(np.full((64, 256, 3), level, dtype=np.uint8)).is_marked


def test_a_mistake_is_as_rare_as_it_is_said_to_be() -> None:
    assert (REQUIRED_BITS, REQUIRED_BITS_OF_A_PART) == (41, 45)
    assert watermark.chance_of_mistake() == pytest.approx(3.26e-6, rel=0.01)
