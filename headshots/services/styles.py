"""Styles: the built-in ones, immutable versions, publishing, and what a tier may choose."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Max

from headshots.exceptions import Refusal
from headshots.models import PRESET_FIELDS, Style, StyleVersion, columns_of
from headshots.services import audit
from headshots.tiers import Tier
from pipelines.presets import PresetError, StylePreset
from pipelines.styles import BUILTIN


def published(tier: Tier) -> list[Style]:
    """The styles a customer of `tier` may choose, in display order."""
    styles = Style.objects.filter(status=Style.Status.PUBLISHED).select_related("current")
    if tier.style_slugs is not None:
        styles = styles.filter(slug__in=tier.style_slugs)
    return list(styles)


def chosen(tier: Tier, slugs: Sequence[str]) -> list[StyleVersion]:
    """The current versions of the chosen styles, in display order; all of the tier's when none is named.

    Raises Refusal: unknown_style, style_not_in_tier.
    """
    everything = {style.slug: style for style in published_everywhere()}
    for slug in slugs:
        if slug not in everything:
            raise Refusal("unknown_style")
        if tier.style_slugs is not None and slug not in tier.style_slugs:
            raise Refusal("style_not_in_tier")
    wanted = slugs or tier.style_slugs or tuple(everything)
    versions = [style.current for slug, style in everything.items() if slug in wanted and style.current]
    if not versions:
        raise Refusal("unknown_style")
    return versions


def published_everywhere() -> list[Style]:
    """All published styles with their current versions, in display order."""
    return list(Style.objects.filter(status=Style.Status.PUBLISHED).select_related("current"))


@transaction.atomic
def add_version(style: Style, fields: Mapping[str, Any], *, actor: str, now: datetime) -> StyleVersion:
    """Make `fields` (PRESET_FIELDS, as StylePreset takes them) the newest version; unchanged ones make none.

    Raises PresetError when a number is out of bounds; nothing is written then.
    """
    preset = StylePreset(slug=style.slug, **{name: fields[name] for name in PRESET_FIELDS})
    locked = Style.objects.select_for_update().get(pk=style.pk)
    if locked.current and _holds(locked.current, preset):
        return locked.current
    newest = StyleVersion.objects.filter(style=locked).aggregate(newest=Max("number"))["newest"] or 0
    version = StyleVersion.objects.create(
        style=locked,
        number=newest + 1,
        created_at=now,
        created_by=actor,
        **columns_of(preset),
    )
    Style.objects.filter(pk=style.pk).update(current=version)
    style.current = version
    audit.record(
        "style.version",
        actor=actor,
        reference=style.slug,
        now=now,
        number=version.number,
        guidance=preset.guidance_scale,
        changed=_changed(locked.current, version),
    )
    return version


def _holds(version: StyleVersion, preset: StylePreset) -> bool:
    try:
        return version.preset() == preset
    except PresetError:  # saving anew is how an admin mends a version that is no longer valid
        return False


def _changed(before: StyleVersion | None, after: StyleVersion) -> str:
    if before is None:
        return "everything"
    return ", ".join(name for name in PRESET_FIELDS if getattr(before, name) != getattr(after, name))


@transaction.atomic
def create(style: Style, fields: Mapping[str, Any], *, actor: str, now: datetime) -> StyleVersion:
    """Store a new style as a draft with its first version. Raises PresetError; nothing is written then."""
    style.status = Style.Status.DRAFT
    style.save(force_insert=True)
    return add_version(style, fields, actor=actor, now=now)


@transaction.atomic
def describe(style: Style, changed: Sequence[str], *, actor: str, now: datetime) -> None:
    """Store the changed ones of a style's name, summary and position; they are not part of a version."""
    Style.objects.filter(pk=style.pk).update(**{name: getattr(style, name) for name in changed})
    audit.record("style.texts", actor=actor, reference=style.slug, now=now, changed=", ".join(changed))


@transaction.atomic
def set_status(style: Style, status: Style.Status, *, actor: str, now: datetime) -> bool:
    """Publish, retire or unpublish; False when the style is in that state already or has no version yet."""
    moved = (
        Style.objects.filter(pk=style.pk, current__isnull=False).exclude(status=status).update(status=status)
    )
    if moved:
        style.status = status
        audit.record("style.status", actor=actor, reference=style.slug, now=now, status=str(status))
    return bool(moved)


@transaction.atomic
def seed_builtin(*, now: datetime) -> int:
    """Create the built-in styles that are missing; the count of those created.

    A style that exists is left alone, so an admin's edits survive every restart and upgrade.
    """
    created_count = 0
    for position, builtin in enumerate(BUILTIN, start=1):
        if not Style.objects.filter(slug=builtin.preset.slug).exists():
            style = Style(
                slug=builtin.preset.slug, name=builtin.name, summary=builtin.summary, position=position * 10
            )
            fields = {name: getattr(builtin.preset, name) for name in PRESET_FIELDS}
            create(style, fields, actor="built-in", now=now)
            set_status(style, Style.Status.PUBLISHED, actor="built-in", now=now)
            created_count += 1
    return created_count
