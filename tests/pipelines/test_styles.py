"""The eight styles as they are first stored."""

import pytest

from pipelines.presets import FRAMINGS, HEIGHT, TOKEN_LIMIT, WIDTH, tokens_in
from pipelines.relight import LOOKS
from pipelines.scenes import SCENES, scene_of, studio
from pipelines.styles import BUILTIN, BuiltinStyle

SLUGS = ["corporate", "executive", "creative", "tech", "academic", "healthcare", "casual", "outdoor"]


def test_there_are_exactly_eight_styles_each_with_a_place_and_a_look() -> None:
    assert [style.preset.slug for style in BUILTIN] == SLUGS
    assert list(SCENES) == SLUGS
    assert list(LOOKS) == SLUGS


def test_an_administrator_s_own_style_stands_before_studio_paper() -> None:
    assert scene_of("night-club") is studio


def test_the_numbers_vary_within_their_bounds() -> None:
    presets = [style.preset for style in BUILTIN]

    assert len({preset.guidance_scale for preset in presets}) == 8
    assert {preset.framing for preset in presets} == set(FRAMINGS)
    assert all(28 <= preset.num_inference_steps <= 36 for preset in presets)


@pytest.mark.parametrize("style", BUILTIN, ids=SLUGS)
def test_a_style_is_complete_and_fits_the_text_encoder(style: BuiltinStyle) -> None:
    preset = style.preset

    assert 55 < tokens_in(preset.prompt) <= TOKEN_LIMIT
    assert 55 < tokens_in(preset.negative_prompt) <= TOKEN_LIMIT
    assert "person" in preset.subject
    assert "skin" in preset.subject
    assert style.name.lower() == preset.slug
    assert style.summary.endswith(".")


@pytest.mark.parametrize("style", BUILTIN, ids=SLUGS)
def test_a_style_holds_up_at_its_guidance(style: BuiltinStyle) -> None:
    preset = style.preset

    assert (preset.scheduler, preset.guidance_method) == ("dpmpp_2m_karras", "apg_interval")
    assert (preset.negative_identity, preset.is_face_masked) == ("noise", True)
    assert preset.ip_adapter_scale == 0.8
    assert preset.controlnet_conditioning_scale == (0.65 if preset.guidance_scale >= 10 else 0.8)
    assert (preset.loras, preset.extra_control) == ((), None)  # no style needs a file beyond the bundle's own


def test_identitynet_lets_go_between_0_85_and_the_end() -> None:
    assert {style.preset.slug: style.preset.control_guidance_end for style in BUILTIN} == {
        "corporate": 0.9,
        "executive": 0.85,
        "creative": 0.85,
        "tech": 0.9,
        "academic": 1.0,
        "healthcare": 0.95,
        "casual": 0.85,
        "outdoor": 0.95,
    }


def test_all_styles_are_taken_in_sdxl_s_own_portrait_size() -> None:
    assert (WIDTH, HEIGHT) == (896, 1152)
