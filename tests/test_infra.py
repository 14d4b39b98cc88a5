"""The servers that `infra/dev test` starts for the tests: they end with it, and it ends as the tests did."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from headshots.env import ROOT

# infra/dev as far as the servers need it; what is not installed here is left out.
SCRIPT = """
set -eu
bin=$(dirname "$PYTHON")
say() { printf '%s\\n' "$*" >&2; }
is_root() { [ "$(id -u)" = 0 ]; }
apt_install() { return 1; }
skip() { say "skipped: $1"; }
. infra/servers.sh
start_servers
echo "$servers"
"""

REAL = shutil.which("epmd")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.servers,
    pytest.mark.skipif(REAL is None, reason="rabbitmq-server is not installed"),
]

# As it answers while a node that has ended is still known to it: no to the first ones who ask it to end.
BUSY_EPMD = f"""#!/bin/sh
if [ "$1" = -kill ] && [ "$(wc -l <"$ASKED")" -lt 3 ]; then
  echo >>"$ASKED"
  exit 1
fi
exec {REAL} "$@"
"""


def commands_of(folder: str) -> list[str]:
    """The command lines of the processes that name the folder in their arguments or work in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if folder in words or str((process / "cwd").readlink()).startswith(folder):
                found.append(words)
        except OSError:  # it has ended meanwhile
            continue
    return found


def run(tmp_path: Path, then: str) -> tuple[int, str, str]:
    """The status of a script that starts the servers and goes on with `then`, their folder, its errors."""
    asked = tmp_path / "asked"
    asked.touch()
    (tmp_path / "epmd").write_text(BUSY_EPMD)
    (tmp_path / "epmd").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHON": sys.executable,
        "ASKED": str(asked),
    }
    ended = subprocess.run(
        ["/bin/sh", "-c", SCRIPT + then], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    return ended.returncode, ended.stdout.split()[0], ended.stderr


@pytest.mark.parametrize(("then", "status"), [("true", 0), ("exit 7", 7)])
def test_the_servers_of_the_tests_end_and_the_status_stays_that_of_the_tests(
    then: str, status: int, tmp_path: Path
) -> None:
    ended, folder, errors = run(tmp_path, then)
    assert (ended, errors) == (status, "")
    assert not Path(folder).exists()
    assert commands_of(folder) == []


def test_a_server_that_has_ended_by_itself_changes_nothing(tmp_path: Path) -> None:
    dead = 'kill -9 "$(cat "$servers/redis.pid")" "$(cat "$servers/rabbit/pid")"'
    ended, folder, _ = run(tmp_path, dead)
    assert ended == 0
    assert not Path(folder).exists()
    assert commands_of(folder) == []
