"""Deletion by real processes: any one caller is enough, and no process that holds keys can be dumped."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from headshots.env import ROOT
from pipelines.sample import sample_selfie
from tests.e2e.service import PATIENCE_SECONDS, running, wait_for

pytestmark = pytest.mark.slow

EXPIRE = """
update headshots_order set created_at = '2026-01-01 00:00:00', expires_at = '2026-01-01 23:00:00'
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder for processes of their own."""
    (tmp_path / "data").mkdir(mode=0o700)
    return tmp_path / "data"


def states(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "headshots.sqlite3", timeout=20)) as connection:
        return [state for (state,) in connection.execute("select state from headshots_order")]


def expire(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "headshots.sqlite3", timeout=20)) as connection, connection:
        connection.execute(EXPIRE)


def manage(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(ROOT / "manage.py"), *arguments],
        env={**os.environ, "HEADSHOTS_DATA": str(folder), "PURGE_SETTLE_SECONDS": "0.2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def dumps(pid: int) -> str:
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return " ".join(next(line for line in limits if line.startswith("Max core file size")).split()[4:6])


def test_the_purge_alone_deletes_when_nothing_else_runs(folder: Path) -> None:
    with running(folder, "--no-worker") as service:
        service.client.place(sample_selfie(), tier="free")
    expire(folder)

    watch = manage(folder, "purge", "--watch", "0.2")
    try:
        wait_for(lambda: states(folder) == ["purged"])
        assert dumps(watch.pid) == "0 0"
    finally:
        watch.send_signal(signal.SIGTERM)
    _, said = watch.communicate(timeout=PATIENCE_SECONDS)

    assert (watch.returncode, said) == (0, "")
    assert not list((folder / "blobs" / "o").rglob("*"))
    verify = manage(folder, "purge", "--verify", "--json")
    out, _ = verify.communicate(timeout=PATIENCE_SECONDS)
    assert verify.returncode == 0
    assert json.loads(out)["is_clean"]


def test_the_site_alone_deletes_and_is_ready_only_after_a_pass(folder: Path) -> None:
    with running(folder, "--no-worker") as service:
        service.client.place(sample_selfie(), tier="free")
    expire(folder)

    with running(folder, "--no-worker"):  # ready: a pass has begun the deletion
        assert states(folder) in (["purging"], ["purged"])
        wait_for(lambda: states(folder) == ["purged"])


def test_no_process_that_holds_keys_can_be_dumped(folder: Path) -> None:
    with running(folder) as service:
        web = service.children("headshots.wsgi")[-1]
        # Two parents and three children; the supervisor's own command line does not hold these words.
        wait_for(lambda: len(service.children("headshots.celery")) >= 5)
        pool = service.children("headshots.celery")
        wait_for(lambda: {dumps(pid) for pid in (web, *pool)} == {"0 0"})
        if os.geteuid() != 0:  # to root, root's processes look the same either way
            assert {Path(f"/proc/{pid}/mem").stat().st_uid for pid in (web, *pool)} == {0}
