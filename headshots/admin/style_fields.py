"""Form fields of a style: a part of the prompt on one line, a number in its bounds, LoRAs one to a line."""

from dataclasses import fields as dataclass_fields
from typing import Any, Final

from django import forms
from django.core.exceptions import ValidationError

from headshots.models import StyleVersion
from pipelines.presets import Lora, PresetError, StylePreset

DEFAULTS: Final = {field.name: field.default for field in dataclass_fields(StylePreset)} | {
    "guidance_scale": 8.0,
    "control_conditioning_scale": 0.4,  # InstantID's demo with pose, canny and depth nets starts there
    "control_end": 1.0,
}
PART_HELP: Final = {
    "subject": "What the picture is of, never who: age, sex and looks come from the selfie. "
    "Example: professional headshot photograph of a person, natural skin texture",
    "wardrobe": "Example: tailored navy suit, crisp white shirt",
    "setting": "The place behind the person. Example: grey-blue studio backdrop",
    "lighting": "Example: softbox key light, gentle fill, hair light",
    "lens": "Example: 85mm lens, f/4, sharp eyes",
    "mood": "Example: confident friendly expression",
    "composition": "Keep it in step with the framing below. Example: head and shoulders, facing camera",
    "negative_prompt": "What must not be seen, without “no” or “not”. "
    "Example: painting, cartoon, plastic skin, extra fingers, text, watermark",
}
MAX_LENGTHS: Final = {
    column.name: column.max_length for column in StyleVersion._meta.fields if column.name in PART_HELP
}


def bounds(name: str, low_high: tuple[float, float]) -> dict[str, Any]:
    """Field arguments that refuse what is out of bounds, or no number at all, with one sentence."""
    low, high = low_high
    sentence = f"{name} must be a number between {low:g} and {high:g}."
    return {
        "min_value": low,
        "max_value": high,
        "error_messages": dict.fromkeys(("invalid", "min_value", "max_value"), sentence),
        "initial": DEFAULTS[name],
    }


class PromptField(forms.CharField):
    """One part of a prompt: a short text on one line, however it was typed."""

    def __init__(self, name: str, **options: Any) -> None:
        rows = 4 if name == "negative_prompt" else 2
        super().__init__(
            max_length=MAX_LENGTHS[name],
            help_text=PART_HELP[name],
            widget=forms.Textarea(attrs={"rows": rows, "cols": 80, "class": "vLargeTextField"}),
            **options,
        )

    def to_python(self, value: object) -> str:
        return " ".join((super().to_python(value) or "").split())


class LorasField(forms.Field):
    """LoRAs as lines of `name weight`; its value is a tuple of Lora, each error says on which line it is."""

    widget = forms.Textarea(
        attrs={"rows": 4, "cols": 40, "spellcheck": "false", "placeholder": "film-grain 0.6"}
    )

    def prepare_value(self, value: Any) -> Any:
        """The lines of a tuple of Lora; what a browser sent is shown again as it came."""
        if isinstance(value, tuple):
            return "\n".join(f"{lora.name} {lora.weight}" for lora in value)
        return value

    def to_python(self, value: str | None) -> tuple[Lora, ...]:
        loras: list[Lora] = []
        errors: list[str] = []
        for number, line in enumerate((value or "").splitlines(), start=1):
            if not (words := line.split()):
                continue
            try:
                name, weight = words
                loras.append(Lora(name=name, weight=float(weight)))
            except PresetError as error:
                errors.append(f"Line {number}: {error}.")
            except ValueError:
                errors.append(f"Line {number} must be a name and a weight, such as “film-grain 0.6”.")
        if errors:
            raise ValidationError(errors)
        return tuple(loras)
