"""Workers as processes: how they start or refuse to, share an order, and lose nothing by dying."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from headshots.env import ROOT

pytestmark = pytest.mark.slow

FAULTY_SHOTS = int(os.environ.get("FAULTY_SHOTS", "100"))  # 2000 for the acceptance run
FAULT_PERCENT = 10
POISON = 3  # the third shot of the first order


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir(mode=0o700)
    return tmp_path / "data"


def drive(folder: Path, *arguments: object, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The answer of one command of the driver."""
    finished = subprocess.run(
        [sys.executable, "-m", "tests.e2e.worker_driver", str(folder), *map(str, arguments)],
        cwd=ROOT,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=450,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    answer: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return answer


def start_gpu_worker(folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A dedicated GPU worker that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "worker", "gpu"],
        env={**os.environ, "HEADSHOTS_DATA": str(folder), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def migrate(folder: Path) -> None:
    subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "migrate", "-v0", "--skip-checks"],
        env={**os.environ, "HEADSHOTS_DATA": str(folder)},
        check=True,
    )


def test_a_gpu_worker_does_not_start_on_an_unmigrated_database(folder: Path) -> None:
    ended = start_gpu_worker(folder)

    assert ended.returncode == os.EX_CONFIG
    assert ended.stderr.splitlines() == ["CommandError: the database is not migrated: manage.py migrate"]


@pytest.mark.parametrize(
    ("name", "value"), [("SLOTS", "many"), ("LEASE_SECONDS", "-1"), ("DATABASE_URL", "mysql://somewhere")]
)
def test_a_gpu_worker_does_not_start_with_a_setting_that_means_nothing(
    folder: Path, name: str, value: str
) -> None:
    ended = start_gpu_worker(folder, **{name: value})

    assert ended.returncode == os.EX_CONFIG
    (line,) = ended.stderr.splitlines()
    assert name in line


def test_a_gpu_worker_does_not_start_without_weights(folder: Path) -> None:
    migrate(folder)
    unset = start_gpu_worker(folder, ENGINE="instantid")
    empty = start_gpu_worker(folder, ENGINE="instantid", WEIGHTS=str(folder.parent), DEVICE="cpu")

    assert (unset.returncode, empty.returncode) == (os.EX_CONFIG, os.EX_CONFIG)
    for ended, words in ((unset, "needs WEIGHTS"), (empty, "weights")):
        assert "Traceback" not in ended.stderr
        (line,) = ended.stderr.splitlines()
        assert words in line


def test_a_gpu_worker_whose_engine_cannot_be_loaded_ends_with_one_line(folder: Path) -> None:
    """The bundle is whole, and there is no CUDA here, or it holds random weights which CUDA may have."""
    migrate(folder)
    weights = folder.parent / "tiny"
    subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "weights", "tiny", str(weights)],
        env={**os.environ, "HEADSHOTS_DATA": str(folder)},
        capture_output=True,
        check=True,
    )
    ended = start_gpu_worker(
        folder, ENGINE="instantid", WEIGHTS=str(weights), DEVICE="cuda", CUDA_VISIBLE_DEVICES=""
    )

    assert ended.returncode == os.EX_CONFIG
    assert "Traceback" not in ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if "cannot start" in line]
    assert "CUDA" in line.upper()


def test_several_processes_share_an_order_and_make_the_same_pictures(folder: Path) -> None:
    drive(folder, "prepare", 1, 8)
    read = {}
    for processes in (1, 2, 4):
        copy = folder.parent / f"data-{processes}"
        shutil.copytree(folder, copy)
        drive(copy, "work", processes)
        read[processes] = drive(copy, "read")

    assert [answer["shots"] for answer in read.values()] == [["done"]] * 3
    assert len(read[1]["pictures"]) == 8
    assert read[2]["pictures"] == read[1]["pictures"]
    assert read[4]["pictures"] == read[1]["pictures"]


def test_a_shot_that_kills_every_worker_is_given_up_and_takes_nobody_along(folder: Path) -> None:
    drive(folder, "prepare", 2, 8)
    worked = drive(folder, "work", 2, 0, 0, POISON)
    found = drive(folder, "read")

    assert worked["deaths"] == 3  # twice with the shots beside it, the third time alone
    assert (found["orders"], found["shots"]) == (["ready"], ["done", "failed"])
    assert len(found["pictures"]) == 15
    assert found["stored"] == 15
    assert (found["most_attempts"], found["unknown"], found["missing"]) == (3, 0, 0)


def test_dying_stopped_and_broken_workers_deliver_every_headshot_once(folder: Path) -> None:
    drive(folder, "prepare", FAULTY_SHOTS // 50, 50)
    worked = drive(folder, "work", 4, FAULT_PERCENT)
    found = drive(folder, "read")

    assert worked["struck"] > FAULTY_SHOTS * FAULT_PERCENT / 200
    assert worked["deaths"] > 0
    assert (found["orders"], found["shots"]) == (["ready"], ["done"])
    assert len({picture.split()[0] for picture in found["pictures"]}) == FAULTY_SHOTS
    assert found["stored"] == FAULTY_SHOTS  # none twice
    assert (found["unknown"], found["missing"]) == (0, 0)  # nothing in the store that no row knows of
