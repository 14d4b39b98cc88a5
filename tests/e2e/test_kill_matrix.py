"""The kill matrix: a process dies at each named point, another one goes on, and nothing is lost or left.

One life of the service goes through every point: orders paid early and late, a photo that is refused, shots
that fail once and for good, one picture too many, deletion by the customer and by time, a late writer, a
zombie, keys of hours. SIGKILL ends it at the point. A new process then does what beat, workers and
maintenance do; a payment event without an answer is delivered again. In the end every shot is delivered once,
failed or not needed, no order has more pictures than it promised, what is not needed is deleted, every
missing picture is paid back to the cent, every order is purged with a receipt, and the inspection finds
nothing.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headshots.env import ROOT
from headshots.faults import POINTS

pytestmark = pytest.mark.slow

# A point of the vault's files is passed by each of them: root key, photo, picture, tombstone, checkpoint, ...
HITS_OF_FILES = (2, 3, 4, 5, 6, 9, 12)


def lives(folder: Path, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the matrix, one for each case, in the order of the cases."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.e2e.faults_driver", str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    rows = {(row["point"], row["hit"]): row for row in map(json.loads, ended.stdout.splitlines())}
    return [rows[case["point"], case["hit"]] for case in cases]


def shown(rows: list[dict[str, Any]]) -> str:
    """The matrix as a table: where it died, what was found, how it ended."""
    return "\n".join(
        f"{row['point']:30} {row['hit']:2}  {row['found']:75}  {row['rounds']:2} rounds  {row['end']}"
        for row in rows
    )


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The life without a fault."""
    return lives(tmp_path_factory.mktemp("whole"), [{"point": "", "hit": 0}])[0]


def test_a_life_without_a_fault_passes_every_point(life: dict[str, Any]) -> None:
    assert life["problems"] == []
    assert life["hits"].keys() == POINTS.keys() - {"heartbeat.extending", "heartbeat.extended"}


def test_a_process_killed_at_any_point_loses_nothing_and_leaves_nothing(
    life: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = [{"point": point, "hit": 1} for point in POINTS]
    again = [
        {"point": point, "hit": hit}
        for point, passed in life["hits"].items()
        for hit in (HITS_OF_FILES if point.startswith("file.") else (2,))
        if hit <= passed
    ]

    rows = lives(tmp_path, first + again)

    with capsys.disabled():
        print(f"\n{shown(rows)}\n{len(rows)} deaths at {len(POINTS)} points")  # noqa: T201
    assert [f"{row['point']}:{row['hit']}" for row in rows if not row["killed"]] == []
    assert {f"{row['point']}:{row['hit']}": row["problems"] for row in rows if row["problems"]} == {}


def test_a_service_that_is_not_taken_up_again_would_be_noticed(tmp_path: Path) -> None:
    """The verdict itself: what a dead process leaves is a problem until somebody goes on."""
    cases = [{"point": point, "hit": 1} for point in ("accept.committed", "work.put", "purge.shredded")]
    rows = lives(tmp_path, [{**case, "rounds": 0} for case in cases])

    assert [row["problems"] != [] for row in rows] == [True, True, True]
