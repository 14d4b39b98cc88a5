"""A preset's numbers: what stands at a bound is taken, what stands just outside is refused with a reason."""

import math
from typing import Any

import pytest

from pipelines import presets
from pipelines.presets import ExtraControl, Lora, PresetError, StylePreset, tokens_in

PATHS = [
    "../corporate",
    "..",
    ".",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "film.safetensors",
    "film\x00grain",
    "film grain",
    "film\n",
    "",
    "-rf",
    "_film",
    "Film",
    "fílm",
    "a" * 65,
]
BOUNDS = [
    ("guidance_scale", 7.0, 12.0, 0.1),
    ("num_inference_steps", 20, 50, 1),
    ("ip_adapter_scale", 0.0, 1.5, 0.01),
    ("controlnet_conditioning_scale", 0.0, 1.5, 0.01),
    ("control_guidance_end", 0.5, 1.0, 0.01),
]
NAMES = [
    ("scheduler", presets.SCHEDULERS),
    ("guidance_method", presets.GUIDANCE_METHODS),
    ("framing", presets.FRAMINGS),
    ("negative_identity", presets.NEGATIVE_IDENTITIES),
]


def preset(**changes: Any) -> StylePreset:
    words = dict.fromkeys((*presets.PROMPT_PARTS, "negative_prompt"), "")
    return StylePreset(**{"slug": "stage", **words, "guidance_scale": 8.0, **changes})


def control(**changes: Any) -> ExtraControl:
    usual = {"kind": "canny", "image": "arch", "conditioning_scale": 0.4, "end": 0.5}
    return ExtraControl(**{**usual, **changes})


def lora(**changes: Any) -> Lora:
    return Lora(**{"name": "film-grain", "weight": 0.6, **changes})


@pytest.mark.parametrize(("field", "low", "high", "step"), BOUNDS, ids=[row[0] for row in BOUNDS])
def test_a_number_is_taken_from_bound_to_bound_and_refused_beyond(
    field: str, low: float, high: float, step: float
) -> None:
    for value in (low, low + step, high - step, high):
        assert getattr(preset(**{field: value}), field) == value
    for value in (low - step, high + step, math.nan, math.inf, -math.inf):
        with pytest.raises(PresetError) as refused:
            preset(**{field: value})
        assert str(refused.value) == f"{field} must be between {low:g} and {high:g}, not {value:g}"


def test_the_smallest_step_beyond_guidance_7_to_12_is_refused() -> None:
    for value in (math.nextafter(7.0, 0.0), math.nextafter(12.0, 13.0)):
        with pytest.raises(PresetError, match="guidance_scale must be between 7 and 12"):
            preset(guidance_scale=value)


@pytest.mark.parametrize(("field", "known"), NAMES, ids=[row[0] for row in NAMES])
def test_a_name_is_one_of_those_known(field: str, known: tuple[str, ...]) -> None:
    for name in known:
        assert getattr(preset(**{field: name}), field) == name
    for name in ("", known[0].upper(), "heun"):
        with pytest.raises(PresetError) as refused:
            preset(**{field: name})
        assert str(refused.value) == f"{field} must be one of {', '.join(known)}, not {name!r}"


@pytest.mark.parametrize("name", PATHS)
def test_a_lora_or_image_whose_name_could_be_a_path_is_refused(name: str) -> None:
    with pytest.raises(PresetError, match=r"^lora must be 1 to 64 of a-z, 0-9, - and _, not "):
        lora(name=name)
    with pytest.raises(PresetError, match=r"^control image must be 1 to 64 of a-z, 0-9, - and _, not "):
        control(image=name)


@pytest.mark.parametrize("name", ["a", "0", "film-grain_2", "a" * 64])
def test_a_plain_file_name_is_taken(name: str) -> None:
    assert lora(name=name).name == name
    assert control(image=name).image == name


def test_a_lora_s_weight_stays_in_its_bounds() -> None:
    for weight in (0.0, 0.01, 1.49, 1.5):
        assert lora(weight=weight).weight == weight
    for weight in (-0.01, 1.51, math.nan, math.inf):
        with pytest.raises(PresetError, match=r"^lora weight must be between 0 and 1.5, not "):
            lora(weight=weight)


def test_up_to_four_different_loras_are_taken() -> None:
    four = tuple(lora(name=f"film-{number}") for number in range(4))

    assert preset(loras=()).loras == ()
    assert preset(loras=four).loras == four
    for refused in ((*four, lora(name="film-4")), (lora(weight=0.1), lora(weight=0.2))):
        with pytest.raises(PresetError, match=r"^loras must be at most 4 different ones$"):
            preset(loras=refused)


def test_an_extra_control_stays_in_its_bounds() -> None:
    for field, low, high in (("conditioning_scale", 0.0, 1.5), ("end", 0.0, 1.0)):
        for value in (low, low + 0.01, high - 0.01, high):
            assert getattr(control(**{field: value}), field) == value
        for value in (low - 0.01, high + 0.01, math.nan):
            with pytest.raises(PresetError) as refused:
                control(**{field: value})
            assert str(refused.value) == (
                f"control {field} must be between {low:g} and {high:g}, not {value:g}"
            )
    assert [control(kind=kind).kind for kind in presets.CONTROL_KINDS] == ["canny", "depth", "pose"]
    with pytest.raises(PresetError, match=r"^control kind must be one of canny, depth, pose, not 'tile'$"):
        control(kind="tile")


def test_presets_are_equal_when_all_their_numbers_are() -> None:
    first = preset(loras=(lora(),), extra_control=control())

    assert first == preset(loras=(lora(),), extra_control=control())
    assert first != preset(loras=(lora(weight=0.5),), extra_control=control())
    assert first != preset(loras=(lora(),), extra_control=control(end=1.0))
    assert first != preset(loras=(lora(),), extra_control=None)


def test_the_prompt_is_its_filled_parts_in_order() -> None:
    parts = preset(composition="close", subject=" a person ", lens="85mm", mood="  ")

    assert parts.prompt == "a person, 85mm, close"


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [("", 0), ("person", 1), ("a person, smiling", 4), ("85mm lens, f/2.8", 10), ("grey-blue café_au", 6)],
)
def test_tokens_are_words_digits_and_marks_and_a_third_more(prompt: str, pieces: int) -> None:
    assert tokens_in(prompt) == math.ceil(1.3 * pieces)
