"""Staff edit a style's numbers: each change is a new version, and what is out of bounds is refused."""

from typing import Any
from urllib.parse import urlencode

import pytest
from django.test import Client

from headshots.admin import style_fields
from headshots.models import PRESET_FIELDS, Style, StyleVersion
from pipelines.presets import ExtraControl, Lora
from pipelines.styles import BUILTIN
from tests.admin.conftest import messages_of, page_of
from tests.admin.styles.conftest import CANNY, entries, form_of, url_of

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


def test_a_changed_number_becomes_a_new_version_and_one_audit_entry(boss: Client, style: Style) -> None:
    response = boss.post(url_of(style), form_of(style, guidance_scale="9.5"))

    assert messages_of(response) == ["Saved Corporate as version 2."]
    newest, first = StyleVersion.objects.filter(style=style)
    assert (newest.number, newest.guidance_scale, newest.created_by) == (2, 9.5, "ada")
    assert (first.number, first.guidance_scale, first.created_by) == (1, 8.0, "built-in")
    assert Style.objects.get(pk=style.pk).current == newest
    assert entries() == [
        ("ada", "style.version", "corporate", {"number": 2, "guidance": 9.5, "changed": "guidance_scale"})
    ]


@pytest.mark.parametrize("name", [*style_fields.PART_HELP])
def test_each_part_of_the_prompt_can_be_edited(boss: Client, style: Style, name: str) -> None:
    boss.post(url_of(style), form_of(style, **{name: "  a new\r\n text "}))

    newest = StyleVersion.objects.get(style=style, number=2)
    changed = [field for field in PRESET_FIELDS if getattr(newest, field) != getattr(style.current, field)]
    assert changed == [name]
    assert getattr(newest, name) == "a new text"


def test_a_form_is_taken_as_browsers_send_it(boss: Client, style: Style) -> None:
    encoded = urlencode(form_of(style, guidance_scale="9.5"))

    boss.post(url_of(style), encoded, content_type="application/x-www-form-urlencoded")

    assert StyleVersion.objects.get(style=style, number=2).guidance_scale == 9.5


def test_saving_without_a_change_makes_no_version_and_says_so(boss: Client, style: Style) -> None:
    response = boss.post(url_of(style), form_of(style))

    assert messages_of(response) == ["Nothing was changed, so no new version was made."]
    assert StyleVersion.objects.filter(style=style).count() == 1
    assert entries() == []


def test_a_changed_text_is_audited_and_makes_no_version(boss: Client, style: Style) -> None:
    response = boss.post(url_of(style), form_of(style, name="Company", position=15))

    assert messages_of(response) == ["Saved name, position. No word or number changed: no new version."]
    assert entries() == [("ada", "style.texts", "corporate", {"changed": "name, position"})]
    after = Style.objects.get(pk=style.pk)
    assert (after.name, after.position, after.current) == ("Company", 15, style.current)


@pytest.mark.parametrize("value", [7, 12])
def test_guidance_scale_takes_both_of_its_bounds(boss: Client, style: Style, value: int) -> None:
    boss.post(url_of(style), form_of(style, guidance_scale=value))

    assert StyleVersion.objects.get(style=style, number=2).guidance_scale == value


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *(
            ("guidance_scale", value, "guidance_scale must be a number between 7 and 12.")
            for value in ("6.9", "12.1", "nan", "inf", "much")
        ),
        ("num_inference_steps", "19", "num_inference_steps must be a number between 20 and 50."),
        ("num_inference_steps", "51", "num_inference_steps must be a number between 20 and 50."),
        ("ip_adapter_scale", "1.6", "ip_adapter_scale must be a number between 0 and 1.5."),
        (
            "controlnet_conditioning_scale",
            "-0.1",
            "controlnet_conditioning_scale must be a number between 0 and 1.5.",
        ),
        ("scheduler", "heun", "Select a valid choice. heun is not one of the available choices."),
        ("subject", " ", "This field is required."),
        *(
            ("control_guidance_end", value, "control_guidance_end must be a number between 0.5 and 1.")
            for value in ("0.49", "1.01", "nan")
        ),
        ("negative_identity", "mean", "Select a valid choice. mean is not one of the available choices."),
        (
            "loras",
            "film-grain 1.6",
            "Line 1: lora weight must be between 0 and 1.5, not 1.6.",
        ),
        (
            "loras",
            "\nfilm-grain 0.6\n../film 0.6",
            "Line 3: lora must be 1 to 64 of a-z, 0-9, - and _, not '../film'.",
        ),
        (
            "loras",
            "film-grain",
            "Line 1 must be a name and a weight, such as “film-grain 0.6”.",
        ),
        (
            "loras",
            "film-grain a-lot",
            "Line 1 must be a name and a weight, such as “film-grain 0.6”.",
        ),
        ("loras", "a 0.1\nb 0.1\na 0.2", "loras must be at most 4 different ones."),
        ("loras", "a 1\nb 1\nc 1\nd 1\ne 1", "loras must be at most 4 different ones."),
        ("control_kind", "tile", "Select a valid choice. tile is not one of the available choices."),
        (
            "control_conditioning_scale",
            "1.6",
            "control_conditioning_scale must be a number between 0 and 1.5.",
        ),
        ("control_end", "-0.1", "control_end must be a number between 0 and 1."),
    ],
)
def test_a_value_out_of_bounds_is_refused_and_changes_nothing(
    boss: Client, style: Style, name: str, value: str, message: str
) -> None:
    response = boss.post(url_of(style), form_of(style, **{name: value, "name": "Company"}))

    page_of(response)
    assert response.context["adminform"].form.errors == {name: [message]}
    assert StyleVersion.objects.filter(style=style).count() == 1
    assert Style.objects.get(pk=style.pk).name == "Corporate"
    assert entries() == []


@pytest.mark.parametrize(
    ("sent", "field", "message"),
    [
        (
            {"guidance_scale": "9.5"},
            "guidance_scale",
            "guidance_scale must be between 7 and 9, not 9.5.",
        ),
        (
            {"control_kind": "pose", "control_image": "arch", "control_conditioning_scale": "1.2"},
            "control_conditioning_scale",
            "control conditioning_scale must be between 0 and 1, not 1.2.",
        ),
        (
            {"control_guidance_end": "0.6"},
            "control_guidance_end",
            "control_guidance_end must be between 0.8 and 1, not 0.6.",
        ),
    ],
)
def test_a_bound_that_only_the_pipeline_knows_is_an_error_of_its_field(
    boss: Client,
    style: Style,
    monkeypatch: pytest.MonkeyPatch,
    sent: dict[str, str],
    field: str,
    message: str,
) -> None:
    monkeypatch.setattr("pipelines.presets.GUIDANCE_SCALE", (7.0, 9.0))
    monkeypatch.setattr("pipelines.presets.CONDITIONING_SCALE", (0.0, 1.0))
    monkeypatch.setattr("pipelines.presets.CONTROL_GUIDANCE_END", (0.8, 1.0))

    response = boss.post(url_of(style), form_of(style, **sent))

    page_of(response)
    assert response.context["adminform"].form.errors == {field: [message]}
    assert StyleVersion.objects.filter(style=style).count() == 1
    assert entries() == []


@pytest.mark.parametrize(
    ("sent", "name", "value"),
    [
        ({"negative_identity": "same"}, "negative_identity", "same"),
        ({"control_guidance_end": "0.5"}, "control_guidance_end", 0.5),
        ({"is_face_masked": False}, "is_face_masked", False),
        (
            {"loras": " film-grain  0.6 \r\n\r\nsoft_light 1\r\n"},
            "loras",
            (Lora(name="film-grain", weight=0.6), Lora(name="soft_light", weight=1.0)),
        ),
        (
            CANNY,
            "extra_control",
            ExtraControl(kind="canny", image="arch", conditioning_scale=0.5, end=0.35),
        ),
    ],
)
def test_each_number_of_the_identity_can_be_edited_and_stays_when_saved_again(
    boss: Client, style: Style, sent: dict[str, Any], name: str, value: object
) -> None:
    boss.post(url_of(style), form_of(style, **sent))

    edited = Style.objects.select_related("current").get(pk=style.pk)
    assert edited.current is not None
    preset = edited.current.preset()
    before = BUILTIN[0].preset
    assert [field for field in PRESET_FIELDS if getattr(preset, field) != getattr(before, field)] == [name]
    assert getattr(preset, name) == value
    shown = boss.get(url_of(edited)).context["adminform"].form
    again = {field.name: field.value() for field in shown if field.value() not in (None, False)}
    response = boss.post(url_of(edited), {**again, "_continue": "1"})
    assert messages_of(response) == ["Nothing was changed, so no new version was made."]


def test_an_extra_control_is_taken_away_with_its_kind(boss: Client, style: Style) -> None:
    boss.post(url_of(style), form_of(style, **CANNY))
    edited = Style.objects.get(pk=style.pk)

    boss.post(url_of(edited), form_of(edited, control_kind="", control_conditioning_scale="", control_end=""))

    assert StyleVersion.objects.get(style=style, number=3).preset() == BUILTIN[0].preset


@pytest.mark.parametrize(
    ("sent", "errors"),
    [
        (
            {"control_image": "arch"},
            {"control_kind": ["Choose a kind for the image, or empty the image's name."]},
        ),
        (
            {"control_kind": "depth", "control_conditioning_scale": "", "control_end": ""},
            {
                "control_image": ["An extra control needs this."],
                "control_conditioning_scale": ["An extra control needs this."],
                "control_end": ["An extra control needs this."],
            },
        ),
        (
            {"control_kind": "depth", "control_image": "../arch"},
            {
                "control_image": [
                    "control image must be 1 to 64 of a-z, 0-9, - and _, not '../arch'.",
                ]
            },
        ),
        (
            {"loras": "film-grain 0.6\nfilm 9\nodd"},
            {
                "loras": [
                    "Line 2: lora weight must be between 0 and 1.5, not 9.",
                    "Line 3 must be a name and a weight, such as “film-grain 0.6”.",
                ]
            },
        ),
    ],
)
def test_an_incomplete_extra_is_refused_at_the_field_that_lacks(
    boss: Client, style: Style, sent: dict[str, str], errors: dict[str, list[str]]
) -> None:
    response = boss.post(url_of(style), form_of(style, **sent))

    page_of(response)
    form = response.context["adminform"].form
    assert form.errors == errors
    assert {name: form[name].value() for name in sent} == sent
    assert StyleVersion.objects.filter(style=style).count() == 1
    assert entries() == []


def test_a_version_that_is_no_longer_valid_can_be_opened_and_mended(boss: Client, style: Style) -> None:
    StyleVersion.objects.filter(style=style).update(loras=[{"name": "film-grain"}])

    page = page_of(boss.get(url_of(style)))
    response = boss.post(url_of(style), form_of(style))

    assert "Correct it and save: no order can use it." in page
    assert messages_of(response) == ["Saved Corporate as version 2."]
    assert StyleVersion.objects.get(style=style, number=2).preset() == BUILTIN[0].preset
    assert "Correct it and save" not in page_of(boss.get(url_of(style)))


def test_an_edit_of_a_version_that_is_no_longer_current_is_refused(boss: Client, style: Style) -> None:
    boss.post(url_of(style), form_of(style, guidance_scale="9.5"))

    response = boss.post(url_of(style), form_of(style, lens="50mm lens"))

    assert "ada saved version 2 while you were editing." in page_of(response)
    assert StyleVersion.objects.filter(style=style).count() == 2
    assert len(entries()) == 1


def test_a_prompt_that_is_too_long_is_saved_with_a_warning(boss: Client, style: Style) -> None:
    response = boss.post(url_of(style), form_of(style, setting="a b c d " * 12))

    saved, warning = messages_of(response)
    assert saved == "Saved Corporate as version 2."
    assert warning.startswith("The prompt is too long. About ")
    assert "what comes after the 75th is not read" in page_of(boss.get(url_of(style)))
