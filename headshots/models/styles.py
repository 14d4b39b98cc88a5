"""Styles and their immutable versions: what a picture is made by."""

from dataclasses import asdict
from typing import Any, Final, NoReturn

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from headshots.models.base import Immutable
from pipelines import presets
from pipelines.presets import ExtraControl, Lora, PresetError, StylePreset


def _choices(values: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(value, value) for value in values]


def _bounds(low: float, high: float) -> list[Any]:
    return [MinValueValidator(low), MaxValueValidator(high)]


def _between(field: str, bounds: tuple[float, float]) -> models.CheckConstraint:
    return models.CheckConstraint(
        condition=Q(**{f"{field}__gte": bounds[0], f"{field}__lte": bounds[1]}),
        name=f"{field}_within_bounds",
        violation_error_message=f"{field} must be between {bounds[0]:g} and {bounds[1]:g}",
    )


class Style(models.Model):
    """A look that customers can choose; its words and numbers stand in its versions."""

    class Status(models.TextChoices):
        DRAFT = "draft"
        PUBLISHED = "published"
        RETIRED = "retired"

    slug = models.SlugField(unique=True, max_length=40)
    name = models.CharField(max_length=60)
    summary = models.CharField(max_length=200)
    position = models.PositiveSmallIntegerField(default=100)
    status = models.CharField(max_length=10, choices=Status, default=Status.DRAFT)
    current = models.ForeignKey(
        "StyleVersion", on_delete=models.PROTECT, related_name="+", null=True, blank=True, editable=False
    )
    published_at = models.DateTimeField(null=True, editable=False)  # when it was last switched on
    switched_off_at = models.DateTimeField(null=True, editable=False)  # by the service, for failing

    class Meta:
        ordering = ("position", "slug")
        constraints = (
            models.CheckConstraint(
                condition=~Q(status="published") | Q(current__isnull=False),
                name="published_style_has_a_version",
            ),
            models.CheckConstraint(
                condition=Q(status__in=("draft", "published", "retired")), name="style_status_is_known"
            ),
        )

    def __str__(self) -> str:
        return self.name


class StyleVersion(models.Model):
    """One immutable state of a style. Orders point here, so an edit never changes what was bought."""

    style = models.ForeignKey(Style, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    subject = models.CharField(max_length=300)
    wardrobe = models.CharField(max_length=300)
    setting = models.CharField(max_length=300)
    lighting = models.CharField(max_length=300)
    lens = models.CharField(max_length=300)
    mood = models.CharField(max_length=300)
    composition = models.CharField(max_length=300)
    negative_prompt = models.CharField(max_length=600)
    guidance_scale = models.FloatField(validators=_bounds(*presets.GUIDANCE_SCALE))
    num_inference_steps = models.PositiveSmallIntegerField(validators=_bounds(*presets.NUM_INFERENCE_STEPS))
    scheduler = models.CharField(max_length=20, choices=_choices(presets.SCHEDULERS))
    ip_adapter_scale = models.FloatField(validators=_bounds(*presets.CONDITIONING_SCALE))
    controlnet_conditioning_scale = models.FloatField(validators=_bounds(*presets.CONDITIONING_SCALE))
    guidance_method = models.CharField(max_length=20, choices=_choices(presets.GUIDANCE_METHODS))
    framing = models.CharField(max_length=20, choices=_choices(presets.FRAMINGS))
    negative_identity = models.CharField(
        max_length=20, choices=_choices(presets.NEGATIVE_IDENTITIES), default="noise"
    )
    control_guidance_end = models.FloatField(validators=_bounds(*presets.CONTROL_GUIDANCE_END), default=0.9)
    is_face_masked = models.BooleanField(default=True)
    loras = models.JSONField(default=list, blank=True)  # [{"name": ..., "weight": ...}]
    extra_control = models.JSONField(null=True, blank=True)  # the fields of presets.ExtraControl
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=150)

    class Meta:
        ordering = ("style", "-number")
        constraints = (
            models.UniqueConstraint(fields=("style", "number"), name="style_version_number_is_unique"),
            _between("guidance_scale", presets.GUIDANCE_SCALE),
            _between("num_inference_steps", presets.NUM_INFERENCE_STEPS),
            _between("ip_adapter_scale", presets.CONDITIONING_SCALE),
            _between("controlnet_conditioning_scale", presets.CONDITIONING_SCALE),
            _between("control_guidance_end", presets.CONTROL_GUIDANCE_END),
        )

    def __str__(self) -> str:
        return f"{self.style.slug} v{self.number}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise Immutable(f"style version {self.pk} is immutable; create a new one")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise Immutable(f"style version {self.pk} is immutable")

    def preset(self) -> StylePreset:
        """The version as the pipeline takes it; the way back from `columns_of`.

        Raises PresetError if a bound was tightened since, or a JSON column holds something else.
        """
        fields = {name: getattr(self, name) for name in PRESET_FIELDS}
        try:
            fields["loras"] = tuple(Lora(**entry) for entry in self.loras)
            fields["extra_control"] = (
                None if self.extra_control is None else ExtraControl(**self.extra_control)
            )
            return StylePreset(slug=self.style.slug, **fields)
        except TypeError as error:  # a missing, unknown or mistyped entry
            raise PresetError(f"style version {self.pk} holds no valid preset: {error}") from error


PRESET_FIELDS: Final = (
    *presets.PROMPT_PARTS,
    "negative_prompt",
    "guidance_scale",
    "num_inference_steps",
    "scheduler",
    "ip_adapter_scale",
    "controlnet_conditioning_scale",
    "guidance_method",
    "framing",
    "negative_identity",
    "control_guidance_end",
    "is_face_masked",
    "loras",
    "extra_control",
)


def columns_of(preset: StylePreset) -> dict[str, Any]:
    """The columns of a StyleVersion that hold `preset`; `StyleVersion.preset` is the way back."""
    columns = {name: getattr(preset, name) for name in PRESET_FIELDS}
    columns["loras"] = [asdict(lora) for lora in preset.loras]
    columns["extra_control"] = None if preset.extra_control is None else asdict(preset.extra_control)
    return columns
