"""A shot in flight: everything the denoising loop knows of it between two steps."""

from dataclasses import dataclass, replace
from typing import Final as Constant

import torch

from pipelines.errors import Final
from pipelines.instantid.conditioning import Conditioning
from pipelines.instantid.controls import Control
from pipelines.instantid.guidance import Guidance
from pipelines.instantid.schedulers import History, Schedule, Step, add_noise
from pipelines.presets import Lora

LATENT_CHANNELS: Constant = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inpaint:
    """A picture of which only a region is made anew: what is put back outside of it after every step.

    `original` (4, height / 8, width / 8) are its clean latents, `noise` of the same shape is drawn once, and
    `mask` (height / 8, width / 8) is 1 where the picture is made anew, else 0.
    """

    original: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One shot between two steps. A step gives a new one; only the generator moves in place.

    `latents` (4, height / 8, width / 8) float32 in the scheduler's own scale. `control_guidance_start` and
    `_end` are the shares of the steps between which IdentityNet acts. `mask` (height / 8, width / 8) in
    0..1 limits face attention and IdentityNet to a region. The generator lives on the CPU, so that the
    picture depends on the seed and not on the device. `loras` must be those its prompts were encoded under.
    Shares of the steps are of the schedule's own, which is shorter where a shot starts from a picture.
    """

    shot_id: str
    latents: torch.Tensor
    schedule: Schedule
    generator: torch.Generator
    conditioning: Conditioning
    guidance: Guidance
    ip_adapter_scale: float
    controlnet_conditioning_scale: float
    control_guidance_start: float = 0.0
    control_guidance_end: float = 1.0
    mask: torch.Tensor | None = None
    loras: tuple[Lora, ...] = ()
    control: Control | None = None
    inpaint: Inpaint | None = None
    position: int = 0
    history: History = ()
    momentum: torch.Tensor | None = None

    @property
    def is_done(self) -> bool:
        """Whether every step of the schedule has been taken."""
        return self.position >= len(self.schedule)

    @property
    def move(self) -> Step:
        """The numbers of the step to come."""
        return self.schedule.steps[self.position]

    @property
    def needs_identitynet(self) -> bool:
        """Whether IdentityNet counts in the step to come."""
        within = self._is_within(self.control_guidance_start, self.control_guidance_end)
        return within and self.controlnet_conditioning_scale > 0

    @property
    def needs_control(self) -> bool:
        """Whether its second ControlNet counts in the step to come."""
        control = self.control
        return control is not None and control.conditioning_scale > 0 and self._is_within(0.0, control.end)

    def _is_within(self, start: float, end: float) -> bool:
        count = len(self.schedule)
        return self.position / count >= start and (self.position + 1) / count <= end


def seeded(seed: int) -> torch.Generator:
    """The CPU generator of a shot."""
    return torch.Generator().manual_seed(seed)


def initial_latents(
    generator: torch.Generator, schedule: Schedule, *, width: int, height: int, device: torch.device
) -> torch.Tensor:
    """Pure noise (4, height / 8, width / 8) float32 for a picture of `width` x `height` pixels."""
    noise = torch.randn((LATENT_CHANNELS, height // 8, width // 8), generator=generator, dtype=torch.float32)
    return (noise * schedule.init_noise_sigma).to(device)


def with_kept_region(sample: Sample) -> Sample:
    """`sample` with everything outside of its inpaint mask put back, at the noise level it has reached."""
    inpaint = sample.inpaint
    if inpaint is None:
        return sample
    kept = add_noise(sample.schedule, sample.position, inpaint.original, inpaint.noise)
    return replace(sample, latents=torch.where(inpaint.mask > 0, sample.latents, kept))


def require_finite(sample: Sample) -> Sample:
    """`sample` itself; raises Final("nan_latents") if its latents are not finite.

    Once is enough, at the end: no scheduler turns NaN back into a number, and each question would make the
    GPU wait. It concerns the one shot; rows never touch each other.
    """
    if not bool(torch.isfinite(sample.latents).all()):
        raise Final("nan_latents", f"shot {sample.shot_id}: latents are not finite")
    return sample
