"""The one usable face of a portrait, and every reason there is none."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from pipelines import faces
from pipelines.errors import Refused
from pipelines.types import Pixels

pytestmark = pytest.mark.slow


def turned(picture: Pixels, degrees: float) -> Pixels:
    matrix = cv2.getRotationMatrix2D((460, 240), degrees, 1)
    return np.asarray(
        cv2.warpAffine(picture, matrix, (1024, 1024), borderMode=cv2.BORDER_REPLICATE), np.uint8
    )


def code_of(picture: Pixels) -> str:
    with pytest.raises(Refused) as refusal:
        faces.the_one_face(np.ascontiguousarray(picture))
    return refusal.value.code


def test_the_sample_s_face_is_found_where_it_is(selfie: Pixels) -> None:
    face = faces.the_one_face(selfie)

    assert face.left_eye == pytest.approx((404, 201), abs=6)
    assert face.right_eye == pytest.approx((496, 206), abs=6)
    assert face.eye_distance == pytest.approx(91, abs=5)
    assert 170 < face.width == face.height < 230
    assert face.score == 1.0


@pytest.mark.parametrize(
    ("name", "change", "eyes"),
    [
        ("mirrored", lambda p: p[:, ::-1], ((527, 206), (619, 201))),
        ("darker", lambda p: p * 0.35, ((404, 201), (496, 206))),
        ("brighter", lambda p: np.clip(p * 1.2 + 10.0, 0, 255), ((404, 201), (496, 206))),
        ("at the edge", lambda p: p[:, 300:], ((104, 201), (196, 206))),
        ("a close-up", lambda p: p[110:400, 330:560], ((74, 91), (166, 96))),
        ("dark skin", lambda p: 255 * (p / 255.0) ** 2.2 * [0.8, 0.7, 0.65], ((404, 201), (496, 206))),
    ],
)
def test_the_face_is_found_when_the_photo_is(name, change, eyes, selfie: Pixels) -> None:  # type: ignore[no-untyped-def]
    face = faces.the_one_face(np.ascontiguousarray(change(selfie)).astype(np.uint8))

    assert face.left_eye == pytest.approx(eyes[0], abs=8), name
    assert face.right_eye == pytest.approx(eyes[1], abs=8), name


@pytest.mark.parametrize("degrees", [-15, -8, 8, 15])
def test_a_tilted_head_is_found_with_tilted_eyes(degrees: int, selfie: Pixels) -> None:
    face = faces.the_one_face(turned(selfie, degrees))

    rise = np.degrees(np.arctan2(face.right_eye[1] - face.left_eye[1], face.right_eye[0] - face.left_eye[0]))
    assert rise == pytest.approx(3.1 - degrees, abs=4)


def test_two_looks_at_once_see_what_each_alone_sees(selfie: Pixels) -> None:
    mirrored = np.ascontiguousarray(selfie[:, ::-1])
    alone = [faces.find_faces(selfie), faces.find_faces(mirrored)]

    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(faces.find_faces, [selfie, mirrored] * 4))

    assert together == alone * 4


def test_two_people_are_refused(selfie: Pixels) -> None:
    assert code_of(np.hstack([selfie, selfie])) == "several_faces"


def test_a_small_face_in_the_background_does_not_count(selfie: Pixels) -> None:
    smaller = np.asarray(cv2.resize(selfie[80:420, 300:620], None, fx=0.4, fy=0.4), dtype=np.uint8)
    selfie[40 : 40 + smaller.shape[0], 700 : 700 + smaller.shape[1]] = smaller

    assert faces.the_one_face(selfie).left_eye == pytest.approx((404, 201), abs=8)


def test_a_face_with_eyes_too_close_is_refused(selfie: Pixels) -> None:
    assert code_of(np.asarray(cv2.resize(selfie, None, fx=0.6, fy=0.6), dtype=np.uint8)) == "face_too_small"


def test_pictures_without_a_face_are_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)

    assert code_of(np.full((600, 500, 3), 128, np.uint8)) == "no_face"
    assert code_of(noise) == "no_face"


def test_a_face_in_the_dark_is_refused(selfie: Pixels) -> None:
    assert code_of((selfie * 0.08).astype(np.uint8)) == "face_too_dark"


def test_a_washed_out_face_is_refused(selfie: Pixels) -> None:
    assert code_of(np.clip(selfie * 1.5 + 35, 0, 255).astype(np.uint8)) == "face_too_bright"


def test_a_blurred_face_is_refused(selfie: Pixels) -> None:
    assert code_of(np.asarray(cv2.GaussianBlur(selfie, (0, 0), 5), dtype=np.uint8)) == "face_blurred"
