"""Styles: seeded once, versioned for ever, bounded three times."""

import math
from datetime import datetime
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import DatabaseError, transaction

from headshots.models import PRESET_FIELDS, AuditEntry, Immutable, Style, StyleVersion, columns_of
from headshots.services import styles
from headshots.tiers import TIERS
from pipelines.presets import ExtraControl, Lora, PresetError
from pipelines.styles import BUILTIN

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("built_in")]


LORAS = (Lora(name="film-grain", weight=0.6), Lora(name="soft_light", weight=1.0))
CONTROL = ExtraControl(kind="depth", image="arch", conditioning_scale=0.4, end=0.35)
NEW_NUMBERS: dict[str, Any] = {
    "negative_identity": "same",
    "control_guidance_end": 0.85,
    "is_face_masked": False,
    "loras": LORAS,
    "extra_control": CONTROL,
}


def current_of(slug: str) -> StyleVersion:
    version = Style.objects.get(slug=slug).current
    assert version is not None
    return version


def fields_of(slug: str, **changes: Any) -> dict[str, Any]:
    preset = current_of(slug).preset()
    return {name: getattr(preset, name) for name in PRESET_FIELDS} | changes


def test_the_eight_styles_are_published_in_order() -> None:
    assert [style.slug for style in styles.published(TIERS["premium"])] == [
        "corporate",
        "executive",
        "creative",
        "tech",
        "academic",
        "healthcare",
        "casual",
        "outdoor",
    ]
    assert [style.slug for style in styles.published(TIERS["free"])] == ["corporate"]


def test_seeding_again_creates_nothing_and_keeps_edits(now: datetime) -> None:
    style = Style.objects.get(slug="tech")
    styles.add_version(style, fields_of("tech", guidance_scale=12.0), actor="anna", now=now)

    assert styles.seed_builtin(now=now) == 0

    current = Style.objects.get(slug="tech").current
    assert current is not None
    assert (current.number, current.guidance_scale) == (2, 12.0)


def test_an_edit_makes_a_new_version_and_an_audit_entry(now: datetime) -> None:
    style = Style.objects.get(slug="tech")

    version = styles.add_version(style, fields_of("tech", mood="calm"), actor="anna", now=now)

    assert (version.number, version.mood, version.created_by, version.created_at) == (2, "calm", "anna", now)
    newest, first = AuditEntry.objects.filter(event="style.version", reference="tech")
    assert (newest.actor, newest.detail) == ("anna", {"number": 2, "guidance": 9.0, "changed": "mood"})
    assert (first.actor, first.detail) == (
        "built-in",
        {"number": 1, "guidance": 9.0, "changed": "everything"},
    )


def test_saving_without_a_change_makes_no_version(now: datetime) -> None:
    style = Style.objects.get(slug="tech")

    assert styles.add_version(style, fields_of("tech"), actor="anna", now=now).number == 1
    assert StyleVersion.objects.filter(style=style).count() == 1


@pytest.mark.parametrize("guidance_scale", [6.9, 12.1, float("nan"), float("inf")])
def test_guidance_outside_7_to_12_is_refused_by_service_model_and_database(
    guidance_scale: float, now: datetime
) -> None:
    style = Style.objects.get(slug="tech")
    fields = fields_of("tech", guidance_scale=guidance_scale)
    columns = columns_of(current_of("tech").preset()) | {"guidance_scale": guidance_scale}

    with pytest.raises(PresetError, match="guidance_scale must be between 7 and 12"):
        styles.add_version(style, fields, actor="anna", now=now)
    row = StyleVersion(style=style, number=9, created_at=now, created_by="anna", **columns)
    if not math.isnan(guidance_scale):  # a form's number field refuses NaN before any model sees it
        with pytest.raises(ValidationError):
            row.full_clean()
    with pytest.raises(DatabaseError), transaction.atomic():
        row.save()

    assert StyleVersion.objects.filter(style=style).count() == 1


@pytest.mark.parametrize("guidance_scale", [7.0, 12.0])
def test_the_bounds_themselves_are_allowed(guidance_scale: float, now: datetime) -> None:
    fields = fields_of("tech", guidance_scale=guidance_scale)

    version = styles.add_version(Style.objects.get(slug="tech"), fields, actor="anna", now=now)

    assert version.guidance_scale == guidance_scale


def test_a_version_cannot_be_changed_or_deleted() -> None:
    version = StyleVersion.objects.get(style__slug="tech")

    with pytest.raises(Immutable):
        version.save()
    with pytest.raises(Immutable):
        version.delete()


def test_a_style_without_a_version_cannot_be_published(now: datetime) -> None:
    style = Style.objects.create(slug="new", name="New", summary="New")

    assert not styles.set_status(style, Style.Status.PUBLISHED, actor="anna", now=now)
    with pytest.raises(DatabaseError), transaction.atomic():
        Style.objects.filter(pk=style.pk).update(status=Style.Status.PUBLISHED)


def test_retiring_twice_is_one_change(now: datetime) -> None:
    style = Style.objects.get(slug="tech")

    assert styles.set_status(style, Style.Status.RETIRED, actor="anna", now=now)
    assert not styles.set_status(style, Style.Status.RETIRED, actor="anna", now=now)
    assert AuditEntry.objects.filter(event="style.status", actor="anna").count() == 1


@pytest.mark.parametrize("builtin", BUILTIN, ids=lambda builtin: builtin.preset.slug)
def test_a_built_in_style_comes_back_as_it_was_seeded(builtin: Any) -> None:
    assert current_of(builtin.preset.slug).preset() == builtin.preset


def test_every_number_of_a_preset_survives_the_database(now: datetime) -> None:
    style = Style.objects.get(slug="tech")

    made = styles.add_version(style, fields_of("tech", **NEW_NUMBERS), actor="anna", now=now)

    stored = StyleVersion.objects.get(pk=made.pk)
    preset = stored.preset()
    assert {name: getattr(preset, name) for name in NEW_NUMBERS} == NEW_NUMBERS
    assert stored.loras == [{"name": "film-grain", "weight": 0.6}, {"name": "soft_light", "weight": 1.0}]
    assert stored.extra_control == {
        "kind": "depth",
        "image": "arch",
        "conditioning_scale": 0.4,
        "end": 0.35,
    }
    entry = AuditEntry.objects.filter(event="style.version", reference="tech").first()
    assert entry is not None
    assert entry.detail["changed"] == ", ".join(NEW_NUMBERS)


def test_the_same_loras_and_control_again_make_no_version(now: datetime) -> None:
    style = Style.objects.get(slug="tech")
    styles.add_version(style, fields_of("tech", **NEW_NUMBERS), actor="anna", now=now)

    again = fields_of("tech", loras=tuple(LORAS), extra_control=CONTROL)

    assert styles.add_version(style, again, actor="anna", now=now).number == 2
    assert StyleVersion.objects.filter(style=style).count() == 2
    assert AuditEntry.objects.filter(event="style.version", reference="tech").count() == 2


def test_each_new_number_alone_makes_a_version(now: datetime) -> None:
    style = Style.objects.get(slug="tech")

    for number, (name, value) in enumerate(NEW_NUMBERS.items(), start=2):
        version = styles.add_version(style, fields_of("tech", **{name: value}), actor="anna", now=now)
        assert version.number == number


@pytest.mark.parametrize("end", [0.49, 1.01])
def test_identitynet_s_end_outside_half_to_all_steps_is_refused_by_service_and_database(
    end: float, now: datetime
) -> None:
    style = Style.objects.get(slug="tech")
    columns = columns_of(current_of("tech").preset()) | {"control_guidance_end": end}

    with pytest.raises(PresetError, match="control_guidance_end must be between"):
        styles.add_version(style, fields_of("tech", control_guidance_end=end), actor="anna", now=now)
    with pytest.raises(DatabaseError), transaction.atomic():
        StyleVersion.objects.create(style=style, number=9, created_at=now, created_by="anna", **columns)

    assert StyleVersion.objects.filter(style=style).count() == 1


MALFORMED: list[tuple[str, Any]] = [
    ("loras", None),
    ("loras", 4),
    ("loras", "film-grain"),
    ("loras", ["film-grain"]),
    ("loras", [["film-grain", 0.6]]),
    ("loras", [{"name": "film-grain"}]),
    ("loras", [{"name": "film-grain", "weight": "0.6"}]),
    ("loras", [{"name": "film-grain", "weight": None}]),
    ("loras", [{"name": "film-grain", "weight": 0.6, "file": "x"}]),
    ("loras", [{"name": 7, "weight": 0.6}]),
    ("loras", [{"name": "../film", "weight": 0.6}]),
    ("loras", [{"name": "film-grain", "weight": 2}]),
    ("loras", [{"name": "film-grain", "weight": 0.6}] * 2),
    ("extra_control", "depth"),
    ("extra_control", False),
    ("extra_control", []),
    ("extra_control", {}),
    ("extra_control", {"kind": "depth", "image": "arch"}),
    ("extra_control", {"kind": ["depth"], "image": "arch", "conditioning_scale": 0.4}),
    ("extra_control", {"kind": "depth", "image": None, "conditioning_scale": 0.4}),
    ("extra_control", {"kind": "depth", "image": "arch", "conditioning_scale": "0.4"}),
    ("extra_control", {"kind": "depth", "image": "arch", "conditioning_scale": 0.4, "end": {}}),
]


@pytest.mark.parametrize(("column", "value"), MALFORMED)
def test_a_malformed_json_column_is_a_preset_error_that_saving_anew_mends(
    column: str, value: Any, now: datetime
) -> None:
    style = Style.objects.get(slug="tech")
    good = fields_of("tech")
    broken = StyleVersion(pk=current_of("tech").pk, style=style, **columns_of(current_of("tech").preset()))
    setattr(broken, column, value)
    with pytest.raises(PresetError):
        broken.preset()

    if column != "loras" or value is not None:  # the column itself takes no NULL
        StyleVersion.objects.filter(style=style).update(**{column: value})
        with pytest.raises(PresetError):
            current_of("tech").preset()
        assert styles.add_version(style, good, actor="anna", now=now).number == 2
        assert current_of("tech").preset() == BUILTIN[3].preset
