"""Supervision: what a stop leaves of the processes that the children started."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headshots.env import ROOT
from tests.e2e.service import PATIENCE_SECONDS, wait_for

SCRIPT = """
import sys
from headshots.management.supervision import Child, supervise
supervise([Child("shell", ["sh", "-c", sys.argv[1]])], print)
"""


@pytest.mark.parametrize(
    "leader",
    [
        pytest.param("exit 0", id="stops when asked, and forgets its child"),
        pytest.param("kill -KILL $$", id="dies"),
    ],
)
def test_no_process_of_a_child_s_group_outlives_the_supervisor(leader: str) -> None:
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, f"trap '{leader}' TERM; sleep 1000 & echo $!; wait"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    with supervisor:
        assert supervisor.stdout is not None
        grandchild = Path(f"/proc/{int(supervisor.stdout.readline())}")
        assert grandchild.exists()
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(PATIENCE_SECONDS) == 0
    assert not grandchild.exists()


def test_an_orphan_with_a_session_of_its_own_is_reaped_when_it_ends() -> None:
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "(setsid sleep 0.2 & echo $!); exec sleep 1000"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    with supervisor:
        assert supervisor.stdout is not None
        orphan = Path(f"/proc/{int(supervisor.stdout.readline())}")
        wait_for(lambda: not orphan.exists())
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(PATIENCE_SECONDS) == 0
