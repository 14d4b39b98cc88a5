"""Staff look at styles: the list, the history, help texts, and versions that are no longer valid."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from headshots.models import PRESET_FIELDS, Order, Style, StyleVersion
from pipelines.presets import tokens_in
from tests.admin.conftest import page_of
from tests.admin.styles.conftest import CANNY, CHANGELIST, entries, form_of, url_of

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


def test_the_list_shows_numbers_and_the_orders_of_the_last_day(
    boss: Client, style: Style, make_order: Callable[..., Order], now: datetime
) -> None:
    make_order()
    make_order()
    old = now - timedelta(hours=25)
    Order.objects.filter(pk=make_order().pk).update(created_at=old)

    response = boss.get(CHANGELIST)

    screen = admin.site._registry[Style]
    row = next(iter(response.context["cl"].result_list))
    shown = [getattr(screen, name)(row) for name in ("version", "guidance_scale", "steps", "recent_orders")]
    assert (row.slug, shown) == ("corporate", [1, 8.0, 30, 2])


def test_the_history_says_how_each_number_changed(boss: Client, style: Style) -> None:
    changes = {
        "negative_identity": "zeros",
        "control_guidance_end": "1",
        "is_face_masked": False,
        "loras": "film-grain 0.6\nsoft 1",
        **CANNY,
    }
    boss.post(url_of(style), form_of(style, **changes))

    page = page_of(boss.get(url_of(style)))
    assert (
        "negative_identity: “noise” → “zeros”; control_guidance_end: 0.9 → 1; is_face_masked: on → off; "
        "loras: nothing → film-grain 0.6, soft 1.0; "
        "extra_control: nothing → canny of arch, scale 0.5, end 0.35"
    ) in page


def test_every_number_has_a_help_text_that_tells_its_range_or_choices(boss: Client) -> None:
    form = boss.get(reverse("admin:headshots_style_add")).context["adminform"].form

    named = [*PRESET_FIELDS, "control_kind", "control_image", "control_conditioning_scale", "control_end"]
    for name in named:
        if name != "extra_control":
            assert len(form.fields[name].help_text) > 20, name
    assert form.fields["control_guidance_end"].help_text.startswith("0.5 to 1: ")
    assert [value for value, _ in form.fields["negative_identity"].choices] == ["zeros", "noise", "same"]


def test_the_page_shows_prompt_count_and_history(boss: Client, style: Style) -> None:
    boss.post(url_of(style), form_of(style, guidance_scale="9.5", lens=""))

    page = page_of(boss.get(url_of(style)))
    preset = Style.objects.get(pk=style.pk).current.preset()  # type: ignore[union-attr]
    assert preset.prompt in page
    assert f"{len(preset.prompt.split())} words, about {tokens_in(preset.prompt)} of 75 tokens" in page
    assert "lens: “85mm lens, f/4, sharp eyes” → nothing; guidance_scale: 8 → 9.5" in page
    assert "first version" in page


def test_staff_who_may_only_look_see_the_parts_and_cannot_save(viewer: Client, style: Style) -> None:
    StyleVersion.objects.filter(style=style).update(loras=[{"name": "film-grain", "weight": 0.6}])

    page = page_of(viewer.get(url_of(style)))
    refused = viewer.post(url_of(style), form_of(style, guidance_scale="9.5"))
    viewer.post(CHANGELIST, {"action": "retire", "_selected_action": [style.pk]})

    assert "tailored navy suit, crisp white shirt" in page
    rows = {row[0]: row[1] for table in viewer.get(url_of(style)).context["tables"] for row in table.rows}
    assert [rows[name] for name in PRESET_FIELDS[-5:]] == ["noise", "0.9", "on", "film-grain 0.6", "nothing"]
    assert 'type="submit"' not in page.split('id="content-main"')[1]
    assert refused.status_code == 403
    assert StyleVersion.objects.filter(style=style).count() == 1
    assert Style.objects.get(pk=style.pk).status == Style.Status.PUBLISHED
    assert entries() == []
