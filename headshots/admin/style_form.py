"""The form of a style: its name, the parts of its prompt and its numbers, with bounds in plain words."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from django import forms
from django.core.exceptions import ValidationError

from headshots.admin.base import ModelForm
from headshots.admin.style_fields import DEFAULTS, LorasField, PromptField, bounds
from headshots.models import PRESET_FIELDS, Style, StyleVersion
from pipelines import presets
from pipelines.presets import ExtraControl, PresetError, StylePreset

T = TypeVar("T")

TEXTS: Final = ("name", "slug", "summary", "position")
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
    "rescale_interval": "rescale_interval: rescale, in the middle steps only; faster",
}
FRAMINGS: Final = {
    "close": "close: the face fills the picture",
    "head_and_shoulders": "head and shoulders (default)",
    "chest": "chest: down to the chest, more of the clothes",
}

NEGATIVE_IDENTITIES: Final = {
    "zeros": "zeros: InstantID's published setting; burns first when guidance_scale is high",
    "noise": "noise: a faint random face; burns less and keeps more of the likeness (default)",
    "same": "same: the customer's own face; guidance_scale then strengthens the words alone",
}
CONTROL_KINDS: Final = {
    "": "none: only the key points of the face (default)",
    "canny": "canny: follows the edges of the image",
    "depth": "depth: follows what is near and far in the image",
    "pose": "pose: follows the posture in the image",
}
CONTROL_PARTS: Final = ("kind", "image", "conditioning_scale", "end")


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
        **bounds("guidance_scale", presets.GUIDANCE_SCALE),
        help_text="7 to 12: how strictly the picture follows the words. Lower looks natural and keeps the "
        "likeness, but takes liberties with clothes and backdrop. Higher obeys the words and adds contrast; "
        "from 10 on skin can look burnt, so lower controlnet_conditioning_scale to about 0.65.",
    )
    num_inference_steps = forms.IntegerField(
        label="Inference steps",
        **bounds("num_inference_steps", presets.NUM_INFERENCE_STEPS),
        help_text="20 to 50: how often the picture is refined. More costs time in proportion; "
        "beyond 35 little is gained.",
    )
    scheduler = forms.ChoiceField(
        choices=[(name, SCHEDULERS[name]) for name in presets.SCHEDULERS],
        initial=DEFAULTS["scheduler"],
        help_text="How each refinement step is computed.",
    )
    ip_adapter_scale = forms.FloatField(
        label="IP adapter scale",
        **bounds("ip_adapter_scale", presets.CONDITIONING_SCALE),
        help_text="0 to 1.5: how strongly the face is the customer's. Below 0.6 the likeness fades; "
        "above 1 the selfie's expression and light come through and the style gives way.",
    )
    controlnet_conditioning_scale = forms.FloatField(
        label="ControlNet conditioning scale",
        **bounds("controlnet_conditioning_scale", presets.CONDITIONING_SCALE),
        help_text="0 to 1.5: how firmly eyes, nose and mouth are held in their places (IdentityNet). "
        "Too low and the face drifts; too high and it looks stiff and full of contrast.",
    )
    guidance_method = forms.ChoiceField(
        choices=[(name, GUIDANCE_METHODS[name]) for name in presets.GUIDANCE_METHODS],
        initial=DEFAULTS["guidance_method"],
        help_text="How guidance_scale is applied without burning the picture.",
    )
    framing = forms.ChoiceField(
        choices=[(name, FRAMINGS[name]) for name in presets.FRAMINGS],
        initial=DEFAULTS["framing"],
        help_text="How much of the person is in the picture.",
    )
    negative_identity = forms.ChoiceField(
        choices=[(name, NEGATIVE_IDENTITIES[name]) for name in presets.NEGATIVE_IDENTITIES],
        initial=DEFAULTS["negative_identity"],
        help_text="The face that guidance pushes away from. InstantID never learnt a picture without a face, "
        "so zeros act as a strange face, and the push away from it grows with guidance_scale. With same "
        "the two cancel out: 10 to 12 then pushes no face; if the likeness weakens, raise ip_adapter_scale.",
    )
    control_guidance_end = forms.FloatField(
        label="Control guidance end",
        **bounds("control_guidance_end", presets.CONTROL_GUIDANCE_END),
        help_text="0.5 to 1: the share of the steps after which IdentityNet lets go of the face. At 1 it "
        "holds to the end: the firmest likeness, the hardest skin. Lower frees the texture of skin and hair "
        "in the last steps; much below 0.8 features begin to drift.",
    )
    is_face_masked = forms.BooleanField(
        label="Face mask",
        required=False,
        initial=DEFAULTS["is_face_masked"],
        help_text="On: identity acts in the face only, with a soft edge; words and style own clothes and "
        "backdrop. Off: it acts on the whole picture, so that more of the selfie comes through and the style "
        "gives way.",
    )
    loras = LorasField(
        label="LoRAs",
        required=False,
        help_text=f"One to a line, name and weight, at most {presets.MAX_LORAS}. The name is that of "
        "loras/NAME.safetensors in the weights bundle; the weight is 0 to 1.5: 0 does nothing, 1 is as the "
        "LoRA was trained, more exaggerates it. Several add up and each can cost likeness: start near 0.5.",
    )
    control_kind = forms.ChoiceField(
        label="Kind",
        required=False,
        choices=[(name, CONTROL_KINDS[name]) for name in ("", *presets.CONTROL_KINDS)],
        help_text="A second ControlNet beside IdentityNet, controls/KIND/ of the weights bundle. It costs "
        "time in each of its steps. With none, scale and end do nothing.",
    )
    control_image = forms.CharField(
        label="Image",
        required=False,
        help_text="The name of controls/images/NAME.png in the weights bundle: a finished canny, depth or "
        "pose picture, not a photo.",
    )
    control_conditioning_scale = forms.FloatField(
        label="Scale",
        required=False,
        **bounds("control_conditioning_scale", presets.CONDITIONING_SCALE),
        help_text="0 to 1.5: how strictly the image is followed. 0.3 to 0.5 suggests; above 0.8 it competes "
        "with the face.",
    )
    control_end = forms.FloatField(
        label="End",
        required=False,
        **bounds("control_end", (0.0, 1.0)),
        help_text="0 to 1: the share of the steps after which it lets go. About 0.35 sets the composition "
        "and leaves the detail free; 1 holds to the end.",
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
            self.initial.update(_unpacked(current))

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
            values["extra_control"] = self._checked(self._extra_control)
        if not self.errors:
            self._checked(
                lambda: StylePreset(slug=values.get("slug", self.instance.slug), **self.preset_fields())
            )
        return values

    def preset_fields(self) -> dict[str, Any]:
        """The words and numbers of the version that this form asks for."""
        return {name: self.cleaned_data[name] for name in PRESET_FIELDS}

    def _extra_control(self) -> ExtraControl | None:
        parts = {name: self.cleaned_data[f"control_{name}"] for name in CONTROL_PARTS}
        if not parts["kind"]:
            if parts["image"]:
                self.add_error("control_kind", "Choose a kind for the image, or empty the image's name.")
            return None
        missing = [name for name, value in parts.items() if value in ("", None)]
        for name in missing:
            self.add_error(f"control_{name}", "An extra control needs this.")
        return None if missing else ExtraControl(**parts)

    def _checked(self, make: Callable[[], T]) -> T | None:
        """What `make` returns; a PresetError becomes the error of the field that its message opens with."""
        try:
            return make()
        except PresetError as error:
            words = str(error).split()
            names = (words[0], "_".join(words[:2]))
            self.add_error(next((name for name in names if name in self.fields), None), f"{error}.")
            return None

    def changed_texts(self) -> list[str]:
        """Which fields of the style's own row were edited."""
        return [name for name in self.changed_data if name in TEXTS]


def _unpacked(version: StyleVersion) -> dict[str, Any]:
    """The JSON columns as the form's fields take them; both empty if the version is no longer valid."""
    try:
        preset = version.preset()
    except PresetError:
        return {"loras": ()}
    control = preset.extra_control
    parts = {f"control_{name}": getattr(control, name) for name in CONTROL_PARTS} if control else {}
    return {"loras": preset.loras, **parts}
