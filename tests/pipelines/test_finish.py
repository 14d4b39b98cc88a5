"""Marks that survive cropping, exact sizes, clean files."""

import io

import numpy as np
import pytest
from PIL import Image

from pipelines.finish import Finished, enlarge
from pipelines.finish import finish as finish_as
from pipelines.images import decode_jpeg
from pipelines.provenance import SourceType, source_of
from pipelines.types import OutputSpec, Pixels

NATIVE = OutputSpec(long_edge=1152, is_watermarked=False)
FREE = OutputSpec(long_edge=1152, is_watermarked=True)


@pytest.fixture
def picture() -> Pixels:
    ramp = np.linspace(40, 210, 1152, dtype=np.float32)[:, None, None]
    return np.broadcast_to(ramp, (1152, 896, 3)).astype(np.uint8)


def finish(pixels: Pixels, *, output: OutputSpec, marks: tuple[str, ...]) -> Finished:
    return finish_as(pixels, output=output, marks=marks, source_type=SourceType.GENERATED)


def changed(one: bytes, other: bytes) -> np.ndarray:
    return np.abs(decode_jpeg(one).astype(int) - decode_jpeg(other)).max(axis=2) > 12


def test_the_watermark_survives_a_crop_of_a_fifth_from_any_side(picture: Pixels) -> None:
    marked = changed(
        finish(picture, output=FREE, marks=()).jpeg, finish(picture, output=NATIVE, marks=()).jpeg
    )

    height, width = marked.shape
    fifth_h, fifth_w = height // 5, width // 5
    crops = (marked[fifth_h:], marked[:-fifth_h], marked[:, fifth_w:], marked[:, :-fifth_w])
    for crop in (*crops, marked[fifth_h:-fifth_h, fifth_w:-fifth_w]):
        assert 0.03 < crop.mean() < 0.25
    for rows in np.array_split(marked, 5):
        for block in np.array_split(rows, 3, axis=1):
            assert block.any()


def test_the_thumbnail_carries_the_watermark_too(picture: Pixels) -> None:
    free, clean = finish(picture, output=FREE, marks=()), finish(picture, output=NATIVE, marks=())

    assert changed(free.preview_jpeg, clean.preview_jpeg).mean() > 0.02


def test_the_plate_lies_in_the_lower_right_corner_alone(picture: Pixels) -> None:
    marked = changed(
        finish(picture, output=NATIVE, marks=("PREVIEW",)).jpeg, finish(picture, output=NATIVE, marks=()).jpeg
    )

    rows, columns = np.nonzero(marked)
    assert rows.min() > 1060
    assert columns.min() > 680
    assert marked.sum() > 2000


def test_files_say_what_they_are_and_carry_no_other_metadata_and_no_subsampling(picture: Pixels) -> None:
    done = finish_as(picture, output=FREE, marks=("PREVIEW",), source_type=SourceType.COMPOSITE)

    for jpeg in (done.jpeg, done.preview_jpeg):
        image = Image.open(io.BytesIO(jpeg))
        assert dict(image.getexif()) == {}
        assert {entry[1:3] for entry in image.layer} == {(1, 1)}
        assert image.info["dpi"] == (300, 300)
        assert [marker for marker, _ in image.applist] == ["APP0", "APP1", "APP2"]
        assert image.info["icc_profile"] == image.applist[2][1][14:]
        assert source_of(jpeg) == SourceType.COMPOSITE


def test_equal_pictures_give_equal_files(picture: Pixels) -> None:
    assert finish(picture, output=FREE, marks=("A",)) == finish(picture.copy(), output=FREE, marks=("A",))


@pytest.mark.parametrize("long_edge", [576, 1152, 2048, 3840])
def test_enlarging_gives_the_exact_long_edge_and_keeps_the_tones(long_edge: int, picture: Pixels) -> None:
    result = enlarge(picture, long_edge)

    assert result.shape == (long_edge, round(896 * long_edge / 1152), 3)
    assert result.mean() == pytest.approx(picture.mean(), abs=1)
