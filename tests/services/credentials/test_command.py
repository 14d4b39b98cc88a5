"""manage.py verify-picture: in words, as JSON, and by its exit code."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from PIL import Image
from pytest_django import Settings

import headshots
from headshots.env import ROOT
from headshots.services import credentials
from headshots.tiers import TIERS, Tier
from pipelines.finish import finish
from pipelines.provenance import SourceType
from pipelines.types import OutputSpec

pytestmark = pytest.mark.slow


def verify(data: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, ROOT / "manage.py", "verify-picture", *arguments],
        env={**os.environ, "HEADSHOTS_DATA": str(data)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_says_in_words_what_a_picture_claims(data: Path, picture: bytes, tmp_path: Path) -> None:
    file = tmp_path / "picture.jpg"
    file.write_bytes(credentials.attach(picture))

    told = verify(data, file)

    assert (told.returncode, told.stderr) == (0, "")
    *lines, mark = told.stdout.splitlines()
    assert mark.startswith("  Invisible mark: found in the whole picture (")
    assert lines == [
        "VALID: nothing in this file was altered since it was signed.",
        "",
        "  XMP: created using generative AI",
        "  XMP on data mining: DMI-PROHIBITED",
        f"  Made with: Headshots {headshots.__version__}",
        "  Action: c2pa.created: created using generative AI",
        "  Use for ai generative training: not allowed",
        "  Use for ai training: not allowed",
        "  Use for data mining: not allowed",
        "  Source pictures: 0; thumbnail: none",
        "  Signed by: DEVELOPMENT, not to be trusted",
        "  Certificate: ours, a DEVELOPMENT one that proves nothing to others",
        "  Signature holds, binding to the file holds.",
    ]


@pytest.mark.parametrize("tier", TIERS.values(), ids=TIERS)
def test_the_command_finds_the_invisible_mark_of_each_tier(data: Path, tier: Tier, tmp_path: Path) -> None:
    file, screenshot = tmp_path / "picture.jpg", tmp_path / "screenshot.png"
    output = OutputSpec(long_edge=tier.long_edge, is_watermarked=tier.is_watermarked)
    noise = np.random.default_rng(1).integers(256, size=(9, 7, 3), dtype=np.uint8)
    clouds = np.asarray(Image.fromarray(noise).resize((896, 1152), Image.Resampling.BICUBIC))
    done = finish(clouds, output=output, marks=(), source_type=SourceType.GENERATED)
    file.write_bytes(credentials.attach(done.jpeg))
    with Image.open(file) as image:
        image.resize((448, 576)).save(screenshot)

    (code, words), (shot_code, shot_words) = ask(file), ask(screenshot)

    assert (code, shot_code) == (0, 1)
    assert "Invisible mark: found in the whole picture" in words
    assert shot_words.startswith("NOT VALID")
    assert "Invisible mark: found in the whole picture" in shot_words


def test_the_command_says_so_where_there_is_no_invisible_mark(data: Path, tmp_path: Path) -> None:
    strip, text = tmp_path / "strip.png", tmp_path / "text.jpg"
    Image.fromarray(np.random.default_rng(1).integers(256, size=(64, 256, 3), dtype=np.uint8)).save(strip)
    text.write_bytes(b"no picture at all")

    _, words = ask(strip)
    answer = json.loads(ask(strip, "--json")[1])["invisible_mark"]

    assert "Invisible mark: not found (" in words
    assert (answer["is_marked"], answer["is_part"]) == (False, True)
    assert 24 < answer["bits"] < 45
    assert "Invisible mark: the pixels could not be read" in ask(text)[1]
    assert json.loads(ask(text, "--json")[1])["invisible_mark"] is None


def test_the_command_answers_by_exit_code_and_in_json(data: Path, picture: bytes, tmp_path: Path) -> None:
    altered = bytearray(credentials.attach(picture))
    altered[-20] ^= 1
    file = tmp_path / "picture.jpg"
    file.write_bytes(altered)

    told = verify(data, file, "--json")
    away = verify(data, tmp_path / "nowhere.jpg")

    answer = json.loads(told.stdout)
    assert (told.returncode, answer["valid"]) == (1, False)
    assert answer["credentials"]["signature_holds"] is True
    assert answer["credentials"]["failures"] == ["assertion.dataHash.mismatch"]
    assert away.returncode == 2
    assert "No such file" in away.stderr


def ask(*arguments: str | Path) -> tuple[int, str]:
    """The command in this process: its exit code, and what it said."""
    out = io.StringIO()
    try:
        call_command("verify-picture", *map(str, arguments), stdout=out)
    except CommandError as error:
        return error.returncode, str(error)
    except SystemExit as ended:
        return int(str(ended.code)), out.getvalue()
    return 0, out.getvalue()


def test_a_picture_without_a_statement_is_not_valid(data: Path, picture: bytes, tmp_path: Path) -> None:
    file = tmp_path / "picture.jpg"
    file.write_bytes(picture)

    code, words = ask(file)

    assert code == 1
    assert words.startswith("NOT VALID: It carries no signed statement")
    assert "  XMP: created using generative AI" in words
    assert ask(file, "--certificate", file) == (2, f"certificate: {file} holds no certificate")


def test_the_command_knows_only_the_certificates_it_is_given(
    data: Path, picture: bytes, tmp_path: Path, settings: Settings
) -> None:
    file, certificate_file = tmp_path / "picture.jpg", tmp_path / "certificate.pem"
    file.write_bytes(credentials.attach(picture))
    certificate_file.write_bytes(credentials.certificate_path().read_bytes())
    settings.DATA = tmp_path / "elsewhere"

    stranger, known = ask(file), ask(file, "--certificate", certificate_file)

    assert (stranger[0], known[0]) == (0, 0)
    assert "Certificate: not one of ours" in stranger[1]
    assert "Certificate: ours" in known[1]
    assert not settings.DATA.exists()  # looking makes no key
