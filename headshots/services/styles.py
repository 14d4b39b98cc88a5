"""Styles: the built-in ones, immutable versions, publishing, and what a tier may choose."""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import transaction
from django.db.models import Count, F, Max, Q

from headshots.exceptions import Refusal
from headshots.models import PRESET_FIELDS, Shot, Style, StyleVersion, columns_of
from headshots.services import audit
from headshots.states import MADE_STATES, ShotState
from headshots.tiers import Tier
from pipelines.presets import PresetError, StylePreset
from pipelines.styles import BUILTIN

log = logging.getLogger(__name__)

# A style is switched off when more than a fifth of its shots of the last ten minutes failed for good. Fewer
# than ten say nothing, and a single order may fail for its photo alone.
FAILING_WINDOW: Final = timedelta(minutes=10)
FAILING_LEAST_SHOTS: Final = 10
FAILING_LEAST_ORDERS: Final = 2
FAILING_SHARE: Final = 0.2
NO_FAULT_OF_A_STYLE: Final = ("worker_lost", "engine_broken", "out_of_memory", "deadline", "selfie_deleted")


def published(tier: Tier) -> list[Style]:
    """The styles a customer of `tier` may choose, in display order."""
    styles = Style.objects.filter(status=Style.Status.PUBLISHED).select_related("current")
    if tier.style_slugs is not None:
        styles = styles.filter(slug__in=tier.style_slugs)
    return list(styles)


def chosen(tier: Tier, slugs: Sequence[str]) -> list[StyleVersion]:
    """The current versions of the chosen styles, in display order; all of the tier's when none is named.

    Raises Refusal: unknown_style, style_not_in_tier, no_style_left.
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
        raise Refusal("no_style_left")
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
    changes: dict[str, Any] = {"status": status, "switched_off_at": None}
    if status == Style.Status.PUBLISHED:
        changes["published_at"] = now
    moved = Style.objects.filter(pk=style.pk, current__isnull=False).exclude(status=status).update(**changes)
    if moved:
        style.status = status
        audit.record("style.status", actor=actor, reference=style.slug, now=now, status=str(status))
    return bool(moved)


def switch_off_failing(now: datetime) -> list[str]:
    """Take the styles that fail too often out of the choice; their slugs. Running orders are not touched.

    Counted are the shots of the current version since it was last published, so a style that staff switch on
    again begins anew. Shots whose worker was lost or its device failed, or whose time was over, count for
    nothing.
    """
    finished = Shot.objects.filter(
        state__in=(*MADE_STATES, ShotState.FAILED),
        finished_at__gt=now - FAILING_WINDOW,
        finished_at__lte=now,
        style_version=F("style_version__style__current"),
        style_version__style__status=Style.Status.PUBLISHED,
    ).exclude(error_code__in=NO_FAULT_OF_A_STYLE)
    counts = (
        finished.filter(
            Q(style_version__style__published_at=None)
            | Q(finished_at__gt=F("style_version__style__published_at"))
        )
        .order_by()
        .values_list("style_version__style")
        .annotate(
            shots=Count("pk"),
            failed=Count("pk", filter=Q(state=ShotState.FAILED)),
            orders=Count("order", filter=Q(state=ShotState.FAILED), distinct=True),
        )
        .filter(shots__gte=FAILING_LEAST_SHOTS, orders__gte=FAILING_LEAST_ORDERS)
    )
    return [
        slug
        for style_id, shot_count, failed_count, _ in counts
        if failed_count > FAILING_SHARE * shot_count
        and (slug := _switch_off(style_id, shot_count, failed_count, now))
    ]


@transaction.atomic
def _switch_off(style_id: int, shot_count: int, failed_count: int, now: datetime) -> str:
    """The style's slug; empty when somebody was faster."""
    published = Style.objects.filter(pk=style_id, status=Style.Status.PUBLISHED)
    slug = Style.objects.values_list("slug", flat=True).get(pk=style_id)
    if not published.update(status=Style.Status.RETIRED, switched_off_at=now):
        return ""
    log.error("style %s is switched off: %d of %d shots failed", slug, failed_count, shot_count)
    audit.record(
        "style.switched_off", actor="service", reference=slug, now=now, shots=shot_count, failed=failed_count
    )
    return slug


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
