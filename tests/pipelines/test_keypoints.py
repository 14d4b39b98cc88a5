"""Framing, drawing and mask of the five points."""

import hashlib
import itertools
import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines import keypoints as kp
from pipelines.errors import Refused
from pipelines.presets import FRAMINGS, HEIGHT, WIDTH

# A head turned a little to the viewer's right and tilted; deliberately not symmetrical.
OWN = np.array([[310.2, 402.9], [402.7, 391.4], [371.5, 446.8], [329.1, 500.3], [398.6, 492.2]])
LEVEL = np.array([[400.0, 400.0], [500.0, 400.0], [450.0, 455.0], [410.0, 510.0], [490.0, 510.0]])
SEEDS = range(40)


def _described(points: NDArray[np.floating], width: int, height: int) -> NDArray[np.uint8]:
    """The drawing as its description reads: one mask per shape on a float canvas, painted last to first."""
    colours = {0: (1, 0, 0), 1: (0, 1, 0), 2: (0, 0, 1), 3: (1, 1, 0), 4: (1, 0, 1)}
    complex_points = [complex(x, y) for x, y in points]
    shapes: list[tuple[NDArray[np.uint8], NDArray[np.float64]]] = []
    for start in (0, 1, 3, 4):
        a, b = complex_points[start], complex_points[2]
        centre, angle = (a + b) / 2, np.rad2deg(np.angle(a - b))
        polygon = cv2.ellipse2Poly(
            (int(centre.real), int(centre.imag)), (int(abs(a - b) / 2), 4), int(angle), 0, 360, 1
        )
        mask = np.zeros((height, width), np.uint8)
        shapes.append((cv2.fillConvexPoly(mask, polygon, 1), np.array(colours[start]) * 153.0))
    for index, point in enumerate(complex_points):
        mask = np.zeros((height, width), np.uint8)
        cv2.circle(mask, (int(point.real), int(point.imag)), 10, 1, cv2.FILLED)
        shapes.append((mask, np.array(colours[index]) * 255.0))
    canvas = np.zeros((height, width, 3))
    is_free = np.ones((height, width), bool)
    for mask, colour in reversed(shapes):
        canvas[is_free & (mask == 1)] = colour
        is_free &= mask == 0
    return canvas.astype(np.uint8)


def _distances(points: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.array([math.dist(points[a], points[b]) for a, b in itertools.combinations(range(5), 2)])


def _mirrored_distances(points: NDArray[np.floating]) -> NDArray[np.float64]:
    return _distances(points[[1, 0, 2, 4, 3]])


@pytest.mark.parametrize("seed", range(12))
def test_the_drawing_equals_its_description_pixel_by_pixel(seed: int) -> None:
    spread = np.random.default_rng(seed).uniform(-40, 40, (5, 2))
    points = (kp.place(OWN, FRAMINGS[seed % 3], seed) + spread).astype(np.float32 if seed % 2 else np.float64)

    drawn = kp.draw_keypoints(points, WIDTH, HEIGHT)

    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn, _described(points, WIDTH, HEIGHT))


def test_the_drawing_of_one_level_face_never_changes() -> None:
    drawn = kp.draw_keypoints(LEVEL, WIDTH, HEIGHT)

    assert drawn.shape == (1152, 896, 3)
    assert drawn[400, 400].tolist() == [255, 0, 0]
    assert drawn[455, 450].tolist() == [0, 0, 255]
    assert drawn[427, 425].tolist() == [153, 0, 0]
    assert int((drawn.max(axis=2) > 0).sum()) == FROZEN_PIXELS
    assert hashlib.sha256(drawn.tobytes()).hexdigest() == FROZEN_SHA256


FROZEN_PIXELS = 3288
FROZEN_SHA256 = "e67c4783c198517e4a6fedc6c4661aa68a2d15dd75bf2e8921e849f5e27623a8"


def test_points_beyond_the_canvas_are_cut_off() -> None:
    drawn = kp.draw_keypoints(LEVEL - (440.0, 0.0), 200, 300)

    assert drawn.shape == (300, 200, 3)
    assert drawn.max() == 0


def test_every_framing_of_the_presets_has_a_template() -> None:
    assert tuple(kp.FRAMING) == FRAMINGS
    assert [frame.face for frame in kp.FRAMING.values()] == [0.42, 0.36, 0.31]


@pytest.mark.parametrize("framing", FRAMINGS)
def test_eyes_and_mouth_land_where_the_framing_has_them_within_the_jitter(framing: str) -> None:
    frame = kp.FRAMING[framing]
    centres, lengths = [], []
    for seed in SEEDS:
        points = kp.place(OWN, framing, seed)
        middle = points[:2].mean(axis=0)
        centres.append(middle / (WIDTH, HEIGHT) - (frame.x, frame.y))
        lengths.append(math.dist(points[3:].mean(axis=0), middle) / (frame.eye_mouth * HEIGHT) - 1)

    assert np.abs(centres).max() <= 0.015
    assert np.abs(lengths).max() <= 0.03
    assert np.ptp(centres, axis=0).min() > 0.02
    assert np.ptp(lengths) > 0.04


@pytest.mark.parametrize("mirror", [False, True])
def test_the_proportions_between_the_points_stay_the_persons_own(mirror: bool) -> None:
    own = _mirrored_distances(OWN) if mirror else _distances(OWN)
    for seed in SEEDS:
        ratios = _distances(kp.place(OWN, "chest", seed, mirror=mirror)) / own

        assert np.ptp(ratios) / ratios.mean() < 1e-6


def test_mirroring_exchanges_left_and_right_and_keeps_the_place() -> None:
    plain = kp.place(LEVEL, "close", 0, mirror=False)
    turned = LEVEL + np.array([[0, 0], [0, 0], [20, 0], [0, 0], [0, 0]])

    nose = [kp.place(turned, "close", 0, mirror=mirror)[2] for mirror in (False, True)]
    mirrored = kp.place(LEVEL, "close", 0, mirror=True)

    assert nose[0][0] > plain[2][0] > nose[1][0]
    np.testing.assert_allclose(mirrored, plain, atol=1e-9)  # this face is symmetrical
    assert mirrored[0][0] < mirrored[1][0]
    assert mirrored[3][0] < mirrored[4][0]


def test_about_half_of_the_seeds_mirror() -> None:
    mirrored = sum(
        np.array_equal(kp.place(OWN, "chest", seed), kp.place(OWN, "chest", seed, mirror=True))
        for seed in SEEDS
    )

    assert 10 <= mirrored <= 30


def test_a_tilted_head_is_levelled_by_three_quarters() -> None:
    angle = math.radians(20)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    tilts = []
    for seed in SEEDS:
        points = kp.place((LEVEL - 450) @ turn + 450, "close", seed, mirror=False)
        across = points[1] - points[0]
        tilts.append(math.degrees(math.atan2(across[1], across[0])))

    assert min(tilts) >= 5 - 2
    assert max(tilts) <= 5 + 2
    assert max(tilts) - min(tilts) > 2.5


def test_the_same_seed_gives_the_same_points_and_another_one_others() -> None:
    first, again, other = (kp.place(OWN, "close", seed) for seed in (7, 7, 8))

    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1


def test_size_and_place_of_the_selfie_do_not_matter() -> None:
    here = kp.place(OWN, "head_and_shoulders", 3)

    np.testing.assert_allclose(kp.place(OWN * 3.7 + 511, "head_and_shoulders", 3), here, atol=1e-6)


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((5, 2)),
        np.full((5, 2), np.nan),
        np.where(np.arange(10).reshape(5, 2) == 3, np.inf, LEVEL),
        LEVEL[[0, 0, 2, 3, 4]],
        LEVEL[[1, 0, 2, 4, 3]],
        np.array([[0.0, 0.0], [10, 10], [20, 20], [30, 30], [40, 40]]),
    ],
    ids=["coincident", "nan", "infinite", "one_eye", "exchanged", "one_line"],
)
def test_points_that_are_no_face_are_refused(points: NDArray[np.float64]) -> None:
    for attempt in (lambda: kp.place(points, "close", 0), lambda: kp.face_mask(points, 64, 64)):
        with pytest.raises(Refused) as refusal:
            attempt()
        assert refusal.value.code == "no_face"


def test_points_of_another_shape_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match=r"\(5, 2\), not \(4, 2\)"):
        kp.draw_keypoints(LEVEL[:4], 64, 64)


def test_the_mask_is_one_on_the_face_and_zero_away_from_it() -> None:
    points = kp.place(OWN, "head_and_shoulders", 1)
    mask = kp.face_mask(points, WIDTH, HEIGHT)

    assert mask.shape == (1152, 896)
    assert mask.dtype == np.float32
    assert [float(mask[int(y), int(x)]) for x, y in points] == [1.0] * 5
    assert float(mask.min()) == 0.0
    assert float(mask.max()) == 1.0
    assert [float(mask[y, x]) for y in (0, -1) for x in (0, -1)] == [0.0] * 4
    share = np.ptp(np.flatnonzero(mask.max(axis=1) == 1)) / HEIGHT
    assert share == pytest.approx(0.36 * 1.1, abs=0.02)
    assert max(np.abs(np.diff(mask, axis=axis)).max() for axis in (0, 1)) < 0.04


def test_the_mask_follows_the_tilt_of_the_head() -> None:
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])  # a quarter turn clockwise

    upright = kp.face_mask(LEVEL - 450 + 320, 641, 641)
    lying = kp.face_mask((LEVEL - 450) @ turn + 320, 641, 641)

    np.testing.assert_allclose(lying, np.rot90(upright, -1), atol=1e-4)


@pytest.mark.parametrize("scale", kp.LATENT_SCALES)
def test_the_mask_of_the_latents_is_the_mean_of_its_pixels(scale: int) -> None:
    mask = kp.face_mask(kp.place(OWN, "close", 1), WIDTH, HEIGHT)

    small = kp.mask_at(mask, scale)

    blocks = mask.reshape(HEIGHT // scale, scale, WIDTH // scale, scale).mean(axis=(1, 3))
    assert small.shape == (1152 // scale, 896 // scale)
    np.testing.assert_allclose(small, blocks, atol=1e-5)


def test_a_scale_without_latents_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="not 4"):
        kp.mask_at(np.zeros((64, 64), np.float32), 4)
