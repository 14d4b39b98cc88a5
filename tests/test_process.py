"""Hardening: what the kernel says of a process that has asked for it."""

import subprocess
import sys
from pathlib import Path

from headshots.env import ROOT

# Root's own processes look the same either way, so it becomes somebody else first; the kernel takes that for
# a reason not to dump, which is undone here.
SCRIPT = """
import ctypes, os, sys
import headshots.process
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
if sys.argv[1] == "hardened":
    headshots.process.harden()
print(headshots.process.is_hardened(), flush=True)
sys.stdin.read()
"""


def seen_from_outside(how: str) -> tuple[bool, bool, str]:
    """What the process says of itself, whether root owns its memory in /proc, and its limit of core dumps."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    with process:
        assert process.stdout is not None
        said = process.stdout.readline().strip() == b"True"
        folder = Path(f"/proc/{process.pid}")
        limits = (folder / "limits").read_text().splitlines()
        is_roots = (folder / "mem").stat().st_uid == 0
        process.communicate(b"")
    limit = next(line for line in limits if line.startswith("Max core file size"))
    return said, is_roots, " ".join(limit.split()[4:6])


def test_a_hardened_process_cannot_be_dumped() -> None:
    assert seen_from_outside("plain")[:2] == (False, False)
    assert seen_from_outside("hardened") == (True, True, "0 0")
