"""The denoising loop against diffusers' own pipeline, and its promises about batches, rows and seeds."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import compat

compat.install()

import torch  # noqa: E402

from pipelines.errors import Final  # noqa: E402
from pipelines.instantid.denoise import denoise_step, run  # noqa: E402
from pipelines.instantid.samples import Sample, require_finite, seeded  # noqa: E402
from pipelines.instantid.schedulers import build_schedule  # noqa: E402
from pipelines.presets import GUIDANCE_METHODS, SCHEDULERS  # noqa: E402
from tests.pipelines.instantid.models import (  # noqa: E402
    EMBEDDING_WIDTH,
    SIZE,
    conditioning,
    difference,
    face,
    keypoints,
    models,
    sample,
    stock_pipeline,
    words,
)
from tests.pipelines.instantid.test_schedulers import reference  # noqa: E402

LATENT = SIZE // 8

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small lose more by waiting for a busy second core than they win by it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rendered(**plan: Any) -> torch.Tensor:
    return run(models(), [sample(**plan)])[0].latents


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Forwards and rows of both networks while it is open."""
    counts: Counter[str] = Counter()

    def count(name: str) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            counts[name] += 1
            counts[f"{name} rows"] += len(args[0])

        return hook

    networks = {"unet": models().unet, "identitynet": models().identitynet}
    hooks = [
        network.register_forward_pre_hook(count(name), with_kwargs=True) for name, network in networks.items()
    ]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("window", [1.0, 0.6])
def test_latents_equal_those_of_the_stock_pipeline(name: str, window: float):
    pipe = stock_pipeline(reference(name, 8))
    faces = torch.stack([torch.zeros(EMBEDDING_WIDTH), face(0)]).reshape(2, 1, 1, -1)
    with torch.inference_mode():
        pipe.controlnet.face_tokens = pipe.unet.encoder_hid_proj([faces])[0].squeeze(1)
    pipe.set_ip_adapter_scale(0.8)
    prompt, negative = words(0), words(99)
    stock = pipe(
        image=keypoints(0)[None],
        height=SIZE,
        width=SIZE,
        num_inference_steps=8,
        guidance_scale=7.5,
        controlnet_conditioning_scale=0.8,
        control_guidance_end=window,
        prompt_embeds=prompt[0][None],
        pooled_prompt_embeds=prompt[1][None],
        negative_prompt_embeds=negative[0][None],
        negative_pooled_prompt_embeds=negative[1][None],
        ip_adapter_image_embeds=[faces],
        generator=seeded(5),
        output_type="latent",
    ).images[0]

    got = rendered(scheduler=name, steps=8, control_guidance_end=window)

    assert difference(got, stock) <= 1e-3


MIXED: tuple[dict[str, Any], ...] = (
    {"seed": 1, "scheduler": "euler", "guidance": ("plain", 7.0), "ip_adapter_scale": 0.8},
    {
        "seed": 2, "scheduler": "dpmpp_2m_karras", "guidance": ("apg_interval", 9.5), "steps": 6,
        "told": {"prompt": 1, "identity": 1, "pose": 1, "negative": "noise"},
        "ip_adapter_scale": 0.4, "controlnet_conditioning_scale": 1.1, "control_guidance_end": 0.6,
    },
    {
        "seed": 3, "scheduler": "ddpm", "guidance": ("rescale", 12.0), "steps": 5,
        "told": {"prompt": 2, "identity": 2, "pose": 2, "negative": "same"},
        "ip_adapter_scale": 1.2, "controlnet_conditioning_scale": 0.3, "control_guidance_start": 0.4,
    },
    {
        "seed": 4, "scheduler": "pndm", "guidance": ("apg", 8.0),
        "told": {"prompt": 3, "identity": 3, "pose": 3}, "ip_adapter_scale": 0.0,
        "controlnet_conditioning_scale": 0.0, "mask": torch.linspace(0, 1, LATENT).expand(LATENT, LATENT),
    },
)  # fmt: skip


def advanced(plan: dict[str, Any], steps: int) -> Sample:
    """The sample of `plan` after some steps alone."""
    one = sample(**plan)
    for _ in range(steps):
        one = denoise_step(models(), [one])[0]
    return one


def assert_batch_equals_one_by_one(plans: list[dict[str, Any]], ahead: list[int]) -> None:
    alone = [rendered(**plan) for plan in plans]

    together = run(models(), [advanced(plan, by) for plan, by in zip(plans, ahead, strict=True)])

    for one, want in zip(together, alone, strict=True):
        assert difference(one.latents, want) <= 1e-4


def test_a_mixed_batch_at_different_steps_equals_one_by_one():
    assert_batch_equals_one_by_one(list(MIXED), ahead=[0, 3, 1, 2])


_PLANS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**31),
        "scheduler": st.sampled_from(SCHEDULERS),
        "steps": st.integers(2, 4),
        "guidance": st.tuples(st.sampled_from(GUIDANCE_METHODS), st.sampled_from([7.0, 8.0, 9.5, 12.0])),
        "told": st.fixed_dictionaries(
            {
                "prompt": st.integers(0, 2),
                "identity": st.integers(0, 2),
                "negative": st.sampled_from(["zeros", "noise", "same"]),
            }
        ),
        "ip_adapter_scale": st.sampled_from([0.0, 0.5, 1.5]),
        "controlnet_conditioning_scale": st.sampled_from([0.0, 0.5, 1.5]),
        "control_guidance_start": st.sampled_from([0.0, 0.3]),
        "control_guidance_end": st.sampled_from([0.7, 1.0]),
        "mask": st.sampled_from([None, MIXED[3]["mask"]]),
    }
)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    plans=st.lists(_PLANS, min_size=2, max_size=4), ahead=st.lists(st.integers(0, 2), min_size=4, max_size=4)
)
def test_any_batch_equals_one_by_one(plans: list[dict[str, Any]], ahead: list[int]):
    assert_batch_equals_one_by_one(plans, ahead[: len(plans)])


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 6},
        {"told": {"identity": 1}},
        {"told": {"prompt": 1}},
        {"told": {"pose": 1}},
        {"told": {"negative": "noise"}},
        {"guidance": ("plain", 8.0)},
        {"guidance": ("rescale", 7.5)},
        {"guidance": ("apg", 7.5)},
        {"guidance": ("interval", 7.5)},
        {"ip_adapter_scale": 0.5},
        {"ip_adapter_scale": 0.0},
        {"controlnet_conditioning_scale": 0.5},
        {"controlnet_conditioning_scale": 0.0},
        {"control_guidance_end": 0.5},
        {"control_guidance_start": 0.5},
        {"mask": torch.zeros(LATENT, LATENT)},
        {"scheduler": "ddim"},
    ],
    ids=str,
)
def test_each_part_of_the_plan_changes_the_picture(change: dict[str, Any]):
    assert difference(rendered(**change), rendered()) > 1e-4  # rounding is below 1e-5


@pytest.mark.parametrize("part", ["keys_values", "identitynet_keys_values"])
def test_the_face_acts_through_the_adapter_and_through_identitynet(part: str):
    """Either branch alone carries another person: none of the two is unplugged."""
    told = conditioning()
    other = conditioning(identity=1).identity
    identity = replace(told.identity, **{part: getattr(other, part)})
    one = replace(sample(), conditioning=replace(told, identity=identity))

    assert difference(run(models(), [one])[0].latents, rendered()) > 1e-3


def test_an_empty_mask_equals_no_face_and_a_full_one_equals_no_mask():
    off = {"ip_adapter_scale": 0.0, "controlnet_conditioning_scale": 0.0}

    assert difference(rendered(mask=torch.zeros(LATENT, LATENT)), rendered(**off)) <= 1e-5
    assert difference(rendered(mask=torch.ones(LATENT, LATENT)), rendered()) <= 1e-5


def test_equal_plans_give_equal_bytes_and_nearly_so_in_any_position():
    plan = MIXED[1]
    others = [MIXED[0], MIXED[2], MIXED[3]]

    first, second = rendered(**plan), rendered(**plan)
    in_batches = [
        run(models(), [sample(**one) for one in [*others[:at], plan, *others[at:]]])[at].latents
        for at in range(4)
    ]

    assert torch.equal(first, second)
    assert all(difference(latents, first) <= 1e-5 for latents in in_batches)


def test_rows_that_do_not_count_are_not_computed():
    steps = 10
    schedule = build_schedule("euler", steps)
    inside = sum(0.28 < move.sigma <= 5.42 for move in schedule.steps)
    plan = {"steps": steps, "guidance": ("interval", 9.0), "control_guidance_end": 0.8}

    with counted() as counts:
        rendered(**plan)

    windowed = sum(2 if 0.28 < move.sigma <= 5.42 else 1 for move in schedule.steps[:8])
    assert 0 < inside < steps
    assert counts == {
        "unet": steps, "unet rows": steps + inside, "identitynet": 8, "identitynet rows": windowed,
    }  # fmt: skip


def test_a_batch_is_one_call_of_each_network_with_only_the_rows_that_count():
    batch = [
        sample(seed=1),
        sample(seed=2, controlnet_conditioning_scale=0.0),
        sample(seed=3, steps=20, guidance=("interval", 9.0)),  # starts above the interval
        sample(seed=4, control_guidance_start=0.5),
    ]

    with counted() as counts:
        denoise_step(models(), batch)

    assert counts == {"unet": 1, "unet rows": 7, "identitynet": 1, "identitynet rows": 3}


def test_identitynet_is_not_called_where_no_row_asks_for_it():
    with counted() as counts:
        rendered(controlnet_conditioning_scale=0.0)

    assert counts == {"unet": 4, "unet rows": 8}


def test_progress_is_told_after_each_step_and_a_cancelled_shot_stops_between_steps():
    told: list[tuple[str, int]] = []

    def cancelled(shot_id: str) -> bool:
        return ("shot-2", 2) in told and shot_id == "shot-2"

    done = run(
        models(),
        [sample(seed=1), sample(seed=2), sample(seed=3, steps=2)],
        on_step=lambda one: told.append((one.shot_id, one.position)),
        cancelled=cancelled,
    )

    assert [one.shot_id for one in done] == ["shot-1", "shot-3"]
    assert Counter(shot_id for shot_id, _ in told) == {"shot-1": 4, "shot-2": 2, "shot-3": 2}
    assert difference(done[0].latents, rendered(seed=1)) <= 1e-4


def test_nothing_to_do_is_done():
    assert denoise_step(models(), []) == []
    assert run(models(), []) == []


def test_nan_is_a_final_error_of_its_shot_and_leaves_the_others_alone():
    good, bad = sample(seed=1), sample(seed=2)
    bad = replace(bad, latents=torch.full_like(bad.latents, float("nan")))

    left, broken = denoise_step(models(), [good, bad])

    assert difference(left.latents, advanced({"seed": 1}, 1).latents) <= 1e-5
    with pytest.raises(Final, match="shot-2") as error:
        require_finite(broken)
    assert error.value.code == "nan_latents"
    with pytest.raises(Final, match="not finite"):
        run(models(), [bad])


def test_the_cache_is_read_and_the_projections_are_not_called_again():
    calls: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
        for network in (models().unet, models().identitynet)
        for name, module in network.named_modules()
        if name.endswith(("attn2.to_k", "attn2.to_v"))
    ] + [
        module.register_forward_pre_hook(lambda *_: calls.append("once"))
        for module in (models().resampler, models().condition_embedding)
    ]

    one = sample()
    denoise_step(models(), [one])

    for hook in hooks:
        hook.remove()
    assert calls == []


def test_bfloat16_networks_keep_latents_in_float32_and_stay_near():
    coarse = models(torch.bfloat16)
    told = conditioning(dtype=torch.bfloat16)

    got = run(coarse, [replace(sample(), conditioning=told)])[0].latents

    assert coarse.dtype == told.control.dtype == told.prompt.keys_values.dtype == torch.bfloat16
    assert got.dtype == torch.float32
    assert 1e-5 < difference(got, rendered()) < 0.1


def test_sizes_that_do_not_halve_evenly_take_masks():
    height, width = 15, 17
    plan = {"size": (8 * width, 8 * height), "told": {"size": (8 * width, 8 * height)}}

    got = rendered(mask=torch.ones(height, width), **plan)

    assert got.shape == (4, height, width)
    assert difference(got, rendered(**plan)) <= 1e-5
