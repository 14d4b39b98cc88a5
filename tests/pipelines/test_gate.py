"""The bounds of the quality gate, and the file that changes them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pipelines import faces
from pipelines.errors import Final
from pipelines.gate import (
    BEST_RANK,
    LIKENESSES,
    LOWEST_RANK,
    PREVIEW,
    UNRANKED,
    Thresholds,
    likeness,
    problems,
    rank,
)

GOOD = {
    "faces": 1.0,
    "second_face": 0.0,
    "similarity": 0.7,
    "sharpness": 300.0,
    "skin_texture": 1.0,
    "clipped": 0.01,
    "saturated": 0.0,
    "cheek_distance": 5.0,
    "unnatural_colour": 0.0,
    "face_share": 0.4,
    "soft_edge": 0.02,
}


@pytest.mark.parametrize(
    ("measure", "bound", "beyond", "code"),
    [
        ("faces", 1.0, 0.0, "no_face"),
        ("second_face", 0.05, 0.06, "several_faces"),
        ("similarity", 0.40, 0.399, "not_alike"),
        ("sharpness", 45.0, 44.9, "face_blurred"),
        ("skin_texture", 0.6, 0.59, "skin_too_smooth"),
        ("skin_texture", 1.4, 1.41, "skin_too_rough"),
        ("clipped", 0.10, 0.11, "face_too_bright"),
        ("saturated", 0.05, 0.06, "oversaturated"),
        ("cheek_distance", 25.0, 25.1, "skin_tone_drift"),
        ("unnatural_colour", 2.0, 2.1, "skin_tone_drift"),
        ("soft_edge", 0.10, 0.11, "soft_edge"),
    ],
)
def test_a_value_at_its_bound_passes_and_one_beyond_names_its_problem(
    measure: str, bound: float, beyond: float, code: str
) -> None:
    assert problems(GOOD | {measure: bound}, Thresholds()) == ()
    assert problems(GOOD | {measure: beyond}, Thresholds()) == (code,)


def test_several_problems_are_named_once_each() -> None:
    bad = GOOD | {"similarity": 0.1, "cheek_distance": 90.0, "unnatural_colour": 9.0}

    assert problems(bad, Thresholds()) == ("not_alike", "skin_tone_drift")


def test_what_was_not_measured_is_no_problem_and_what_is_no_number_is_one() -> None:
    assert problems({"faces": 1.0}, Thresholds()) == ()
    assert problems(GOOD | {"similarity": math.nan}, Thresholds()) == ("not_alike",)


def test_a_gate_without_faces_lets_an_empty_picture_pass() -> None:
    assert problems({"faces": 0.0}, Thresholds(requires_face=False)) == ()


@pytest.mark.parametrize(
    ("similarity", "words"),
    [
        (0.62, "strong likeness"),
        (0.619, "good likeness"),
        (0.52, "good likeness"),
        (0.519, "fair likeness"),
        (0.40, "fair likeness"),
    ],
)
def test_likeness_is_said_in_words(similarity: float, words: str) -> None:
    assert likeness(similarity, Thresholds()) == words


def test_the_words_follow_the_calibration() -> None:
    assert likeness(0.3, Thresholds(min_similarity=0.1, good_similarity=0.2, strong_similarity=0.3)) == (
        "strong likeness"
    )


@pytest.mark.parametrize(
    ("similarity", "changes", "expected"),
    [
        (0.70, {}, 1),
        (0.70, {"cheek_distance": 12.6}, 2),
        (0.70, {"skin_texture": 0.79}, 2),
        (0.70, {"skin_texture": 1.21}, 2),
        (0.70, {"sharpness": 89.0}, 2),
        (0.55, {}, 3),
        (0.55, {"clipped": 0.051}, 4),
        (0.45, {}, 5),
        (0.45, {"unnatural_colour": 1.1, "saturated": 0.03}, 6),
    ],
)
def test_likeness_ranks_first_and_then_the_distance_from_the_other_bounds(
    similarity: float, changes: dict[str, float], expected: int
) -> None:
    measures = GOOD | {"similarity": similarity} | changes

    assert problems(measures, Thresholds()) == ()
    assert rank(measures, Thresholds()) == expected
    assert BEST_RANK <= expected <= LOWEST_RANK == 2 * len(LIKENESSES)


def test_without_a_similarity_nothing_is_ranked() -> None:
    assert rank({name: value for name, value in GOOD.items() if name != "similarity"}, PREVIEW) == UNRANKED


def test_the_preview_allows_a_little_more_than_its_photo_was_allowed() -> None:
    assert PREVIEW.min_sharpness == pytest.approx(0.6 * faces.MIN_SHARPNESS)
    assert PREVIEW.max_clipped == pytest.approx(faces.MAX_CLIPPED + 0.1)
    assert PREVIEW.max_second_face == faces.SECOND_FACE_AREA


# The file


def load(folder: Path, content: Any) -> Thresholds:
    path = folder / "calibration.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return Thresholds.load(path)


def test_without_a_file_the_defaults_hold() -> None:
    assert Thresholds.load(None) == Thresholds()


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    assert load(tmp_path, {"min_similarity": 0.3, "requires_face": False}) == Thresholds(
        min_similarity=0.3, requires_face=False
    )
    assert load(tmp_path, {}) == Thresholds()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"min_likeness": 0.3}, "min_likeness is no bound of the quality gate"),
        ({"min_similarity": "0.3"}, "min_similarity is a finite number, not '0.3'"),
        ({"min_similarity": True}, "min_similarity is a finite number, not True"),
        ({"min_similarity": None}, "min_similarity is a finite number, not None"),
        ('{"max_clipped": NaN}', "max_clipped is a finite number, not nan"),
        ('{"min_sharpness": 1e999}', "min_sharpness is a finite number, not inf"),
        ({"max_clipped": 1.1}, "max_clipped lies between 0.0 and 1.0, not at 1.1"),
        ({"min_similarity": -2}, "min_similarity lies between -1.0 and 1.0, not at -2"),
        ({"min_sharpness": -1}, "min_sharpness lies between 0.0 and inf, not at -1"),
        ({"requires_face": 1}, "requires_face is true or false, not 1"),
        ({"min_similarity": 0.6}, "min_similarity is above good_similarity"),
        ({"strong_similarity": 0.5}, "good_similarity is above strong_similarity"),
        ({"min_texture": 1.5}, "min_texture is above max_texture"),
    ],
)
def test_a_wrong_entry_is_named_with_its_file(content: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(Final) as caught:
        load(tmp_path, content)

    assert caught.value.code == "bad_calibration"
    assert str(caught.value) == f"{tmp_path}/calibration.json: {said}"


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "cannot be read"), ("{", "cannot be read"), ("[]", "is not a JSON object"), ("3", "is not a JSON")],
)
def test_a_file_that_holds_no_entries_is_named(content: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(Final, match=said) as caught:
        load(tmp_path, content)

    assert caught.value.code == "bad_calibration"


def test_a_file_that_cannot_be_opened_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(Final, match="cannot be read") as caught:
        Thresholds.load(tmp_path / "calibration.json")

    assert caught.value.code == "bad_calibration"
