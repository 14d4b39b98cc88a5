"""Runs a script in several real processes at once."""

import subprocess
import sys
from pathlib import Path

import headshots


def in_processes(count: int, script: str, *arguments: object) -> list[str]:
    """What each of several Python processes prints; they wait for each other's start at a line from us."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    root = Path(headshots.__file__).parents[1]
    started = [
        subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate()[0].strip() for process in started]
    assert [process.returncode for process in started] == [0] * count
    return answers
