"""Schedulers as tables: a step is one linear combination, so shots at different steps share a batch.

Every scheduler named in the presets moves latents by

    next = a * latents + b * noise_pred + sum(c_j * history_j) + d * noise

with numbers that depend on the step alone. They are computed once in float64 (the grid of timesteps and
sigmas is diffusers' own), and what a shot carries from step to step is its short history. Nothing here
knows the batch, and nothing is shared between shots but frozen tables.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias
from typing import Final as Constant

import diffusers
import torch

from pipelines.errors import Final

SDXL_SCHEDULER: Constant = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
"""What SDXL was trained with and ships in scheduler_config.json; arXiv 2307.01952."""

History: TypeAlias = tuple[torch.Tensor, ...]
"""What a shot remembers of its last steps, newest first, each (channels, height, width) float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The numbers of one step: what the model is given, and the coefficients of the move.

    `sigma` is the noise level in units of the picture (sqrt((1 - alpha) / alpha)), whatever scale the
    latents are kept in. `keep` are the coefficients (latents, noise_pred) of what enters the history.
    """

    timestep: float
    sigma: float
    input_scale: float = 1.0
    latents: float
    noise_pred: float
    history: tuple[float, ...] = ()
    noise: float = 0.0
    keep: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """All steps of one scheduler at one num_inference_steps; shared by every shot that asks for it."""

    name: str
    num_inference_steps: int
    init_noise_sigma: float
    steps: tuple[Step, ...]

    def __len__(self) -> int:
        """Calls of the model; pndm makes one more than num_inference_steps."""
        return len(self.steps)


@lru_cache(maxsize=256)
def build_schedule(name: str, num_inference_steps: int, first: int = 0) -> Schedule:
    """The schedule of `name` (one of presets.SCHEDULERS) with SDXL's noise levels.

    `first` leaves out that many steps at the noisy end, for a start from a picture: multistep schedulers
    begin at first order there, and pndm does its second remaining timestep twice, as a fresh start would.
    Raises Final("unknown_scheduler") for another name and ValueError where no step is left.
    """
    if name not in _BUILDERS:
        raise Final("unknown_scheduler", f"scheduler {name!r} is not one of {', '.join(_BUILDERS)}")
    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps must be at least 1, not {num_inference_steps}")
    if not 0 <= first < num_inference_steps:
        raise ValueError(f"first must be 0 to {num_inference_steps - 1}, not {first}")
    make, options, table = _BUILDERS[name]
    grid = make(**SDXL_SCHEDULER, **options)
    grid.set_timesteps(num_inference_steps)
    _shorten(grid, first)
    return Schedule(
        name=name,
        num_inference_steps=num_inference_steps,
        init_noise_sigma=float(grid.init_noise_sigma),
        steps=table(grid),
    )


def step(
    move: Step,
    latents: torch.Tensor,
    noise_pred: torch.Tensor,
    history: History,
    generator: torch.Generator,
) -> tuple[torch.Tensor, History]:
    """The latents after `move` and the history for the next one, both float32 on the latents' device.

    `noise_pred` is the guided prediction of the noise. The noise that ancestral schedulers add comes from
    the shot's own CPU `generator`, in the order in which diffusers' classes draw it.
    """
    latents, noise_pred = latents.float(), noise_pred.float()
    moved = latents * move.latents + noise_pred * move.noise_pred
    for coefficient, past in zip(move.history, history, strict=False):
        moved = moved + past * coefficient
    if move.noise:
        noise = torch.randn(latents.shape, generator=generator, dtype=torch.float32)
        moved = moved + noise.to(latents.device) * move.noise
    if move.keep is not None:
        history = (latents * move.keep[0] + noise_pred * move.keep[1], *history[:2])
    return moved, history


def add_noise(schedule: Schedule, position: int, original: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """`original`, clean latents in the UNet's scale, at the noise level that the latents have at `position`.

    In the scheduler's own scale, and of the same shape; at the end of the schedule it is `original` itself.
    """
    if position >= len(schedule):
        return original
    move = schedule.steps[position]
    scale = math.hypot(move.sigma, 1) * move.input_scale  # the model sees unit variance, whatever we keep
    return (original + noise * move.sigma) / scale


def _shorten(grid: Any, first: int) -> None:
    """Take the `first` noisiest timesteps out of a scheduler's grid."""
    if first == 0:
        return
    timesteps = grid.timesteps
    if isinstance(grid, diffusers.PNDMScheduler):
        left = list(dict.fromkeys(timesteps.tolist()))[first:]
        grid.timesteps = torch.tensor(left[:2] + left[1:])
        return
    grid.timesteps = timesteps[first:]
    if hasattr(grid, "sigmas"):
        grid.sigmas = grid.sigmas[first:]


def _alphas(grid: Any) -> list[float]:
    return [float(alpha) for alpha in grid.alphas_cumprod]


def _sigma(alpha: float) -> float:
    return math.sqrt((1 - alpha) / alpha)


def _ddim(grid: Any) -> tuple[Step, ...]:
    """arXiv 2010.02502, formula (12) with sigma 0."""
    alphas, stride = _alphas(grid), 1000 // grid.num_inference_steps
    steps = []
    for timestep in grid.timesteps.tolist():
        now = alphas[timestep]
        then = alphas[timestep - stride] if timestep >= stride else alphas[0]
        a, b = _transfer(now, then)
        steps.append(Step(timestep=timestep, sigma=_sigma(now), latents=a, noise_pred=b))
    return tuple(steps)


def _transfer(now: float, then: float) -> tuple[float, float]:
    """Coefficients (latents, noise_pred) of the deterministic move between two levels of alpha.

    The same as formula (9) of arXiv 2202.09778 (pndm), written without its quotient.
    """
    a = math.sqrt(then / now)
    return a, math.sqrt(1 - then) - a * math.sqrt(1 - now)


def _ddpm(grid: Any) -> tuple[Step, ...]:
    """arXiv 2006.11239, formula (7), with the small fixed variance."""
    alphas, stride = _alphas(grid), 1000 // grid.num_inference_steps
    steps = []
    for timestep in grid.timesteps.tolist():
        now = alphas[timestep]
        then = alphas[timestep - stride] if timestep >= stride else 1.0
        beta = 1 - now / then
        clean = math.sqrt(then) * beta / (1 - now)  # of the predicted picture
        kept = math.sqrt(now / then) * (1 - then) / (1 - now)
        steps.append(
            Step(
                timestep=timestep,
                sigma=_sigma(now),
                latents=kept + clean / math.sqrt(now),
                noise_pred=-clean * _sigma(now),
                noise=math.sqrt((1 - then) / (1 - now) * beta),
            )
        )
    return tuple(steps)


def _pndm(grid: Any) -> tuple[Step, ...]:
    """Linear multistep with the second timestep done twice: arXiv 2202.09778, as SDXL's config asks.

    The repeated step starts again from the first latents; they are recovered from the second ones, which
    are a known combination of them and of the prediction kept in the history.
    """
    alphas, stride = _alphas(grid), 1000 // grid.num_inference_steps
    steps: list[Step] = []
    weights = ((1.0,), (1.5, -0.5), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
    for index, timestep in enumerate(grid.timesteps.tolist()):
        start = timestep + stride if index == 1 else timestep
        end = start - stride
        a, b = _transfer(alphas[start], alphas[end] if end >= 0 else alphas[0])
        sigma = _sigma(alphas[timestep])
        if index == 1:
            ratio = a / steps[0].latents
            past = b / 2 - ratio * steps[0].noise_pred
            steps.append(
                Step(timestep=timestep, sigma=sigma, latents=ratio, noise_pred=b / 2, history=(past,))
            )
            continue
        own, *older = weights[min(index - (index > 1), 3)]
        steps.append(
            Step(
                timestep=timestep,
                sigma=sigma,
                latents=a,
                noise_pred=b * own,
                history=tuple(b * weight for weight in older),
                keep=(0.0, 1.0),
            )
        )
    return tuple(steps)


def _euler(grid: Any) -> tuple[Step, ...]:
    """arXiv 2206.00364, algorithm 2 without churn."""
    return tuple(
        Step(timestep=t, sigma=now, input_scale=1 / math.hypot(now, 1), latents=1.0, noise_pred=then - now)
        for t, now, then in _levels(grid)
    )


def _euler_a(grid: Any) -> tuple[Step, ...]:
    """Euler to a lower level, then noise up to the next one (k-diffusion's ancestral step)."""
    steps = []
    for timestep, now, then in _levels(grid):
        up = math.sqrt(then**2 * (now**2 - then**2) / now**2)
        down = math.sqrt(then**2 - up**2)
        steps.append(
            Step(
                timestep=timestep,
                sigma=now,
                input_scale=1 / math.hypot(now, 1),
                latents=1.0,
                noise_pred=down - now,
                noise=up,
            )
        )
    return tuple(steps)


def _dpmpp_2m(grid: Any) -> tuple[Step, ...]:
    """DPM-Solver++ (2M), arXiv 2211.01095, algorithm 2; first order at both ends.

    Its history holds the predicted picture, alpha^-1/2 * latents - sigma * noise_pred.
    """
    steps: list[Step] = []
    before = math.nan  # log signal-to-noise step of the previous move
    for timestep, now, then in _levels(grid):
        scale = math.hypot(now, 1)  # 1 / sqrt(alpha)
        keep = (scale, -now)
        carry, gain, lead = 0.0, 1.0, 0.0  # the last move lands on the predicted picture
        if then > 0:
            stride = math.log(now / then)
            carry = then / math.hypot(then, 1) * scale / now
            gain = -math.expm1(-stride) / math.hypot(then, 1)
            lead = stride / (2 * before) if steps else 0.0
            before = stride
        own = gain * (1 + lead)
        steps.append(
            Step(
                timestep=timestep,
                sigma=now,
                latents=carry + own * keep[0],
                noise_pred=own * keep[1],
                history=(-gain * lead,) if lead else (),
                keep=keep,
            )
        )
    return tuple(steps)


def _levels(grid: Any) -> list[tuple[float, float, float]]:
    """(timestep, sigma now, sigma then) of every step."""
    sigmas = grid.sigmas.double().tolist()
    return list(zip(grid.timesteps.tolist(), sigmas[:-1], sigmas[1:], strict=True))


_BUILDERS: dict[str, tuple[Callable[..., Any], dict[str, Any], Callable[[Any], tuple[Step, ...]]]] = {
    "ddpm": (diffusers.DDPMScheduler, {"clip_sample": False}, _ddpm),
    "ddim": (diffusers.DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}, _ddim),
    "pndm": (diffusers.PNDMScheduler, {"skip_prk_steps": True, "set_alpha_to_one": False}, _pndm),
    "euler": (diffusers.EulerDiscreteScheduler, {}, _euler),
    "euler_a": (diffusers.EulerAncestralDiscreteScheduler, {}, _euler_a),
    "dpmpp_2m_karras": (diffusers.DPMSolverMultistepScheduler, {"use_karras_sigmas": True}, _dpmpp_2m),
}
