"""The InstantID engine with random weights in processes of its own; `test_pack` has the premium pack."""

import json
import os
import subprocess
import sys
from pathlib import Path

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


def test_render_makes_a_picture_that_its_own_figures_repeat(weights: Path, tmp_path: Path) -> None:
    selfie = tmp_path / "selfie.jpg"
    selfie.write_bytes(sample_selfie())
    common = ("render", str(selfie), "--engine", "instantid", "--weights", str(weights), "--device", "cpu")
    numbers = ("--guidance", "9.5", "--steps", "20", "--scheduler", "euler_a", "--method", "interval")
    free = ("--tier", "free", "--count", "1", "--raw", "--json")

    first = json.loads(manage(*common, *numbers, *free, "--seed", "41", "--out", str(tmp_path / "a")))
    preset = first["preset"]
    assert (preset["guidance_scale"], preset["num_inference_steps"], preset["scheduler"]) == (
        9.5,
        20,
        "euler_a",
    )
    assert first["engine"] == "instantid"
    assert {"device", "dtype", "weights", "torch", "diffusers"} <= first["runs_on"].keys()
    assert Image.open(tmp_path / "a" / "corporate-41.raw.png").size == (896, 1152)

    repeat = ("--seed", str(first["seed"]), "--out", str(tmp_path / "b"))
    again = json.loads(manage(*common, *numbers, *free, *repeat))
    assert Path(first["file"]).read_bytes() == Path(again["file"]).read_bytes()
    assert first["measures"] == again["measures"]
