"""How a style's versions are shown: the prompt as the text encoders get it, and what each version changed."""

from datetime import timedelta
from typing import Final

from django.db.models import Count, Q, QuerySet
from django.utils import timezone

from headshots.admin.base import Table, at
from headshots.models import PRESET_FIELDS, Style, StyleVersion

TOKEN_LIMIT: Final = 75  # SDXL's text encoders read 77, two of which are the start and the end
TOKENS_PER_WORD: Final = 1.3  # CLIP's usual ratio for English; names and numbers take more


def words_in(prompt: str) -> int:
    """How many words a prompt has."""
    return len(prompt.split())


def tokens_in(prompt: str) -> int:
    """About how many tokens the text encoders will make of a prompt."""
    return round(words_in(prompt) * TOKENS_PER_WORD)


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
        headers=("Version", "When (UTC)", "By", "guidance_scale", "Changed against the version before"),
        rows=[
            (
                version.number,
                at(version.created_at),
                version.created_by,
                version.guidance_scale,
                _changes(version, before),
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
        rows=[(name, getattr(version, name)) for name in PRESET_FIELDS],
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
    return (f"“{value}”" if value else "nothing") if isinstance(value, str) else f"{value:g}"


def with_recent_orders(styles: QuerySet[Style]) -> QuerySet[Style]:
    """The styles, each with `recent_orders`: how many orders of the last 24 hours contain it."""
    since = timezone.now() - timedelta(hours=24)
    return styles.select_related("current").annotate(
        recent_orders=Count(
            "versions__shots__order", filter=Q(versions__shots__order__created_at__gte=since), distinct=True
        )
    )
