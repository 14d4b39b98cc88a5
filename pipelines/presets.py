"""Style presets: a structured prompt and the numbers that go with it, with their bounds."""

from dataclasses import dataclass
from typing import Final

GUIDANCE_SCALE: Final = (7.0, 12.0)
NUM_INFERENCE_STEPS: Final = (20, 50)
CONDITIONING_SCALE: Final = (0.0, 1.5)  # ip_adapter_scale and controlnet_conditioning_scale
SCHEDULERS: Final = ("ddpm", "ddim", "pndm", "euler", "euler_a", "dpmpp_2m_karras")
GUIDANCE_METHODS: Final = ("plain", "rescale", "apg", "interval", "apg_interval")
FRAMINGS: Final = ("close", "head_and_shoulders", "chest")
WIDTH: Final = 896
HEIGHT: Final = 1152

PROMPT_PARTS: Final = ("subject", "wardrobe", "setting", "lighting", "lens", "mood", "composition")


class PresetError(ValueError):
    """A preset number is out of bounds; the message names the field, its bounds and the value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StylePreset:
    """One immutable version of a style. Invalid ones cannot be built: PresetError."""

    slug: str
    subject: str
    wardrobe: str
    setting: str
    lighting: str
    lens: str
    mood: str
    composition: str
    negative_prompt: str
    guidance_scale: float
    num_inference_steps: int = 30
    scheduler: str = "dpmpp_2m_karras"
    ip_adapter_scale: float = 0.8
    controlnet_conditioning_scale: float = 0.8
    guidance_method: str = "apg_interval"
    framing: str = "head_and_shoulders"

    def __post_init__(self) -> None:
        _within("guidance_scale", self.guidance_scale, GUIDANCE_SCALE)
        _within("num_inference_steps", self.num_inference_steps, NUM_INFERENCE_STEPS)
        _within("ip_adapter_scale", self.ip_adapter_scale, CONDITIONING_SCALE)
        _within("controlnet_conditioning_scale", self.controlnet_conditioning_scale, CONDITIONING_SCALE)
        _one_of("scheduler", self.scheduler, SCHEDULERS)
        _one_of("guidance_method", self.guidance_method, GUIDANCE_METHODS)
        _one_of("framing", self.framing, FRAMINGS)

    @property
    def prompt(self) -> str:
        """The parts in the order a text encoder weighs them: who, in what, where, how lit, how taken."""
        return ", ".join(part for name in PROMPT_PARTS if (part := getattr(self, name).strip()))


def _within(field: str, value: float, bounds: tuple[float, float]) -> None:
    low, high = bounds
    if not low <= value <= high:  # also refuses NaN
        raise PresetError(f"{field} must be between {low:g} and {high:g}, not {value:g}")


def _one_of(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise PresetError(f"{field} must be one of {', '.join(known)}, not {value!r}")
