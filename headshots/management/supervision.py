"""Keeps child processes running, and leaves none of their processes behind."""

import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Final

from headshots.process import adopt_orphans

STOP_SECONDS: Final = 15  # what a child may take over a soft stop
RESTART_PAUSE_SECONDS: Final = 2.0


@dataclass
class Child:
    """One process of the service, restarted when it ends by itself."""

    name: str
    command: list[str]
    process: "subprocess.Popen[bytes] | None" = None
    ended_at: float = -math.inf


def supervise(children: Sequence[Child], say: Callable[[str], object]) -> bool:
    """Keep the children running until SIGINT or SIGTERM, then stop them all, gently first.

    When it returns, no process of a child's process group is left. True when it ended because one of them
    cannot run before something is mended (it exited with EX_CONFIG).
    """
    stopping = is_hopeless = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    adopt_orphans()
    while not stopping and not is_hopeless:
        for child in children:
            is_hopeless |= not _keep_running(child, say)
        _reap_orphans({child.process.pid for child in children if child.process})
        time.sleep(0.2)
    running = [child.process for child in children if child.process]
    for process in running:
        process.terminate()  # a pool's children leave a soft stop to their parent
    deadline = time.monotonic() + STOP_SECONDS
    for process in running:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _end_group(process.pid)
    return is_hopeless


def _keep_running(child: Child, say: Callable[[str], object]) -> bool:
    """Start the child, or start it again; False when that would change nothing."""
    if child.process is None:
        if time.monotonic() - child.ended_at >= RESTART_PAUSE_SECONDS:
            child.process = subprocess.Popen(child.command, env=_environment(), start_new_session=True)
    elif (code := child.process.poll()) is not None:
        _end_group(child.process.pid)
        child.process = None
        child.ended_at = time.monotonic()
        if code == os.EX_CONFIG:
            return False
        say(f"{child.name} ended with code {code}; starting it again")
    return True


def _environment() -> dict[str, str]:
    """Celery warns a superuser of pickle, which we do not accept; the warning would only frighten."""
    return {**os.environ, "PYTHONWARNINGS": "ignore:You're running the worker with superuser privileges"}


def _reap_orphans(leaders: Collection[int]) -> None:
    """Wait for adopted processes that have ended; the leaders' own ends are for `_keep_running` to see."""
    try:
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid in leaders:
                return
            os.waitpid(ended.si_pid, 0)
    except ChildProcessError:
        return


def _end_group(leader: int) -> None:
    """Kill what an ended leader left of its process group, and wait until it is gone.

    A pool's child outlives a parent that was stopped while it started, and holds the port or the lease.
    """
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return
    try:
        while True:
            os.waitpid(-leader, 0)
    except ChildProcessError:
        return
