"""Staff make new styles, move their status, and delete none."""

import math

import pytest
from django.test import Client
from django.urls import reverse

from headshots.models import Style
from pipelines.styles import BUILTIN
from tests.admin.conftest import messages_of, page_of
from tests.admin.styles.conftest import CHANGELIST, entries, form_of, url_of

pytestmark = pytest.mark.django_db


def test_a_new_style_starts_as_a_draft_with_version_one(boss: Client, style: Style) -> None:
    new = form_of(style, slug="stage", name="Stage", summary="Bright lights.", based_on="")

    response = boss.post(reverse("admin:headshots_style_add"), new)

    made = Style.objects.get(slug="stage")
    assert response.headers["Location"] == url_of(made)
    assert made.status == Style.Status.DRAFT
    assert made.current is not None
    assert (made.current.number, made.current.created_by) == (1, "ada")
    assert entries() == [
        ("ada", "style.version", "stage", {"number": 1, "guidance": 8.0, "changed": "everything"})
    ]


def test_a_new_style_out_of_bounds_is_not_made(boss: Client, style: Style) -> None:
    new = form_of(style, slug="stage", guidance_scale="13", based_on="")

    page_of(boss.post(reverse("admin:headshots_style_add"), new))

    assert Style.objects.count() == len(BUILTIN)
    assert entries() == []


def test_the_form_of_a_new_style_starts_with_values_in_their_bounds(boss: Client) -> None:
    response = boss.get(reverse("admin:headshots_style_add"))

    page_of(response)
    form = response.context["adminform"].form
    assert form.get_initial_for_field(form.fields["guidance_scale"], "guidance_scale") == 8.0
    assert not any(
        math.isnan(field.initial) for field in form.fields.values() if isinstance(field.initial, float)
    )


@pytest.mark.parametrize(
    ("action", "before", "after"),
    [
        ("publish", "draft", "published"),
        ("retire", "published", "retired"),
        ("take_back", "published", "draft"),
    ],
)
def test_an_action_moves_the_status_of_several_styles(
    boss: Client, style: Style, action: str, before: str, after: str
) -> None:
    chosen = Style.objects.filter(slug__in=("tech", "casual"))
    chosen.update(status=before)
    selected = list(chosen.values_list("pk", flat=True))

    response = boss.post(CHANGELIST, {"action": action, "_selected_action": selected})

    assert messages_of(response) == [f"Now {after}: Tech, Casual."]
    assert {style.status for style in chosen} == {after}
    assert entries() == [
        ("ada", "style.status", "tech", {"status": after}),
        ("ada", "style.status", "casual", {"status": after}),
    ]


def test_a_status_a_style_already_has_is_left_and_not_audited(boss: Client, style: Style) -> None:
    response = boss.post(CHANGELIST, {"action": "publish", "_selected_action": [style.pk]})

    assert messages_of(response) == ["1 style left as before: in that state already, or without a version."]
    assert entries() == []


def test_the_button_saves_the_edit_and_moves_the_status(boss: Client, style: Style) -> None:
    response = boss.post(url_of(style), form_of(style, guidance_scale="9.5", _retire="Save and retire"))

    assert messages_of(response) == [
        "Saved Corporate as version 2.",
        "Now retired: Corporate.",
        "No style of the Free tier is published: its orders are refused now.",
    ]
    assert [event for _, event, _, _ in entries()] == ["style.version", "style.status"]
    page = page_of(boss.get(url_of(style)))
    assert 'value="Save and publish"' in page
    assert 'value="Save and retire"' not in page


def test_a_style_cannot_be_deleted(boss: Client, style: Style) -> None:
    response = boss.post(reverse("admin:headshots_style_delete", args=(style.pk,)), {"post": "yes"})
    boss.post(CHANGELIST, {"action": "delete_selected", "_selected_action": [style.pk], "post": "yes"})

    assert response.status_code == 403
    assert Style.objects.count() == len(BUILTIN)
