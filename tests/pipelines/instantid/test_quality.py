"""The report on a rendered picture: the sample selfie, made worse step by step, and the gate's verdict."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines.gate import Thresholds
from pipelines.images import decode_jpeg
from pipelines.instantid import faces
from pipelines.instantid.quality import Reference, assess_headshot, make_reference
from pipelines.instantid.tiny_faces import make_detector, make_recogniser
from pipelines.sample import sample_selfie
from pipelines.types import Pixels, QualityReport

pytestmark = [pytest.mark.filterwarnings("ignore:.*estimate.*:FutureWarning"), pytest.mark.slow]

Assess = Callable[..., QualityReport]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """insightface's analysis and judge on the face part of a tiny bundle."""
    folder: Path = tmp_path_factory.mktemp("faces")
    make_detector(folder / "detector.onnx")
    make_recogniser(folder / "recogniser.onnx", seed=1, pool=14)
    judge = tmp_path_factory.mktemp("judge") / "judge.onnx"
    make_recogniser(judge, seed=2, pool=7)
    return faces.load_analysis(folder, "cpu"), faces.load_judge(judge, "cpu")


@pytest.fixture(scope="module")
def selfie() -> Pixels:
    pixels = decode_jpeg(sample_selfie())
    pixels.flags.writeable = False
    return pixels


@pytest.fixture(scope="module")
def reference(models: tuple[Any, Any], selfie: Pixels) -> Reference:
    analysis, judge = models
    return make_reference(selfie, faces.the_one_face(analysis, selfie), judge)


@pytest.fixture
def assess(models: tuple[Any, Any], reference: Reference) -> Assess:
    def report(picture: Pixels, **changes: Any) -> QualityReport:
        analysis, judge = models
        values = {"is_unsafe": False, "thresholds": Thresholds(), "reference": reference} | changes
        return assess_headshot(picture, values.pop("reference"), analysis=analysis, judge=judge, **values)

    return report


def blurred(picture: Pixels, sigma: float) -> Pixels:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.uint8)


def exposed(picture: Pixels, factor: float) -> Pixels:
    return np.clip(picture * factor, 0, 255).astype(np.uint8)


def noisy(picture: Pixels, strength: float) -> Pixels:
    noise = np.random.default_rng(0).normal(0, strength, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def saturated(picture: Pixels, factor: float) -> Pixels:
    hsv = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hsv[..., 1] = np.clip(hsv[..., 1] * factor, 0, 1)
    return np.round(255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)).astype(np.uint8)


def tinted(picture: Pixels, a: float, b: float, lightness: float = 0.0) -> Pixels:
    """All colours moved by so many steps of CIELAB."""
    lab = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2Lab) + np.float32((lightness, a, b))
    return np.round(255 * np.clip(cv2.cvtColor(lab, cv2.COLOR_Lab2RGB), 0, 1)).astype(np.uint8)


# A picture as good as the selfie


def test_the_selfie_itself_passes_and_is_like_itself(assess: Assess, selfie: Pixels) -> None:
    report = assess(selfie)

    assert report.problems == ()
    assert (report.likeness, report.rank) == ("strong likeness", 2)  # it could be sharper
    assert report.measures == {
        "faces": 1.0,
        "second_face": 0.0,
        "face_share": pytest.approx(0.211, abs=0.01),
        "similarity": pytest.approx(1, abs=1e-5),
        "sharpness": pytest.approx(61, abs=2),
        "clipped": pytest.approx(0.008, abs=0.003),
        "saturated": pytest.approx(0.002, abs=0.002),
        "skin_texture": 1.0,
        "cheek_distance": 0.0,
        "unnatural_colour": 0.0,
    }
    assert all(type(value) is float for value in report.measures.values())


def test_the_reference_shows_no_embedding_when_it_is_printed(reference: Reference) -> None:
    assert reference.embedding.shape == (512,)
    assert "embedding" not in repr(reference)


# The series


def test_blur_takes_sharpness_and_texture_until_both_are_problems(assess: Assess, selfie: Pixels) -> None:
    series = [assess(selfie), *(assess(blurred(selfie, sigma)) for sigma in (1, 2, 4))]

    for name in ("sharpness", "skin_texture"):
        values = [report.measures[name] for report in series]
        assert values == sorted(values, reverse=True)
        assert values[-1] < 0.4 * values[0]
    assert series[1].problems == ("face_blurred",)
    assert series[2].problems == series[3].problems == ("face_blurred", "skin_too_smooth")


def test_noise_makes_skin_too_rough(assess: Assess, selfie: Pixels) -> None:
    series = [assess(noisy(selfie, strength)) for strength in (3, 6, 12)]

    values = [report.measures["skin_texture"] for report in series]
    assert 1.0 < values[0] < values[1] < 1.4 < values[2]
    assert series[1].problems == ()
    assert series[2].problems == ("skin_too_rough",)


def test_overexposure_clips_the_face(assess: Assess, selfie: Pixels) -> None:
    series = [assess(exposed(selfie, factor)) for factor in (1.0, 1.03, 1.1, 1.2)]

    values = [report.measures["clipped"] for report in series]
    assert values == sorted(values)
    assert values[0] < 0.01 < 0.2 < values[2] < 0.5 < values[3]
    assert series[2].problems == ("face_too_bright",)


def test_a_push_of_saturation_is_oversaturated_before_its_colour_drifts(
    assess: Assess, selfie: Pixels
) -> None:
    series = [assess(saturated(selfie, factor)) for factor in (1.0, 1.5, 2.0, 2.5)]

    values = [report.measures["saturated"] for report in series]
    assert values == sorted(values)
    assert [report.problems for report in series] == [
        (),
        (),
        ("oversaturated",),
        ("oversaturated", "skin_tone_drift"),
    ]


@pytest.mark.parametrize(
    ("a", "b", "lightness", "distance"), [(0, 10, 0, 10), (0, 20, 0, 20), (0, 6, -8, 10), (0, 0, -10, 10)]
)
def test_a_tint_moves_the_cheeks_by_as_much(
    a: float, b: float, lightness: float, distance: float, assess: Assess, selfie: Pixels
) -> None:
    report = assess(tinted(selfie, a, b, lightness))

    assert report.measures["cheek_distance"] == pytest.approx(distance, abs=0.3)
    assert report.problems == ()


def test_a_strong_tint_is_another_skin_tone(assess: Assess, selfie: Pixels) -> None:
    # Nothing but the distance is out of bounds: the colour stays one that skin has.
    darker = assess(tinted(selfie, 0, 0, -30), thresholds=Thresholds(min_sharpness=0))

    assert darker.measures["cheek_distance"] == pytest.approx(30, abs=0.3)
    assert darker.measures["unnatural_colour"] == 0.0
    assert darker.problems == ("skin_tone_drift",)


def test_a_colour_that_no_skin_has_is_drift_however_near_it_is(assess: Assess, selfie: Pixels) -> None:
    blue = assess(tinted(selfie, 0, -12))

    assert blue.measures["cheek_distance"] < 13  # b* was 14
    assert blue.measures["unnatural_colour"] == pytest.approx(3, abs=0.5)
    assert blue.problems == ("skin_tone_drift",)


def test_a_selfie_in_coloured_light_does_not_condemn_pictures_like_it(
    models: tuple[Any, Any], assess: Assess, selfie: Pixels
) -> None:
    analysis, judge = models
    blue = tinted(selfie, 0, -12)
    reference = make_reference(blue, faces.the_one_face(analysis, blue), judge)

    assert assess(blue, reference=reference).problems == ()


# Faces


def test_a_picture_without_a_face_has_nothing_else_measured(assess: Assess, selfie: Pixels) -> None:
    empty = np.full_like(selfie, 90)

    assert assess(empty) == QualityReport(measures={"faces": 0.0}, problems=("no_face",))
    assert assess(empty, thresholds=Thresholds(requires_face=False)).problems == ()


def test_two_people_are_one_too_many(assess: Assess, selfie: Pixels) -> None:
    half = selfie[:, 192:704]
    report = assess(np.concatenate([half, half], axis=1))

    assert report.measures["faces"] == 2.0
    assert report.measures["second_face"] == pytest.approx(1, abs=0.01)
    assert report.problems == ("several_faces",)


def test_somebody_else_is_not_alike(assess: Assess, reference: Reference, selfie: Pixels) -> None:
    stranger = replace(reference, embedding=np.roll(reference.embedding, 7))

    report = assess(selfie, reference=stranger)

    assert abs(report.measures["similarity"]) < 0.2
    assert report.problems == ("not_alike",)
    assert assess(selfie, reference=replace(reference, embedding=-reference.embedding)).measures[
        "similarity"
    ] == pytest.approx(-1, abs=1e-5)


def test_the_mirrored_selfie_is_less_alike_but_has_the_same_skin(assess: Assess, selfie: Pixels) -> None:
    report = assess(selfie[:, ::-1])

    assert 0.4 < report.measures["similarity"] < 0.9
    assert report.measures["skin_texture"] == pytest.approx(1, abs=0.05)
    assert report.measures["cheek_distance"] < 0.5


def test_what_the_selfie_does_not_show_is_not_compared(
    assess: Assess, reference: Reference, selfie: Pixels
) -> None:
    report = assess(selfie, reference=replace(reference, texture=None, cheeks=None))

    assert set(report.measures) & {"skin_texture", "cheek_distance", "unnatural_colour"} == set()
    assert report.problems == ()


def test_an_unsafe_picture_is_refused_whatever_else_is_good(assess: Assess, selfie: Pixels) -> None:
    assert assess(selfie, is_unsafe=True).problems == ("unsafe",)
    assert assess(
        np.zeros_like(selfie), is_unsafe=True, thresholds=Thresholds(requires_face=False)
    ).problems == ("unsafe",)


@pytest.mark.parametrize("is_empty", [True, False])
def test_a_picture_costs_one_detection_and_at_most_one_embedding(
    is_empty: bool, models: tuple[Any, Any], assess: Assess, selfie: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: calls.append(name) or function(*args, **kwargs)

    analysis, judge = models
    recogniser = analysis.models["recognition"]
    monkeypatch.setattr(analysis.det_model, "detect", counted("detect", analysis.det_model.detect))
    monkeypatch.setattr(recogniser, "get_feat", counted("describe", recogniser.get_feat))
    monkeypatch.setattr(judge, "get_feat", counted("judge", judge.get_feat))

    assess(np.full_like(selfie, 90) if is_empty else selfie)

    one_detection = ["detect"] * len(faces.DET_SIZES)  # one look at each size
    assert calls == (one_detection if is_empty else [*one_detection, "judge"])
