"""Measures of skin and light, on drawn pictures whose values are known and on the sample selfie."""

import subprocess
import sys
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines import skin
from pipelines.instantid.tiny_faces import FACE_POINTS
from pipelines.skin import TEMPLATE, align_face, delta_e, measure_skin, unnatural
from pipelines.types import Pixels

POINTS = 2 * np.asarray(FACE_POINTS, np.float32)  # the sample selfie is the portrait enlarged twice


def flat(*colour: int) -> Pixels:
    """A picture whose face, at the points of the template, is aligned already."""
    return np.full((skin.SIZE, skin.SIZE, 3), colour, np.uint8)


# The alignment


def test_a_face_at_the_template_is_taken_as_it_is() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (256, 256, 3), dtype=np.uint8)

    aligned, seen = align_face(picture, TEMPLATE)

    assert np.array_equal(aligned, picture)
    assert seen.all()


@pytest.mark.filterwarnings("ignore:.*estimate.*:FutureWarning")
@pytest.mark.parametrize("degrees", [0, 12, -30])
def test_a_face_lies_where_insightface_puts_it(degrees: int, selfie: Pixels) -> None:
    from insightface.utils.face_align import norm_crop

    half = cv2.resize(selfie, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    turn = cv2.getRotationMatrix2D((225.0, 126.0), degrees, 1.0)
    turned = cv2.warpAffine(half, turn, (512, 512))
    points = ((np.asarray(FACE_POINTS) @ turn[:, :2].T) + turn[:, 2]).astype(np.float32)

    aligned, seen = align_face(np.asarray(turned, np.uint8), points)

    difference = np.abs(aligned.astype(int) - norm_crop(turned, points, skin.SIZE))[seen]
    assert difference.mean() < 0.2
    assert seen.mean() > 0.95


@pytest.mark.parametrize("factor", [1.25, 2.0, 3.0])
def test_a_picture_and_its_enlargement_measure_the_same(factor: float, selfie: Pixels) -> None:
    """Averaged, not sampled: at three times the size a plain warp would show three times the noise."""
    other = cv2.resize(selfie, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)

    plain = measure_skin(selfie, POINTS)
    scaled = measure_skin(np.asarray(other, np.uint8), (POINTS + 0.5) * factor - 0.5)

    assert scaled.sharpness == pytest.approx(plain.sharpness, rel=0.15)
    assert scaled.texture == pytest.approx(plain.texture, rel=0.05)
    assert scaled.cheeks == pytest.approx(plain.cheeks, abs=0.1)


@pytest.mark.parametrize(
    "points", [np.zeros((5, 2)), np.full((5, 2), np.nan), np.zeros((4, 2)), np.full((5, 2), 1e6)]
)
def test_points_that_are_no_face_are_an_error(points: Any) -> None:
    with pytest.raises(ValueError, match="five"):
        measure_skin(flat(128, 128, 128), points)


# The measures


def test_a_flat_face_has_no_edges_no_texture_and_one_colour() -> None:
    measures = measure_skin(flat(128, 128, 128), TEMPLATE)

    assert (measures.sharpness, measures.texture) == (0.0, pytest.approx(0, abs=1e-4))
    assert (measures.clipped, measures.saturated) == (0.0, 0.0)
    assert measures.cheeks == pytest.approx((53.585, 0, 0), abs=0.05)  # CIELAB of sRGB 128


def test_the_colour_of_the_cheeks_is_cielab() -> None:
    assert measure_skin(flat(255, 0, 0), TEMPLATE).cheeks == pytest.approx((53.24, 80.09, 67.20), abs=0.05)


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    board = np.where((np.indices((256, 256)).sum(axis=0) % 2 == 0)[..., None], 100, 110)
    picture = np.repeat(board, 3, axis=2).astype(np.uint8)

    # Every pixel differs by 10 from each of its four neighbours: 40 and -40 in turn.
    assert measure_skin(picture, TEMPLATE).sharpness == pytest.approx(1600, abs=1)


def test_texture_grows_with_the_contrast_of_fine_detail_alone() -> None:
    noise = np.random.default_rng(2).normal(0, 1, (256, 256, 1))
    slope = np.linspace(0, 40, 256)[None, :, None]

    def texture(strength: float, shading: float) -> float:
        picture = np.clip(120 + strength * noise + shading * slope, 0, 255).astype(np.uint8)
        measured = measure_skin(np.repeat(picture, 3, axis=2), TEMPLATE).texture
        assert measured is not None
        return measured

    assert texture(16, 0) / texture(8, 0) == pytest.approx(2, abs=0.05)
    assert texture(8, 1) == pytest.approx(texture(8, 0), rel=0.1)
    assert texture(0, 1) < 0.15 < 2 < texture(8, 0)


def test_clipped_is_the_share_of_the_face_with_a_burnt_channel() -> None:
    picture = flat(200, 100, 50)
    picture[:150, :, 0] = 250
    picture[150:, :, 0] = 249
    face = cv2.ellipse(np.zeros((256, 256), np.uint8), (128, 150), (76, 95), 0, 0, 360, 1, -1)
    expected = face[:150].sum() / face.sum()

    assert measure_skin(picture, TEMPLATE).clipped == pytest.approx(expected, abs=0.005)
    assert measure_skin(flat(255, 0, 0), TEMPLATE).clipped == 1.0


@pytest.mark.parametrize(
    ("colour", "share"),
    [((100, 9, 9), 1.0), ((100, 10, 10), 0.0), ((200, 30, 10), 1.0), ((31, 0, 0), 0.0), ((32, 0, 0), 1.0)],
)
def test_saturated_is_above_nine_tenths_and_not_nearly_black(
    colour: tuple[int, int, int], share: float
) -> None:
    assert measure_skin(flat(*colour), TEMPLATE).saturated == share


def test_hair_and_background_do_not_count() -> None:
    picture = flat(150, 120, 110)
    picture[:50], picture[:, :45], picture[:, 210:] = 255, (255, 0, 0), (0, 255, 0)

    assert measure_skin(picture, TEMPLATE) == measure_skin(flat(150, 120, 110), TEMPLATE)


def test_a_strand_of_hair_on_the_forehead_is_not_texture() -> None:
    picture = flat(190, 150, 130)
    picture[60:90, ::6] = 40

    assert measure_skin(picture, TEMPLATE).texture == pytest.approx(0, abs=1e-4)


# Faces partly outside


def test_half_a_face_is_measured_by_the_half_that_is_there(selfie: Pixels) -> None:
    whole = measure_skin(selfie, POINTS)
    cut = measure_skin(selfie[:, 400:], POINTS - (400, 0))

    assert cut.texture == pytest.approx(whole.texture, rel=0.05)
    assert cut.sharpness == pytest.approx(whole.sharpness, rel=0.1)


def test_the_colour_of_one_cheek_stands_for_both_where_the_other_is_outside() -> None:
    picture = flat(220, 170, 150)
    picture[:, 128:] = 140, 100, 90
    left, right = (measure_skin(flat(*colour), TEMPLATE).cheeks for colour in (picture[0, 0], picture[0, -1]))

    assert left is not None
    assert right is not None
    both = measure_skin(picture, TEMPLATE).cheeks
    assert both == pytest.approx(np.mean([left, right], axis=0), abs=1e-3)
    assert measure_skin(picture[:, 110:], TEMPLATE - (110, 0)).cheeks == pytest.approx(right, abs=1e-3)


def test_what_is_not_in_the_picture_is_not_measured(selfie: Pixels) -> None:
    narrow = measure_skin(selfie[:, 460:], POINTS - (460, 0))
    nowhere = measure_skin(selfie[:, 600:], POINTS - (600, 0))
    far_away = measure_skin(selfie, POINTS + 5000)

    assert (narrow.sharpness, narrow.clipped, narrow.saturated) == (None, None, None)
    assert narrow.texture is not None
    nothing = skin.SkinMeasures(sharpness=None, texture=None, clipped=None, saturated=None, cheeks=None)
    assert nowhere == far_away == nothing


def test_the_edge_of_the_picture_is_no_edge_of_the_face() -> None:
    shifted = measure_skin(flat(180, 140, 120)[:, 60:], TEMPLATE - (60, 0))

    assert (shifted.sharpness, shifted.texture) == (0.0, pytest.approx(0, abs=1e-4))


# Colours


def test_delta_e_is_the_distance_in_cielab() -> None:
    assert delta_e((50, 3, 4), (50, 0, 0)) == 5
    assert delta_e((50, 3, 4), (38, 3, 4)) == 12


@pytest.mark.parametrize(
    ("colour", "distance"),
    [
        ((60, 5, 5), 0.0),
        ((20, 25, 35), 0.0),
        ((60, 3, 20), 2.0),
        ((60, 28, 39), 5.0),
        ((60, 15, -5), 10.0),
    ],
)
def test_natural_colour_is_a_range_of_a_and_b(colour: skin.Lab, distance: float) -> None:
    assert unnatural(colour) == distance


def test_the_measures_need_neither_torch_nor_insightface() -> None:
    heavy = "{'torch', 'insightface'} & set(sys.modules)"
    code = f"import sys, pipelines.skin, pipelines.gate; sys.exit(bool({heavy}))"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
