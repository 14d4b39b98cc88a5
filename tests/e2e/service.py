"""The real service in a test: site, workers, scheduler and purge as processes on their own data folder."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from headshots.env import ROOT
from headshots.management.site_client import SiteClient

PATIENCE_SECONDS = 300  # a busy machine is no failure; what succeeds is seen at once


@dataclass(frozen=True)
class Service:
    """A running part of the service, and a customer of its site."""

    process: "subprocess.Popen[bytes]"
    client: SiteClient

    def children(self, words: str) -> list[int]:
        """The ids of the processes below this one whose command line holds `words`."""
        rows = [row for path in Path("/proc").glob("[0-9]*") if (row := _process(path))]
        below = {self.process.pid}
        for _ in range(4):  # supervisor, pool parent, pool child
            below |= {pid for pid, parent, _ in rows if parent in below}
        return sorted(pid for pid, _, command in rows if pid in below and words in command)

    def kill(self, words: str) -> None:
        """SIGKILL for every process whose command line holds `words`; there must be one."""
        victims = self.children(words)
        assert victims
        for pid in victims:
            os.kill(pid, signal.SIGKILL)


def _process(folder: Path) -> tuple[int, int, str] | None:
    """A process's id, its parent's and its command line; None when it has just ended."""
    try:
        parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        return int(folder.name), parent, (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (OSError, ValueError):
        return None


@contextmanager
def running(data: Path, *options: str, **environment: str) -> Iterator[Service]:
    """`manage.py dev` with `options`, ready to serve; stopped as an operator would stop it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    client = SiteClient(f"http://localhost:{port}")
    started = {
        **os.environ,
        "HEADSHOTS_DATA": str(data),
        "SITE_URL": client.base_url,
        "PURGE_SETTLE_SECONDS": "0.2",
        **environment,
    }
    command = [sys.executable, str(ROOT / "manage.py"), "dev", "--port", str(port), *options]
    with (data.parent / "service.log").open("ab") as log:
        process = subprocess.Popen(command, env=started, stdout=log, stderr=log)
    try:
        if "--no-web" not in options:
            wait_for(client.is_ready)
        yield Service(process, client)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_SECONDS)


def wait_for(condition: Callable[[], bool]) -> None:
    """Returns as soon as `condition()` is true; fails the test when patience is at an end."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS} s"
        time.sleep(0.05)


def resident_megabytes(pid: int) -> float:
    """Memory a process holds, as the kernel counts it."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024
