"""Styles: seeded once, versioned for ever, bounded three times."""

import math
from datetime import datetime
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import DatabaseError, transaction

from headshots.models import PRESET_FIELDS, AuditEntry, Immutable, Style, StyleVersion
from headshots.services import styles
from headshots.tiers import TIERS
from pipelines.presets import PresetError

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("built_in")]


def fields_of(slug: str, **changes: Any) -> dict[str, Any]:
    version = Style.objects.get(slug=slug).current
    return {name: getattr(version, name) for name in PRESET_FIELDS} | changes


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
    entry = AuditEntry.objects.filter(event="style.version", reference="tech").first()
    assert entry is not None
    assert (entry.actor, entry.detail["number"]) == ("anna", 2)


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

    with pytest.raises(PresetError, match="guidance_scale must be between 7 and 12"):
        styles.add_version(style, fields, actor="anna", now=now)
    row = StyleVersion(style=style, number=9, created_at=now, created_by="anna", **fields)
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
