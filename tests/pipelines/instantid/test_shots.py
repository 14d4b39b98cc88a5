"""What a shot begins with: the person over one or several photos, prompts of any length, the seed's part."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.instantid import shots
from pipelines.instantid.conditioning import Prompt
from pipelines.instantid.denoise import denoise_step
from pipelines.instantid.engine import InstantIdEngine
from pipelines.instantid.loading import Parts
from pipelines.instantid.samples import Sample
from pipelines.instantid.shots import Prompts, begin, make_person
from pipelines.presets import PROMPT_PARTS, StylePreset
from pipelines.styles import BUILTIN
from pipelines.types import OutputSpec, Pixels, ShotRequest

pytestmark = pytest.mark.filterwarnings("ignore:.*estimate.*:FutureWarning")

STYLE = BUILTIN[0].preset


def shot(engine: InstantIdEngine, portrait: Pixels, preset: StylePreset = STYLE, seed: int = 5) -> Sample:
    request = ShotRequest(
        shot_id="shot",
        identity="one",
        portrait=portrait,
        preset=preset,
        seeds=(seed,),
        output=OutputSpec(long_edge=1152, is_watermarked=True),
    )
    person = make_person(engine.parts, portrait)
    return begin(engine.parts, Prompts(engine.parts), person, request, seed).sample


def test_several_photos_of_a_person_are_averaged(parts: Parts, selfie: Pixels) -> None:
    darker = (selfie * 0.7).astype(np.uint8)
    first, second = (make_person(parts, photo) for photo in (selfie, darker))
    both = make_person(parts, selfie, (darker,))
    assert torch.allclose(both.embedding, (first.embedding + second.embedding) / 2)
    assert np.array_equal(both.face.keypoints, first.face.keypoints)


def test_every_number_of_the_style_reaches_the_loop(engine: InstantIdEngine, selfie: Pixels) -> None:
    preset = replace(
        STYLE,
        guidance_scale=9.5,
        guidance_method="rescale",
        scheduler="euler",
        num_inference_steps=23,
        ip_adapter_scale=0.7,
        controlnet_conditioning_scale=0.6,
        control_guidance_end=0.85,
        is_face_masked=False,
    )
    sample = shot(engine, selfie, preset)
    assert (sample.guidance.method, sample.guidance.scale) == ("rescale", 9.5)
    assert (sample.schedule.name, len(sample.schedule)) == ("euler", 23)
    scales = sample.ip_adapter_scale, sample.controlnet_conditioning_scale, sample.control_guidance_end
    assert scales == (0.7, 0.6, 0.85)
    assert sample.mask is None
    masked = shot(engine, selfie).mask
    assert masked is not None
    assert (masked.shape, float(masked.min()), float(masked.max())) == ((144, 112), 0.0, 1.0)
    assert sample.latents.shape == (4, 144, 112)


def test_the_seed_moves_the_face_and_the_noise_and_nothing_else(
    engine: InstantIdEngine, selfie: Pixels
) -> None:
    one, same, other = (shot(engine, selfie, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(one.latents, same.latents)
    assert torch.equal(one.conditioning.control, same.conditioning.control)
    assert not torch.equal(one.latents, other.latents)
    assert not torch.equal(one.conditioning.control, other.conditioning.control)
    assert torch.equal(one.conditioning.prompt.keys_values, other.conditioning.prompt.keys_values)
    assert torch.equal(one.conditioning.identity.keys_values, other.conditioning.identity.keys_values)


def test_a_short_and_a_long_prompt_share_a_batch_and_change_nothing_for_each_other(
    engine: InstantIdEngine, selfie: Pixels
) -> None:
    brief = replace(STYLE, setting="", lighting="", lens="", mood="", composition="", negative_prompt="x")
    short, long = shot(engine, selfie, brief), shot(engine, selfie)
    tokens = [len(sample.conditioning.prompt.keys_values) for sample in (short, long)]
    assert tokens[0] < tokens[1]
    alone = [denoise_step(engine.parts.models, [sample])[0] for sample in (short, long)]
    together = denoise_step(engine.parts.models, [short, long])
    for one, other in zip(alone, together, strict=True):
        difference = (one.latents - other.latents).abs().max() / one.latents.abs().max()
        assert float(difference) <= 1e-5


def pair_bytes(pair: tuple[Prompt, Prompt]) -> int:
    return sum(prompt.keys_values.nbytes + prompt.pooled.nbytes for prompt in pair)


def test_prompts_are_kept_up_to_their_bytes_and_those_used_last_stay(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (builtin.preset for builtin in BUILTIN[:3])
    prompts = Prompts(parts)
    monkeypatch.setattr(shots, "MAX_PROMPT_BYTES", 2 * pair_bytes(prompts.of(first)))

    kept = prompts.of(first)
    before = prompts.of(second)
    assert prompts.of(first) is kept
    prompts.of(third)

    assert prompts.of(first) is kept
    assert prompts.of(second) is not before
    assert torch.equal(prompts.of(second)[0].keys_values, before[0].keys_values)


def of_one_window(subject: str) -> StylePreset:
    parts = dict.fromkeys(PROMPT_PARTS, "") | {"subject": subject, "negative_prompt": "blur"}
    return replace(STYLE, **parts)  # type: ignore[arg-type]


def test_a_long_prompt_counts_as_much_as_it_takes(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = Prompts(parts)
    short, second = prompts.of(of_one_window("man")), prompts.of(of_one_window("woman"))
    assert pair_bytes(short) == pair_bytes(second)
    monkeypatch.setattr(shots, "MAX_PROMPT_BYTES", 3 * pair_bytes(short))

    kept = prompts.of(STYLE)

    assert kept[0].keys_values.shape[0] == 4 * short[0].keys_values.shape[0]
    assert prompts.of(STYLE) is kept  # the last one stays, however large
    assert prompts.of(of_one_window("woman")) is not second
    assert prompts.of(of_one_window("man")) is not short


def test_all_built_in_styles_at_full_size_are_kept() -> None:
    layers = {640: 10, 1280: 60}  # of SDXL's UNet: width and number of its cross-attentions
    columns = sum(2 * width * count for width, count in layers.items())
    pair_of_77_tokens = 2 * 77 * columns * 2

    assert pair_of_77_tokens == 51_251_200
    assert len(BUILTIN) * pair_of_77_tokens < shots.MAX_PROMPT_BYTES
