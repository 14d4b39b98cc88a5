"""Faces through insightface's own code, on handmade ONNX files in the place of its models."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pipelines.errors import Final, Refused
from pipelines.images import decode_jpeg
from pipelines.instantid import faces
from pipelines.instantid.faces import IdentityFace
from pipelines.instantid.tiny_faces import make_detector, make_recogniser
from pipelines.sample import sample_selfie
from pipelines.types import Pixels


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The face part of a tiny bundle."""
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "faces").mkdir()
    (folder / "judge").mkdir()
    make_detector(folder / "faces" / "detector.onnx")
    make_recogniser(folder / "faces" / "recogniser.onnx", seed=1, pool=14)
    make_recogniser(folder / "judge" / "judge.onnx", seed=2, pool=7)
    return folder


@pytest.fixture(scope="module")
def analysis(bundle: Path) -> Any:
    return faces.load_analysis(bundle / "faces", "cpu")


@pytest.fixture(scope="module")
def selfie() -> Pixels:
    return decode_jpeg(sample_selfie())


def face(embedding: np.ndarray[Any, Any]) -> IdentityFace:
    return IdentityFace(
        left=0.0,
        top=0.0,
        width=100.0,
        height=100.0,
        score=0.9,
        keypoints=np.array([(30, 40), (70, 40), (50, 60), (35, 80), (65, 80)], np.float32),
        embedding=embedding.astype(np.float32),
    )


def test_the_sample_s_face_has_five_points_and_a_raw_embedding(analysis: Any, selfie: Pixels) -> None:
    found = faces.the_one_face(analysis, selfie)

    assert found.keypoints.shape == (5, 2)
    assert found.embedding.shape == (512,)
    assert np.linalg.norm(found.embedding) != pytest.approx(1, abs=1e-3)
    left_eye, right_eye, nose, *mouth = found.keypoints
    assert left_eye[0] < nose[0] < right_eye[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(point[1] for point in mouth)


def test_pictures_without_a_face_are_refused(analysis: Any) -> None:
    for picture in (np.full((600, 600, 3), 128, np.uint8), np.zeros((400, 800, 3), np.uint8)):
        with pytest.raises(Refused, match="no_face"):
            faces.the_one_face(analysis, picture)


def test_two_people_are_refused(analysis: Any, selfie: Pixels) -> None:
    half = selfie[:, 192:704]

    with pytest.raises(Refused, match="several_faces"):
        faces.the_one_face(analysis, np.concatenate([half, half], axis=1))


def test_a_face_with_eyes_too_close_is_refused(analysis: Any, selfie: Pixels) -> None:
    small = np.asarray(Image.fromarray(selfie).resize((512, 512)), np.uint8)

    with pytest.raises(Refused, match="face_too_small"):
        faces.the_one_face(analysis, small)


def test_equal_pictures_have_equal_embeddings_and_others_have_others(analysis: Any, selfie: Pixels) -> None:
    first = faces.the_one_face(analysis, selfie)
    again = faces.the_one_face(analysis, selfie)
    darker = faces.the_one_face(analysis, (selfie * 0.8).astype(np.uint8))

    assert np.array_equal(first.embedding, again.embedding)
    assert not np.array_equal(first.embedding, darker.embedding)


def test_the_judge_finds_a_picture_like_itself(analysis: Any, bundle: Path, selfie: Pixels) -> None:
    judge = faces.load_judge(next((bundle / "judge").glob("*.onnx")), "cpu")
    found = faces.the_one_face(analysis, selfie)

    own = faces.judge_embedding(judge, selfie, found)
    assert own.shape == (512,)
    assert faces.cosine(own, faces.judge_embedding(judge, selfie, found)) == pytest.approx(1, abs=1e-5)
    inverted = faces.judge_embedding(judge, (255 - selfie).astype(np.uint8), found)
    assert faces.cosine(own, inverted) < -0.999  # the random projection is linear


def test_detection_alone_finds_what_the_description_is_of(analysis: Any, selfie: Pixels) -> None:
    half = selfie[:, 192:704]
    picture = np.concatenate([half, half], axis=1)

    detected, described = faces.detect_faces(analysis, picture), faces.find_faces(analysis, picture)

    assert len(detected) == len(described) == 2
    for found, full in zip(detected, described, strict=True):
        assert (found.left, found.top, found.width, found.height, found.score) == (
            full.left,
            full.top,
            full.width,
            full.height,
            full.score,
        )
        assert np.array_equal(found.keypoints, full.keypoints)
    assert faces.detect_faces(analysis, np.full_like(selfie, 90)) == []


def around_the_face(selfie: Pixels, margin: int) -> Pixels:
    """The sample, cropped to its face and so many pixels around it."""
    return np.ascontiguousarray(selfie[141 - margin : 357 + margin, 362 - margin : 538 + margin])


def one_pass(analysis: Any, picture: Pixels, size: int) -> tuple[Any, Any]:
    """What the detector alone says at one size: (n, 5) boxes with scores and (n, 5, 2) points."""
    bgr = np.ascontiguousarray(picture[..., ::-1])
    boxes, points = analysis.det_model.detect(bgr, input_size=(size, size))
    return boxes, points


def test_five_points_are_those_of_the_finest_pass_whatever_the_scores(analysis: Any, selfie: Pixels) -> None:
    close_up = around_the_face(selfie, 60)
    (fine, points), (coarse, _) = one_pass(analysis, close_up, 640), one_pass(analysis, close_up, 160)
    assert coarse[0, 4] > fine[0, 4]

    [found] = faces.find_faces(analysis, close_up)

    assert np.array_equal(found.keypoints, points[0])
    assert found.score == fine[0, 4]
    [detected] = faces.detect_faces(analysis, close_up)
    assert np.array_equal(detected.keypoints, points[0])


def tilted_face(selfie: Pixels) -> Pixels:
    """(352, 312, 3): a face that only the coarsest pass sees."""
    turn = cv2.getRotationMatrix2D((450, 249), 9, 1)
    return around_the_face(np.asarray(cv2.warpAffine(selfie, turn, (1024, 1024)), np.uint8), 68)


def test_a_face_that_only_a_coarse_pass_sees_is_found(analysis: Any, selfie: Pixels) -> None:
    picture = tilted_face(selfie)
    seen = [len(one_pass(analysis, picture, size)[0]) for size in (640, 320, 160)]
    assert seen == [0, 0, 1]

    [found] = faces.find_faces(analysis, picture)

    assert np.array_equal(found.keypoints, one_pass(analysis, picture, 160)[1][0])


def test_a_small_face_of_the_finest_pass_does_not_hide_a_large_one_of_a_coarse_pass(
    analysis: Any, selfie: Pixels
) -> None:
    picture = tilted_face(selfie)
    on_the_wall = cv2.resize(around_the_face(selfie, 8), (48, 58), interpolation=cv2.INTER_AREA)
    picture[2:60, 2:50] = on_the_wall
    assert [len(one_pass(analysis, picture, size)[0]) for size in (640, 320, 160)] == [1, 0, 1]

    large, small = faces.find_faces(analysis, picture)

    assert round(large.width), round(small.width) == (183, 45)
    assert np.array_equal(faces.the_one_face(analysis, picture).keypoints, large.keypoints)


def test_a_face_that_only_a_border_makes_visible_is_found_where_it_is(analysis: Any, selfie: Pixels) -> None:
    whole = faces.the_one_face(analysis, selfie)
    cut = np.ascontiguousarray(selfie[:657, 62:506])  # a fifth of the face is beyond the right edge
    assert faces.detect_faces(analysis, cut) == []

    found = faces.the_one_face(analysis, cut)

    where_it_is = whole.keypoints - (62, 0)
    assert np.abs(found.keypoints - where_it_is).max() < 5
    assert abs(found.left - (whole.left - 62)) < 8
    assert abs(found.top - whole.top) < 8
    assert found.embedding.shape == (512,)


def test_one_photo_of_somebody_else_is_left_out_of_the_mean() -> None:
    rng = np.random.default_rng(1)
    person, stranger = rng.normal(size=512), rng.normal(size=512)
    photos = [face(person + 0.1 * rng.normal(size=512)) for _ in range(3)]

    mean = faces.mean_embedding([*photos, face(stranger * 5)])

    assert np.allclose(mean, np.mean([photo.embedding for photo in photos], axis=0), atol=1e-6)


def test_the_mean_of_one_or_two_photos_is_their_plain_mean() -> None:
    first, second = face(np.ones(512)), face(np.full(512, 3.0))

    assert np.array_equal(faces.mean_embedding([first]), first.embedding)
    assert np.array_equal(faces.mean_embedding([first, second]), np.full(512, 2, np.float32))
    with pytest.raises(ValueError, match="at least one face"):
        faces.mean_embedding([])


def test_missing_models_and_a_missing_device_are_errors_that_say_so(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(Final, match="holds no"):
        faces.load_analysis(tmp_path, "cpu")
    with pytest.raises(Final, match="is missing"):
        faces.load_judge(tmp_path / "judge.onnx", "cpu")
    with pytest.raises(Final, match="was to run on cuda"):
        faces.load_analysis(bundle / "faces", "cuda")
