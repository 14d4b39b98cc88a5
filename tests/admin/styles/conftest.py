"""A style as staff find it, and its form."""

from typing import Any

import pytest
from django.urls import reverse

from headshots.models import PRESET_FIELDS, AuditEntry, Style

CHANGELIST = "/admin/headshots/style/"


@pytest.fixture
def style(built_in: None) -> Style:
    """Corporate, as it is built in, with the audit log emptied of how it came about."""
    AuditEntry.objects.all().delete()
    return Style.objects.select_related("current").get(slug="corporate")


def url_of(style: Style) -> str:
    return reverse("admin:headshots_style_change", args=(style.pk,))


def form_of(style: Style, **changes: Any) -> dict[str, Any]:
    """What the browser posts when nothing but `changes` was typed."""
    current = style.current
    assert current is not None
    texts = {name: getattr(style, name) for name in ("name", "summary", "position")}
    preset = {
        name: getattr(current, name) for name in PRESET_FIELDS if name not in ("loras", "extra_control")
    }
    packed = {"loras": "", "control_kind": "", "control_image": ""}
    scales = {"control_conditioning_scale": "0.4", "control_end": "1.0"}
    sent = {**texts, **preset, **packed, **scales, "based_on": current.number, "_continue": "1", **changes}
    return {name: value for name, value in sent.items() if value is not False}  # as an unticked box is sent


def entries() -> list[tuple[str, str, str, dict[str, Any]]]:
    return list(AuditEntry.objects.order_by("id").values_list("actor", "event", "reference", "detail"))


CANNY = {
    "control_kind": "canny",
    "control_image": "arch",
    "control_conditioning_scale": "0.5",
    "control_end": "0.35",
}
