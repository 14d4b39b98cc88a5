"""Starts from a picture: at the noise level that diffusers gives, and with only a region made anew."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipelines import compat

compat.install()

import torch  # noqa: E402
from diffusers import (  # noqa: E402
    AutoencoderKL,
    StableDiffusionXLControlNetImg2ImgPipeline,
)

from pipelines.errors import Refused  # noqa: E402
from pipelines.instantid.denoise import denoise_step, run  # noqa: E402
from pipelines.instantid.samples import Inpaint, Sample, initial_latents, seeded  # noqa: E402
from pipelines.instantid.schedulers import add_noise, build_schedule, step  # noqa: E402
from pipelines.instantid.start import Start, begin, blend, encode, latent_mask, region, shortened  # noqa: E402
from pipelines.presets import SCHEDULERS, PresetError  # noqa: E402
from pipelines.types import Box, Pixels, StartingPicture  # noqa: E402
from tests.pipelines.instantid.models import (  # noqa: E402
    EMBEDDING_WIDTH,
    SIZE,
    difference,
    drawn,
    face,
    keypoints,
    models,
    sample,
    stock_pipeline,
    words,
)
from tests.pipelines.instantid.test_schedulers import predicted, reference  # noqa: E402

CPU = torch.device("cpu")
POINTS = np.array([[50.0, 50.0], [78.0, 50.0], [64.0, 66.0], [53.0, 80.0], [75.0, 80.0]])

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    torch.manual_seed(7)
    return (
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            norm_num_groups=4,
            latent_channels=4,
            scaling_factor=0.13025,
            force_upcast=False,
        )
        .eval()
        .requires_grad_(False)
    )


def pixels(seed: int = 1) -> Pixels:
    coarse = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    return np.asarray(coarse.repeat(8, axis=0).repeat(8, axis=1))


def begun(
    vae: Any, picture: StartingPicture, *, scheduler: str = "euler", steps: int = 8, seed: int = 5
) -> Start:
    return begin(
        picture,
        vae=vae,
        scheduler=scheduler,
        num_inference_steps=steps,
        generator=seeded(seed),
        device=CPU,
        keypoints=POINTS,
    )


def shot(start: Start, **plan: Any) -> Sample:
    one = sample(steps=8, **plan)
    return replace(one, schedule=start.schedule, latents=start.latents, inpaint=start.inpaint)


@pytest.mark.parametrize("strength", [0.4, 1.0])
@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != "pndm"])
def test_latents_equal_those_of_the_stock_img2img_pipeline(name: str, strength: float, vae: Any):
    """Not pndm: diffusers takes its third timestep for the repeated second one, so that it lags by a step."""
    pipe = stock_pipeline(reference(name, 8), StableDiffusionXLControlNetImg2ImgPipeline)
    pipe.register_modules(vae=vae)
    faces = torch.stack([torch.zeros(EMBEDDING_WIDTH), face(0)]).reshape(2, 1, 1, -1)
    with torch.inference_mode():
        pipe.controlnet.face_tokens = pipe.unet.encoder_hid_proj([faces])[0].squeeze(1)
    pipe.set_ip_adapter_scale(0.8)
    prompt, negative = words(0), words(99)
    original = encode(vae, pixels())
    stock = pipe(
        image=original[None],
        control_image=keypoints(0)[None],
        height=SIZE,
        width=SIZE,
        strength=strength,
        num_inference_steps=8,
        guidance_scale=7.5,
        controlnet_conditioning_scale=0.8,
        prompt_embeds=prompt[0][None],
        pooled_prompt_embeds=prompt[1][None],
        negative_prompt_embeds=negative[0][None],
        negative_pooled_prompt_embeds=negative[1][None],
        ip_adapter_image_embeds=[faces],
        generator=seeded(5),
        output_type="latent",
    ).images[0]

    start = begun(vae, StartingPicture(pixels=pixels(), strength=strength), scheduler=name)
    got = run(models(), [shot(start)])[0].latents

    assert difference(got, stock) <= 1e-3


@pytest.mark.parametrize("first", [0, 1, 7, 19])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_noise_is_added_as_the_scheduler_itself_adds_it(name: str, first: int):
    scheduler = reference(name, 20)
    original, noise = drawn(1, 4, 16, 16), drawn(2, 4, 16, 16)
    schedule = build_schedule(name, 20, first=first)

    got = add_noise(schedule, 0, original, noise)

    timestep = torch.tensor([schedule.steps[0].timestep])
    kind = torch.float32 if scheduler.timesteps.is_floating_point() else torch.int64
    assert difference(got, scheduler.add_noise(original, noise, timestep.to(kind))) <= 1e-5
    assert torch.equal(add_noise(schedule, len(schedule), original, noise), original)


@pytest.mark.parametrize("first", [1, 5, 18, 19])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_steps_left_are_those_of_a_scheduler_that_begins_there(name: str, first: int):
    """Multistep ones with an empty history; pndm does its second timestep twice, as at any beginning."""
    schedule, scheduler = build_schedule(name, 20, first=first), reference(name, 20)
    timesteps = list(dict.fromkeys(scheduler.timesteps.tolist()))[first:]
    if name == "pndm":
        timesteps = timesteps[:2] + timesteps[1:]
    elif hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    generator, drawing = seeded(3), {}
    if "generator" in scheduler.step.__code__.co_varnames:
        drawing["generator"] = seeded(3)
    ours = theirs = drawn(1, 4, 16, 16)
    history: Any = ()

    assert [move.timestep for move in schedule.steps] == timesteps
    for move, timestep in zip(schedule.steps, timesteps, strict=True):
        noise_pred = predicted(ours * move.input_scale, timestep)
        ours, history = step(move, ours, noise_pred, history, generator)
        kind = torch.float32 if scheduler.timesteps.is_floating_point() else torch.int64
        told = torch.tensor(timestep, dtype=kind)
        noise_pred = predicted(scheduler.scale_model_input(theirs, told), timestep)
        theirs = scheduler.step(noise_pred, told, theirs, **drawing).prev_sample
        assert difference(ours, theirs) <= 2e-5


@pytest.mark.parametrize(
    ("steps", "strength", "left"),
    [(30, 0.5, 15), (30, 0.99, 29), (30, 0.04, 1), (50, 1.0, 50), (20, 0.05, 1)],
)
def test_strength_is_the_share_of_the_steps_that_are_left(steps: int, strength: float, left: int):
    for name in SCHEDULERS:
        extra = 1 if name == "pndm" and left > 1 else 0
        assert len(shortened(name, steps, strength)) == left + extra


@pytest.mark.parametrize(
    ("strength", "problem"),
    [
        (0.02, "strength must be at least 0.0333333 with 30 steps, else none is left; not 0.02"),
        (0.0, "strength must be above 0 and at most 1, not 0"),
        (1.01, "strength must be above 0 and at most 1, not 1.01"),
        (float("nan"), "strength must be above 0 and at most 1, not nan"),
    ],
)
def test_a_strength_that_leaves_no_step_is_refused(strength: float, problem: str):
    with pytest.raises(PresetError, match=problem):
        shortened("euler", 30, strength)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_at_strength_1_only_the_pictures_share_of_the_first_level_differs_from_pure_noise(
    name: str, vae: Any
):
    start = begun(vae, StartingPicture(pixels=pixels(), strength=1.0), scheduler=name)

    schedule = build_schedule(name, 8)
    pure = initial_latents(seeded(5), schedule, width=SIZE, height=SIZE, device=CPU)
    move = schedule.steps[0]
    unit = (1 + move.sigma**2) ** 0.5
    share = encode(vae, pixels()) / (unit * move.input_scale)
    noise = pure / schedule.init_noise_sigma * move.sigma / (unit * move.input_scale)
    assert start.schedule.steps == schedule.steps
    assert difference(start.latents, noise + share) <= 1e-5


def test_a_picture_is_encoded_to_the_mean_in_the_unets_scale(vae: Any):
    with torch.inference_mode():
        scaled = torch.from_numpy(pixels()).permute(2, 0, 1)[None] / 127.5 - 1
        want = vae.encode(scaled).latent_dist.mode()[0] * 0.13025

    assert torch.equal(encode(vae, pixels()), encode(vae, pixels()))
    assert difference(encode(vae, pixels()), want) <= 1e-6
    with pytest.raises(PresetError, match="multiples of 8, not 100 x 128"):
        encode(vae, pixels()[:, :100])


@pytest.mark.parametrize("name", SCHEDULERS)
def test_outside_of_the_mask_the_latents_are_the_picture_at_the_level_just_reached(name: str, vae: Any):
    box = Box(left=32, top=24, width=64, height=72)
    start = begun(vae, StartingPicture(pixels=pixels(), strength=0.8, inpaint=box), scheduler=name)
    scheduler = reference(name, 8)
    assert start.inpaint is not None
    outside = start.inpaint.mask == 0
    original, noise = start.inpaint.original, start.inpaint.noise
    one = shot(start)
    free = replace(one, inpaint=None, generator=seeded(0))

    moved = denoise_step(models(), [one, free])
    kept, loose = moved

    timestep = torch.tensor([one.schedule.steps[1].timestep])
    kind = torch.float32 if scheduler.timesteps.is_floating_point() else torch.int64
    level = scheduler.add_noise(original, noise, timestep.to(kind))
    assert difference(kept.latents[:, outside], level[:, outside]) <= 1e-5
    if name not in ("ddpm", "euler_a"):  # they draw
        assert torch.equal(kept.latents[:, ~outside], loose.latents[:, ~outside])
    done = run(models(), [kept])[0]
    assert torch.equal(done.latents[:, outside], original[:, outside])
    assert difference(done.latents[:, ~outside], original[:, ~outside]) > 1e-2


def test_a_batch_of_starts_equals_one_by_one(vae: Any):
    box = Box(left=32, top=24, width=64, height=72)
    pictures: list[tuple[StartingPicture, str]] = [
        (StartingPicture(pixels=pixels(1), strength=0.5), "dpmpp_2m_karras"),
        (StartingPicture(pixels=pixels(2), strength=0.8, inpaint="face"), "pndm"),
        (StartingPicture(pixels=pixels(3), strength=0.3, inpaint=box), "euler_a"),
    ]

    def shots() -> list[Sample]:
        starts = [begun(vae, picture, scheduler=name, seed=at) for at, (picture, name) in enumerate(pictures)]
        return [*(shot(start, seed=at) for at, start in enumerate(starts)), sample(steps=3, seed=9)]

    alone = [run(models(), [one])[0].latents for one in shots()]
    together = run(models(), shots())

    for one, want in zip(together, alone, strict=True):
        assert difference(one.latents, want) <= 1e-4


def test_the_pictures_pixels_outside_of_the_mask_are_kept_exactly_and_the_rim_is_soft():
    box = Box(left=32, top=24, width=64, height=72)
    picture = StartingPicture(pixels=pixels(1), strength=0.5, inpaint=box)
    mask = region(box, SIZE, SIZE)
    made = np.full_like(picture.pixels, 255)

    mixed = blend(picture, made, mask)

    inside = np.zeros((SIZE, SIZE), bool)
    inside[24:96, 32:96] = True
    assert mixed.dtype == np.uint8
    assert np.array_equal(mixed[~inside], picture.pixels[~inside])
    assert np.array_equal(
        mixed[24 + 16 : 96 - 16, 32 + 16 : 96 - 16], made[24 + 16 : 96 - 16, 32 + 16 : 96 - 16]
    )
    assert 0 < mask[60, 32] < mask[60, 40] < mask[60, 47] < 1  # a quarter of the shorter side
    assert np.abs(np.diff(mask, axis=1)).max() < 0.1
    assert blend(picture, made, None) is made


def test_the_face_is_made_anew_where_its_points_are(vae: Any):
    start = begun(vae, StartingPicture(pixels=pixels(), strength=0.5, inpaint="face"))

    assert start.mask is not None
    assert start.inpaint is not None
    assert start.mask[60, 64] == 1.0
    assert start.mask[4, 4] == 0.0
    assert start.inpaint.mask[60 // 8, 64 // 8] == 1.0
    assert start.inpaint.mask[0, 0] == 0.0


def test_a_block_of_latents_is_made_anew_wherever_a_pixel_of_it_is():
    mask = np.zeros((SIZE, SIZE), np.float32)
    mask[8, 15] = 0.01

    blocks = latent_mask(mask)

    assert blocks.shape == (16, 16)
    assert blocks.sum() == blocks[1, 1] == 1.0


def test_a_box_at_the_pictures_edge_has_no_rim_there():
    mask = region(Box(left=0, top=0, width=SIZE, height=64), SIZE, SIZE)

    assert np.all(mask[:48] == 1.0)
    assert np.all(mask[64:] == 0.0)
    assert np.all((mask[48:64] > 0.0) & (mask[48:64] < 1.0))


@pytest.mark.parametrize(
    ("box", "described"),
    [
        (Box(left=-1, top=0, width=64, height=64), r"64 x 64 at \(-1, 0\)"),
        (Box(left=65, top=0, width=64, height=64), r"64 x 64 at \(65, 0\)"),
        (Box(left=0, top=100, width=64, height=64), r"64 x 64 at \(0, 100\)"),
        (Box(left=0, top=0, width=64, height=63), r"64 x 63 at \(0, 0\)"),
    ],
    ids=str,
)
def test_a_box_outside_of_the_picture_or_too_small_is_refused(box: Box, described: str):
    with pytest.raises(PresetError, match=f"an inpaint box must lie in the 128 x 128 picture.*{described}"):
        region(box, SIZE, SIZE)


def test_a_face_needs_its_points():
    with pytest.raises(ValueError, match="needs the five points"):
        region("face", SIZE, SIZE)
    with pytest.raises(Refused, match="one point"):
        region("face", SIZE, SIZE, np.zeros((5, 2)))


def test_without_inpaint_nothing_is_put_back(vae: Any):
    start = begun(vae, StartingPicture(pixels=pixels(), strength=0.5))

    assert start.inpaint is None
    assert start.mask is None


def test_an_inpaint_of_everything_equals_none(vae: Any):
    start = begun(vae, StartingPicture(pixels=pixels(), strength=0.5))
    everything = Inpaint(original=encode(vae, pixels()), noise=drawn(1, 4, 16, 16), mask=torch.ones(16, 16))

    got = run(models(), [replace(shot(start), inpaint=everything)])[0].latents

    assert torch.equal(got, run(models(), [shot(start)])[0].latents)
