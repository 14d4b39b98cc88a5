"""How a style's versions are shown: the prompt as the text encoders get it, and what each version changed."""

from datetime import timedelta

from django.db.models import Count, Q, QuerySet
from django.utils import timezone

from headshots.admin.base import Table, at, labelled
from headshots.models import PRESET_FIELDS, Style, StyleVersion
from pipelines.presets import TOKEN_LIMIT, tokens_in


def words_in(prompt: str) -> int:
    """How many words a prompt has."""
    return len(prompt.split())


def warning_about(prompt: str) -> str:
    """What to tell an admin about a prompt whose end may be cut off; empty if it is short enough."""
    tokens = tokens_in(prompt)
    if tokens <= TOKEN_LIMIT:
        return ""
    return f"About {tokens} tokens: what comes after the {TOKEN_LIMIT}th is not read. Shorten it."


def history(style: Style) -> Table:
    """All versions of a style, newest first, each with what it changed."""
    versions = list(style.versions.order_by("-number"))
    earlier: list[StyleVersion | None] = [*versions[1:], None]
    return Table(
        title="Version history",
        headers=("Version", "Changed against the version before", "guidance_scale", "By", "When (UTC)"),
        rows=[
            (
                version.number,
                _changes(version, before),  # next to the number: a phone shows the first columns
                version.guidance_scale,
                version.created_by,
                at(version.created_at),
            )
            for version, before in zip(versions, earlier, strict=True)
        ],
        note="Versions are never edited or deleted: each order keeps the ones it was placed with.",
    )


def contents(version: StyleVersion) -> Table:
    """The words and numbers of one version, for staff who may look but not edit."""
    return Table(
        title=f"Version {version.number}",
        headers=("Part", "Value"),
        rows=[
            (name, value if isinstance(value, str) else _shown(value))
            for name in PRESET_FIELDS
            for value in (getattr(version, name),)
        ],
    )


def _changes(version: StyleVersion, before: StyleVersion | None) -> str:
    if before is None:
        return "first version"
    return "; ".join(
        f"{name}: {_shown(old)} → {_shown(new)}"
        for name in PRESET_FIELDS
        if (old := getattr(before, name)) != (new := getattr(version, name))
    )


def _shown(value: object) -> str:
    """A column as a person reads it; JSON that holds no LoRAs or extra control is shown as it is."""
    match value:
        case bool():
            return "on" if value else "off"
        case None | "" | []:
            return "nothing"
        case str():
            return f"“{value}”"
        case {"name": name, "weight": weight}:
            return f"{name} {weight}"
        case {"kind": kind, "image": image, "conditioning_scale": scale, "end": end}:
            return f"{kind} of {image}, scale {scale}, end {end}"
        case dict():
            return labelled(value)
        case list():
            return ", ".join(_shown(entry) for entry in value)
        case _:
            return f"{value:g}"


def with_recent_orders(styles: QuerySet[Style]) -> QuerySet[Style]:
    """The styles, each with `recent_orders`: how many orders of the last 24 hours contain it."""
    since = timezone.now() - timedelta(hours=24)
    return styles.select_related("current").annotate(
        recent_orders=Count(
            "versions__shots__order", filter=Q(versions__shots__order__created_at__gte=since), distinct=True
        )
    )
