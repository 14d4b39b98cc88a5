"""Classifier-free guidance for one shot, in forms that hold up at a guidance_scale of 7 to 12."""

import math
from dataclasses import dataclass
from typing import Final as Constant

import torch

from pipelines.presets import GUIDANCE_METHODS, GUIDANCE_SCALE, NEGATIVE_IDENTITIES, PresetError

# What a method of `presets.GUIDANCE_METHODS` is made of; "plain" is of none of these.
LIMITED: Constant = ("interval", "apg_interval", "rescale_interval")
PROJECTED: Constant = ("apg", "apg_interval")
RESCALED: Constant = ("rescale", "rescale_interval")
RESCALE_PHI: Constant = 0.7  # arXiv 2305.08891, section 3.4
APG_ETA: Constant = 0.0  # arXiv 2410.02416, table 10, the row of SDXL; so are the next two
APG_NORM: Constant = 15.0
APG_MOMENTUM: Constant = -0.5
INTERVAL: Constant = (0.28, 5.42)  # sigma, open below and closed above; arXiv 2404.07724, SDXL
NEGATIVE_NOISE: Constant = 0.35  # what ComfyUI_InstantID ships and its users settled on


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """How one shot is guided. Invalid ones cannot be built: PresetError."""

    method: str
    scale: float

    def __post_init__(self) -> None:
        if self.method not in GUIDANCE_METHODS:
            raise PresetError(
                f"guidance_method must be one of {', '.join(GUIDANCE_METHODS)}, not {self.method!r}"
            )
        low, high = GUIDANCE_SCALE
        if not low <= self.scale <= high:  # also refuses NaN
            raise PresetError(f"guidance_scale must be between {low:g} and {high:g}, not {self.scale:g}")


def is_guided(guidance: Guidance, sigma: float) -> bool:
    """Whether the unconditional row counts at this noise level; where not, it need not be computed."""
    if guidance.method not in LIMITED:
        return True
    low, high = INTERVAL
    return low < sigma <= high


def combine(
    guidance: Guidance,
    cond: torch.Tensor,
    uncond: torch.Tensor | None,
    *,
    model_input: torch.Tensor,
    sigma: float,
    momentum: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The guided noise prediction of one shot, and the momentum for its next step (None but for APG).

    `cond` and `uncond` are noise predictions (channels, height, width); `uncond` is None outside the
    interval, and then `cond` is the answer and the momentum rests. `model_input` are the latents as the
    model saw them, of unit variance; `sigma` is their noise level in units of the picture.
    """
    cond = cond.float()
    if uncond is None:
        return cond, momentum
    uncond = uncond.float()
    if guidance.method in PROJECTED:
        return _projected(guidance.scale, cond, uncond, model_input.float(), sigma, momentum)
    guided = uncond + guidance.scale * (cond - uncond)
    if guidance.method in RESCALED:
        guided = _rescaled(guided, cond)
    return guided, None


def _rescaled(guided: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
    """The standard deviation of `cond` given back to `guided`, mixed: arXiv 2305.08891, eq. 15 and 16."""
    matched = guided * (cond.std() / guided.std())
    return RESCALE_PHI * matched + (1 - RESCALE_PHI) * guided


def _projected(
    scale: float,
    cond: torch.Tensor,
    uncond: torch.Tensor,
    model_input: torch.Tensor,
    sigma: float,
    momentum: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Adaptive projected guidance on the predicted picture: arXiv 2410.02416, algorithm 1.

    The update loses its part parallel to the conditional picture, which is what over-saturates, is capped
    in norm, and has reverse momentum.
    """
    picture = model_input * math.hypot(sigma, 1) - sigma * cond
    update = -sigma * (cond - uncond)
    if momentum is not None:
        update = update + APG_MOMENTUM * momentum
    capped = update * torch.clamp(APG_NORM / update.norm(), max=1.0)
    unit = picture / picture.norm()
    parallel = (capped * unit).sum() * unit
    direction = capped - parallel + APG_ETA * parallel
    return cond - (scale - 1) / sigma * direction, update


def negative_embedding(embedding: torch.Tensor, kind: str) -> torch.Tensor:
    """The embedding that the unconditional branch is given in place of `embedding`, of the same shape.

    `zeros` is InstantID's own (never trained: its authors drop no condition, arXiv 2401.07519, 3.3);
    `noise` is uniform noise in [0, 0.35) seeded by the embedding's sum, so that one person always gets the
    same; `same` is the embedding itself, so that guidance acts on the text alone.
    Raises PresetError for another kind.
    """
    if kind == "zeros":
        return torch.zeros_like(embedding)
    if kind == "same":
        return embedding
    if kind == "noise":
        generator = torch.Generator().manual_seed(int(embedding.double().sum()) % 1_000_000_007)
        noise = torch.rand(embedding.shape, generator=generator, dtype=torch.float32)
        return (NEGATIVE_NOISE * noise).to(embedding)
    raise PresetError(f"negative identity must be one of {', '.join(NEGATIVE_IDENTITIES)}, not {kind!r}")
