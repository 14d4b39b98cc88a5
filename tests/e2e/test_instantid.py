"""The InstantID engine with random weights in processes of its own; `test_pack` has the premium pack."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from headshots.env import ROOT
from pipelines.sample import sample_selfie

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*estimate.*:FutureWarning")]


def manage(*arguments: str, **environment: str) -> str:
    """What a management command prints."""
    finished = subprocess.run(
        [sys.executable, ROOT / "manage.py", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    return finished.stdout


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    manage("weights", "tiny", str(folder))
    return folder


def test_a_free_order_goes_from_upload_to_receipt_in_real_processes(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    printed = manage(
        "demo",
        "--json",
        "--out",
        str(tmp_path / "out"),
        HEADSHOTS_DATA=str(tmp_path / "data"),
        ENGINE="instantid",
        WEIGHTS=str(weights),
        DEVICE="cpu",
    )
    events = [json.loads(line) for line in printed.splitlines()]
    saved = [event for event in events if event["event"] == "saved"]
    assert [(event["width"], event["height"]) for event in saved] == [(896, 1152)] * 3
    assert [event["event"] for event in events[-3:]] == ["deleted", "gone", "receipt"]
    assert events[-1]["objects_left"] == 0
    pictures = sorted((tmp_path / "out").glob("headshot-*.jpg"))
    assert len({path.read_bytes() for path in pictures}) == 3


def options_of(facts: dict[str, Any]) -> list[str]:
    """The command line that asks for the picture of these facts, from them alone."""
    preset, start = facts["preset"], facts["start"]
    numbers = {
        "--style": preset["slug"],
        "--seed": facts["seed"],
        "--tier": facts["tier"],
        "--guidance": preset["guidance_scale"],
        "--steps": preset["num_inference_steps"],
        "--scheduler": preset["scheduler"],
        "--method": preset["guidance_method"],
        "--negative-identity": preset["negative_identity"],
        "--control-end": preset["control_guidance_end"],
        "--start": start["file"],
        "--strength": start["strength"],
        "--inpaint": start["inpaint"],
    }
    mask = "--mask" if preset["is_face_masked"] else "--no-mask"
    return [mask, *(str(word) for pair in numbers.items() for word in pair)]


def test_render_makes_a_picture_that_its_own_figures_repeat(weights: Path, tmp_path: Path) -> None:
    selfie = tmp_path / "selfie.jpg"
    selfie.write_bytes(sample_selfie())
    start = tmp_path / "start.png"
    Image.open(selfie).resize((896, 1152)).save(start)
    common = ("render", str(selfie), "--engine", "instantid", "--weights", str(weights), "--device", "cpu")
    numbers = ("--guidance", "9.5", "--steps", "20", "--scheduler", "euler_a", "--method", "interval")
    switches = ("--negative-identity", "zeros", "--control-end", "0.7", "--no-mask", "--style", "tech")
    given = ("--start", str(start), "--strength", "0.45", "--inpaint", "face")
    free = ("--tier", "free", "--count", "1", "--raw", "--json")

    first = json.loads(
        manage(*common, *numbers, *switches, *given, *free, "--seed", "41", "--out", str(tmp_path / "a"))
    )
    preset = first["preset"]
    assert (preset["guidance_scale"], preset["num_inference_steps"], preset["scheduler"]) == (
        9.5,
        20,
        "euler_a",
    )
    assert (preset["negative_identity"], preset["control_guidance_end"], preset["is_face_masked"]) == (
        "zeros",
        0.7,
        False,
    )
    assert first["start"] == {"file": str(start), "strength": 0.45, "inpaint": "face"}
    assert first["engine"] == "instantid"
    assert {"device", "dtype", "weights", "torch", "diffusers", "framing"} <= first["runs_on"].keys()
    assert Image.open(tmp_path / "a" / "tech-41.raw.png").size == (896, 1152)

    printed = manage(*common, *options_of(first), "--count", "1", "--json", "--out", str(tmp_path / "b"))
    again = json.loads(printed)
    assert Path(first["file"]).read_bytes() == Path(again["file"]).read_bytes()
    assert first["measures"] == again["measures"]
    assert first["preset"] == again["preset"]
