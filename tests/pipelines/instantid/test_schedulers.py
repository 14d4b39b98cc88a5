"""The scheduler tables against diffusers' own classes, step for step."""

from typing import Any

import pytest

from pipelines import compat

compat.install()

import diffusers  # noqa: E402
import torch  # noqa: E402

from pipelines.errors import Final  # noqa: E402
from pipelines.instantid.schedulers import SDXL_SCHEDULER, Schedule, build_schedule, step  # noqa: E402
from pipelines.presets import SCHEDULERS  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

REFERENCES: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddpm": (diffusers.DDPMScheduler, {"clip_sample": False}),
    "ddim": (diffusers.DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}),
    "pndm": (diffusers.PNDMScheduler, {"skip_prk_steps": True, "set_alpha_to_one": False}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler_a": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "dpmpp_2m_karras": (diffusers.DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
}


def reference(name: str, count: int) -> Any:
    make, options = REFERENCES[name]
    scheduler = make(**SDXL_SCHEDULER, **options)
    scheduler.set_timesteps(count)
    return scheduler


def predicted(latents: torch.Tensor, timestep: float) -> torch.Tensor:
    """Stands for a model: any smooth function of both will do."""
    return torch.tanh(latents.flip(-1) * 0.7 + 0.001 * float(timestep)) + 0.1 * latents


def ours(schedule: Schedule, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn((4, 16, 16), generator=generator) * schedule.init_noise_sigma
    history, trace = (), []
    for move in schedule.steps:
        noise_pred = predicted(latents * move.input_scale, move.timestep)
        latents, history = step(move, latents, noise_pred, history, generator)
        trace.append(latents)
    return trace


def theirs(scheduler: Any, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latents, trace = torch.randn((4, 16, 16), generator=generator) * scheduler.init_noise_sigma, []
    for timestep in scheduler.timesteps:
        noise_pred = predicted(scheduler.scale_model_input(latents, timestep), timestep)
        drawing = {"generator": generator} if "generator" in scheduler.step.__code__.co_varnames else {}
        latents = scheduler.step(noise_pred, timestep, latents, **drawing).prev_sample
        trace.append(latents)
    return trace


def test_every_scheduler_of_the_presets_has_a_table_and_a_reference():
    assert set(REFERENCES) == set(SCHEDULERS)
    assert all(build_schedule(name, 20).name == name for name in SCHEDULERS)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 20, 30, 33, 50])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_each_step_equals_the_one_of_diffusers(name: str, count: int):
    schedule, scheduler = build_schedule(name, count), reference(name, count)

    mine, expected = ours(schedule, seed=7), theirs(scheduler, seed=7)

    assert [move.timestep for move in schedule.steps] == scheduler.timesteps.tolist()
    assert len(mine) == len(expected) == len(schedule)
    for got, want in zip(mine, expected, strict=True):
        assert float((got - want).abs().max() / want.abs().max()) < 2e-5


@pytest.mark.parametrize("name", SCHEDULERS)
def test_sigma_is_the_noise_level_of_the_picture_whatever_the_scale_of_the_latents(name: str):
    schedule = build_schedule(name, 30)
    alphas = reference("ddim", 30).alphas_cumprod

    for move in schedule.steps:
        level = float(((1 - alphas[int(move.timestep)]) / alphas[int(move.timestep)]).sqrt())
        assert move.sigma == pytest.approx(level, rel=0.1)  # Karras: timesteps are rounded


def test_pndm_calls_the_model_once_more_than_it_has_steps():
    assert len(build_schedule("pndm", 30)) == 31
    assert {len(build_schedule(name, 30)) for name in SCHEDULERS if name != "pndm"} == {30}


def test_a_schedule_is_built_once_and_shared():
    assert build_schedule("euler", 30) is build_schedule("euler", 30)


def test_an_unknown_scheduler_is_a_final_error_that_names_it():
    with pytest.raises(Final, match="'lms'") as error:
        build_schedule("lms", 30)
    assert error.value.code == "unknown_scheduler"


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="num_inference_steps"):
        build_schedule("euler", 0)
