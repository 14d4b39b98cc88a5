"""The form of a style: its name, the parts of its prompt and its numbers, with bounds in plain words."""

from dataclasses import fields as dataclass_fields
from typing import Any, Final

from django import forms
from django.core.exceptions import ValidationError

from headshots.admin.base import ModelForm
from headshots.models import PRESET_FIELDS, Style, StyleVersion
from pipelines import presets
from pipelines.presets import PresetError, StylePreset

_DEFAULTS: Final = {field.name: field.default for field in dataclass_fields(StylePreset)} | {
    "guidance_scale": 8.0
}

TEXTS: Final = ("name", "slug", "summary", "position")
PART_HELP: Final = {
    "subject": "What the picture is of, never who: age, sex and looks come from the selfie. "
    "Example: professional headshot photograph of a person, natural skin texture",
    "wardrobe": "Example: tailored navy suit, crisp white shirt",
    "setting": "The place behind the person. Example: seamless grey-blue studio backdrop",
    "lighting": "Example: large softbox key light, gentle fill, soft hair light",
    "lens": "Example: 85mm lens, f/4, sharp focus on the eyes",
    "mood": "Example: confident friendly expression",
    "composition": "Keep it in step with the framing below. Example: head and shoulders, facing camera",
    "negative_prompt": "What must not be seen, without “no” or “not”. "
    "Example: painting, cartoon, plastic skin, extra fingers, text, watermark",
}
SCHEDULERS: Final = {
    "ddpm": "DDPM: random at each step, wants 40 steps or more",
    "ddim": "DDIM: plain and predictable",
    "pndm": "PNDM: Stable Diffusion's first default",
    "euler": "Euler: InstantID's published setting",
    "euler_a": "Euler a: random at each step, softer, varied",
    "dpmpp_2m_karras": "DPM-Solver++ 2M Karras: best detail at 25 to 35 steps (default)",
}
GUIDANCE_METHODS: Final = {
    "plain": "plain: classic guidance, burns first when the scale is high",
    "rescale": "rescale: classic, with the contrast pulled back",
    "apg": "apg: keeps the part of the push that adds detail, drops what adds saturation",
    "interval": "interval: classic, in the middle steps only; faster",
    "apg_interval": "apg_interval: both, the safest up to 12 (default)",
}
FRAMINGS: Final = {
    "close": "close: the face fills the picture",
    "head_and_shoulders": "head and shoulders (default)",
    "chest": "chest: down to the chest, more of the clothes",
}


def _bounds(name: str, bounds: tuple[float, float]) -> dict[str, Any]:
    """Field arguments that refuse what is outside of `bounds`, or no number at all, with one sentence."""
    low, high = bounds
    sentence = f"{name} must be a number between {low:g} and {high:g}."
    return {
        "min_value": low,
        "max_value": high,
        "error_messages": dict.fromkeys(("invalid", "min_value", "max_value"), sentence),
        "initial": _DEFAULTS[name],
    }


MAX_LENGTHS: Final = {
    column.name: column.max_length for column in StyleVersion._meta.fields if column.name in PART_HELP
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


class StyleForm(ModelForm[Style]):
    """A style and what shall be its current version."""

    based_on = forms.IntegerField(required=False, widget=forms.HiddenInput)
    subject = PromptField("subject")
    wardrobe = PromptField("wardrobe", required=False)
    setting = PromptField("setting", required=False)
    lighting = PromptField("lighting", required=False)
    lens = PromptField("lens", required=False)
    mood = PromptField("mood", required=False)
    composition = PromptField("composition", required=False)
    negative_prompt = PromptField("negative_prompt", required=False)
    guidance_scale = forms.FloatField(
        **_bounds("guidance_scale", presets.GUIDANCE_SCALE),
        help_text="7 to 12: how strictly the picture follows the words. Lower looks natural and keeps the "
        "likeness, but takes liberties with clothes and backdrop. Higher obeys the words and adds contrast; "
        "from 10 on skin can look burnt, so lower controlnet_conditioning_scale to about 0.65.",
    )
    num_inference_steps = forms.IntegerField(
        label="Inference steps",
        **_bounds("num_inference_steps", presets.NUM_INFERENCE_STEPS),
        help_text="20 to 50: how often the picture is refined. More costs time in proportion; "
        "beyond 35 little is gained.",
    )
    scheduler = forms.ChoiceField(
        choices=[(name, SCHEDULERS[name]) for name in presets.SCHEDULERS],
        initial=_DEFAULTS["scheduler"],
        help_text="How each refinement step is computed.",
    )
    ip_adapter_scale = forms.FloatField(
        label="IP adapter scale",
        **_bounds("ip_adapter_scale", presets.CONDITIONING_SCALE),
        help_text="0 to 1.5: how strongly the face is the customer's. Below 0.6 the likeness fades; "
        "above 1 the selfie's expression and light come through and the style gives way.",
    )
    controlnet_conditioning_scale = forms.FloatField(
        label="ControlNet conditioning scale",
        **_bounds("controlnet_conditioning_scale", presets.CONDITIONING_SCALE),
        help_text="0 to 1.5: how firmly eyes, nose and mouth are held in their places. "
        "Too low and the face drifts; too high and it looks stiff and full of contrast.",
    )
    guidance_method = forms.ChoiceField(
        choices=[(name, GUIDANCE_METHODS[name]) for name in presets.GUIDANCE_METHODS],
        initial=_DEFAULTS["guidance_method"],
        help_text="How guidance_scale is applied without burning the picture.",
    )
    framing = forms.ChoiceField(
        choices=[(name, FRAMINGS[name]) for name in presets.FRAMINGS],
        initial=_DEFAULTS["framing"],
        help_text="How much of the person is in the picture.",
    )

    class Meta:
        model = Style
        fields = TEXTS
        help_texts: Final = {
            "name": "What customers read. Example: Corporate",
            "slug": "The name in links, in the API and in file names. Once saved it stays as it is.",
            "summary": "One sentence for customers: what it looks like and what it is good for.",
            "position": "Styles are listed from the lowest number to the highest.",
        }
        widgets: Final = {"summary": forms.TextInput(attrs={"class": "vLargeTextField"})}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        current = self.instance.current
        if current is not None:
            self.initial["based_on"] = current.number
            self.initial.update({name: getattr(current, name) for name in PRESET_FIELDS})

    def clean(self) -> dict[str, Any]:
        """Refuse what the pipeline would refuse, and an edit of a version that is no longer current."""
        values: dict[str, Any] = super().clean() or self.cleaned_data
        current = self.instance.current
        if current is not None and values.get("based_on") != current.number:
            raise ValidationError(
                f"{current.created_by} saved version {current.number} while you were editing. "
                "Open this style again and repeat your change; nothing of yours was saved."
            )
        if not self.errors:
            try:
                StylePreset(slug=values.get("slug", self.instance.slug), **self.preset_fields())
            except PresetError as error:
                raise ValidationError(str(error)) from error
        return values

    def preset_fields(self) -> dict[str, Any]:
        """The words and numbers of the version that this form asks for."""
        return {name: self.cleaned_data[name] for name in PRESET_FIELDS}

    def changed_texts(self) -> list[str]:
        """Which fields of the style's own row were edited."""
        return [name for name in self.changed_data if name in TEXTS]
