"""manage.py render: what it says of a picture, and the numbers that its options change."""

import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from PIL import Image

from pipelines.styles import BUILTIN

pytestmark = pytest.mark.slow

CORPORATE = next(builtin.preset for builtin in BUILTIN if builtin.preset.slug == "corporate")


@pytest.fixture
def photo(selfie_jpeg: bytes, tmp_path: Path) -> str:
    path = tmp_path / "selfie.jpg"
    path.write_bytes(selfie_jpeg)
    return str(path)


def render(*arguments: str, out: Path) -> dict[str, Any]:
    """The facts of the one picture, by the engine that needs no weights."""
    printed = io.StringIO()
    call_command("render", *arguments, "--count", "1", "--json", "--out", str(out), stdout=printed)
    facts: dict[str, Any] = json.loads(printed.getvalue())
    return facts


def test_every_number_that_repeats_a_picture_is_printed(photo: str, tmp_path: Path) -> None:
    facts = render(photo, photo, "--tier", "free", "--seed", "7", "--raw", out=tmp_path / "out")

    assert facts["preset"] == json.loads(json.dumps(asdict(CORPORATE)))
    assert facts["seed"] == 7
    assert facts["tier"] == "free"
    assert facts["output"] == {"long_edge": 1152, "is_watermarked": True, "keeps_native": True}
    assert facts["photos"] == 2
    assert facts["start"] is None
    assert facts["engine"] == "preview"
    assert Path(facts["file"]).is_file()


@pytest.mark.parametrize(
    ("given", "printed"),
    [("face", "face"), ("10,20,300,400", {"left": 10, "top": 20, "width": 300, "height": 400})],
)
def test_the_picture_to_start_from_is_printed(photo: str, given: str, printed: Any, tmp_path: Path) -> None:
    start = tmp_path / "start.png"
    Image.new("RGB", (896, 1152)).save(start)
    options = ("--tier", "free", "--start", str(start), "--strength", "0.4", "--inpaint", given)

    facts = render(photo, *options, out=tmp_path / "out")

    assert facts["start"] == {"file": str(start), "strength": 0.4, "inpaint": printed}


def test_what_differs_from_the_published_pipeline_can_be_switched_off(photo: str, tmp_path: Path) -> None:
    plain = ("--method", "plain", "--scheduler", "euler", "--negative-identity", "zeros")
    facts = render(photo, "--tier", "free", *plain, "--control-end", "1", "--no-mask", out=tmp_path / "out")

    changed = replace(
        CORPORATE,
        guidance_method="plain",
        scheduler="euler",
        negative_identity="zeros",
        control_guidance_end=1.0,
        is_face_masked=False,
    )
    assert facts["preset"] == json.loads(json.dumps(asdict(changed)))


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--control-end", "0.4", "control_guidance_end must be between 0.5 and 1, not 0.4"),
        (
            "--negative-identity",
            "anyone",
            "negative_identity must be one of zeros, noise, same, not 'anyone'",
        ),
    ],
)
def test_a_number_out_of_bounds_is_named_and_makes_nothing(
    photo: str, option: str, value: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(CommandError, match=says):
        render(photo, option, value, out=tmp_path / "out")

    assert not (tmp_path / "out").exists()
