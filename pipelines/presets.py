"""Style presets: a structured prompt and the numbers that go with it, with their bounds."""

import math
import re
from dataclasses import dataclass
from typing import Final

GUIDANCE_SCALE: Final = (7.0, 12.0)
NUM_INFERENCE_STEPS: Final = (20, 50)
CONDITIONING_SCALE: Final = (0.0, 1.5)  # ip_adapter_scale and controlnet_conditioning_scale
SCHEDULERS: Final = ("ddpm", "ddim", "pndm", "euler", "euler_a", "dpmpp_2m_karras")
GUIDANCE_METHODS: Final = ("plain", "rescale", "apg", "interval", "apg_interval", "rescale_interval")
NEGATIVE_IDENTITIES: Final = ("zeros", "noise", "same")
CONTROL_GUIDANCE_END: Final = (0.5, 1.0)  # share of the steps; earlier than half, the face is not settled
CONTROL_KINDS: Final = ("canny", "depth", "pose")
LORA_WEIGHT: Final = (0.0, 1.5)
MAX_LORAS: Final = 4
FRAMINGS: Final = ("close", "head_and_shoulders", "chest")
WIDTH: Final = 896
HEIGHT: Final = 1152

PROMPT_PARTS: Final = ("subject", "wardrobe", "setting", "lighting", "lens", "mood", "composition")
TOKEN_LIMIT: Final = 75  # SDXL's text encoders read 77, two of which are the start and the end


class PresetError(ValueError):
    """A preset number is out of bounds; the message names the field, its bounds and the value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A LoRA of the bundle, `loras/<name>.safetensors`, and how much of it. Invalid: PresetError."""

    name: str
    weight: float

    def __post_init__(self) -> None:
        _file_name("lora", self.name)
        _within("lora weight", self.weight, LORA_WEIGHT)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtraControl:
    """A second ControlNet beside IdentityNet: `controls/<kind>/` of the bundle, looking at the finished
    canny, depth or pose picture `controls/images/<image>.png`, until `end` (a share of the steps).
    Invalid: PresetError.
    """

    kind: str
    image: str
    conditioning_scale: float
    end: float = 1.0

    def __post_init__(self) -> None:
        _one_of("control kind", self.kind, CONTROL_KINDS)
        _file_name("control image", self.image)
        _within("control conditioning_scale", self.conditioning_scale, CONDITIONING_SCALE)
        _within("control end", self.end, (0.0, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class StylePreset:
    """One immutable version of a style. Invalid ones cannot be built: PresetError.

    `negative_identity` is the face that the unconditional branch is given; IdentityNet acts until
    `control_guidance_end`, a share of the steps; with `is_face_masked`, identity acts in the face only.
    """

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
    negative_identity: str = "noise"
    control_guidance_end: float = 0.9
    is_face_masked: bool = True
    loras: tuple[Lora, ...] = ()
    extra_control: ExtraControl | None = None

    def __post_init__(self) -> None:
        _within("guidance_scale", self.guidance_scale, GUIDANCE_SCALE)
        _within("num_inference_steps", self.num_inference_steps, NUM_INFERENCE_STEPS)
        _within("ip_adapter_scale", self.ip_adapter_scale, CONDITIONING_SCALE)
        _within("controlnet_conditioning_scale", self.controlnet_conditioning_scale, CONDITIONING_SCALE)
        _one_of("scheduler", self.scheduler, SCHEDULERS)
        _one_of("guidance_method", self.guidance_method, GUIDANCE_METHODS)
        _one_of("framing", self.framing, FRAMINGS)
        _one_of("negative_identity", self.negative_identity, NEGATIVE_IDENTITIES)
        _within("control_guidance_end", self.control_guidance_end, CONTROL_GUIDANCE_END)
        if len(self.loras) > MAX_LORAS or len({lora.name for lora in self.loras}) < len(self.loras):
            raise PresetError(f"loras must be at most {MAX_LORAS} different ones")

    @property
    def prompt(self) -> str:
        """The parts in the order a text encoder weighs them: who, in what, where, how lit, how taken."""
        return ", ".join(part for name in PROMPT_PARTS if (part := getattr(self, name).strip()))


def tokens_in(prompt: str) -> int:
    """An estimate of CLIP's tokens in `prompt` that errs upwards: its pieces, and 3 more for every 10.

    CLIP's tokenizer first cuts a text into words, single digits and runs of marks (Radford et al. 2021,
    arXiv 2103.00020, and the code published with it), so "85mm, f/4" is 3 + 1 + 3 pieces. A common word
    is one token and a rare one two or three; 1.3 tokens a word is the usual ratio for English.
    """
    return math.ceil(1.3 * len(re.findall(r"[^\W\d_]+|\d|(?:[^\w\s]|_)+", prompt)))


def _within(field: str, value: float, bounds: tuple[float, float]) -> None:
    low, high = bounds
    if not low <= value <= high:  # also refuses NaN
        raise PresetError(f"{field} must be between {low:g} and {high:g}, not {value:g}")


def _one_of(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise PresetError(f"{field} must be one of {', '.join(known)}, not {value!r}")


def _file_name(field: str, value: str) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", value):  # it becomes part of a path
        raise PresetError(f"{field} must be 1 to 64 of a-z, 0-9, - and _, not {value!r}")
