"""Framing keeps proportions and people whole; a doubtful cut-out says so."""

import cv2
import numpy as np
import pytest

from pipelines import cutout, faces
from pipelines.types import Pixels

pytestmark = pytest.mark.slow


def cut(portrait: Pixels, framing: str = "head_and_shoulders") -> cutout.Cutout:
    portrait = np.ascontiguousarray(portrait)
    face = faces.the_one_face(portrait)
    return cutout.cut_out(portrait, face, framing, cutout.segment(portrait, face))


@pytest.mark.parametrize(("framing", "share"), list(cutout.FACE_SHARE.items()))
def test_each_framing_gives_the_face_its_share_of_the_height(
    framing: str, share: float, selfie: Pixels
) -> None:
    face = faces.the_one_face(selfie)

    placed = cutout.frame(selfie, face, framing).moved(face)

    assert placed.height == pytest.approx(share * 1152)
    assert placed.left + placed.width / 2 == pytest.approx(448)
    assert placed.eye_distance / placed.height == pytest.approx(face.eye_distance / face.height)


def test_the_sample_is_cut_out_without_doubt(selfie: Pixels) -> None:
    result = cut(selfie)

    assert result.doubt == ""
    assert result.matte.shape == (1152, 896)
    assert result.matte[:20].max() == 0
    assert result.matte[round(result.face.top + result.face.height / 2), 448] > 0.999
    assert result.matte[-1].mean() > 0.85


def test_a_body_never_ends_above_the_lower_edge(selfie: Pixels) -> None:
    short = selfie[:520]
    face = faces.the_one_face(short)

    placed = cutout.frame(short, face, "chest")

    assert placed.scale * 520 + placed.shift_y >= 1152 - 1e-6


@pytest.mark.parametrize("columns", [slice(300, None), slice(0, 600)])
def test_a_person_beside_the_middle_still_fills_the_canvas(columns: slice, selfie: Pixels) -> None:
    cropped = np.ascontiguousarray(selfie[:, columns])
    face = faces.the_one_face(cropped)

    placed = cutout.frame(cropped, face, "chest")

    assert placed.shift_x <= 1
    assert placed.shift_x + placed.scale * cropped.shape[1] >= 895


def test_hair_cut_by_the_photo_is_doubtful(selfie: Pixels) -> None:
    assert cut(selfie[60:430, 290:610]).doubt == "photo edge"


def test_background_that_sticks_to_the_head_is_doubtful(selfie: Pixels) -> None:
    person = cut(selfie, "chest")
    rng = np.random.default_rng(3)
    blocks = cv2.resize(
        rng.random((24, 18, 3), dtype=np.float32), (896, 1152), interpolation=cv2.INTER_NEAREST
    )
    alpha = person.matte[..., None]
    busy = np.rint((person.colours * alpha + blocks * (1 - alpha)) * 255).astype(np.uint8)

    assert cut(busy).doubt == "uneven"


def test_the_fallback_framing_needs_no_pixel_from_outside(selfie: Pixels) -> None:
    cropped = selfie[60:430, 290:610]
    face = faces.the_one_face(np.ascontiguousarray(cropped))

    placed = cutout.frame_inside(cropped, face, "chest")

    assert placed.shift_x <= 0
    assert placed.shift_y <= 0
    assert placed.shift_x + placed.scale * 320 >= 896 - 1e-6
    assert placed.shift_y + placed.scale * 370 >= 1152 - 1e-6


def test_the_guided_filter_keeps_a_constant_and_follows_an_edge() -> None:
    guide = np.zeros((60, 60), np.float32)
    guide[:, 30:] = 1
    blurred = np.asarray(cv2.GaussianBlur(guide, (0, 0), 4), dtype=np.float32)

    assert blurred[30, 30] - blurred[30, 29] < 0.11
    assert cutout.guided_filter(guide, np.full_like(guide, 0.4), 5, 1e-4) == pytest.approx(0.4, abs=1e-4)
    followed = cutout.guided_filter(guide, blurred, 5, 1e-4)
    assert followed[30, 30] - followed[30, 29] > 0.4
