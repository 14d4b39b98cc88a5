"""Fault points: listed all, silent unless asked for, and refused in production."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headshots import faults
from headshots.env import ROOT
from headshots.faults import InjectedFault, faultpoint


def python(script: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_point_in_the_code_is_listed_and_every_listed_point_is_in_the_code() -> None:
    sources = [path.read_text() for path in (ROOT / "headshots").rglob("*.py") if path.name != "faults.py"]
    placed = {name for text in sources for name in re.findall(r"\bfaultpoint\((.*)\)", text)}

    assert placed == {f'"{name}"' for name in faults.POINTS}
    assert len(faults.POINTS) >= 40


def test_a_point_does_nothing_when_no_fault_is_named() -> None:
    assert faults.VARIABLE not in os.environ

    for name in faults.POINTS:
        faultpoint(name)

    assert faults.hits() == {}


def test_a_point_raises_at_the_hit_that_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(faults.VARIABLE, "work.put=raise:2")
    faults.read_environment()
    try:
        faultpoint("work.put")
        faultpoint("work.intended")
        with pytest.raises(InjectedFault, match=r"work\.put"):
            faultpoint("work.put")
        faultpoint("work.put")
        assert faults.hits() == {"work.put": 3, "work.intended": 1}
    finally:
        monkeypatch.delenv(faults.VARIABLE)
        faults.read_environment()


def test_hit_0_is_every_hit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(faults.VARIABLE, "work.put=raise:0")
    faults.read_environment()
    try:
        for _ in range(3):
            with pytest.raises(InjectedFault):
                faultpoint("work.put")
    finally:
        monkeypatch.delenv(faults.VARIABLE)
        faults.read_environment()


def test_a_point_kills_the_process_before_anything_else_runs() -> None:
    script = (
        "from headshots.faults import faultpoint\n"
        "try:\n    print('before', flush=True)\n    faultpoint('work.put')\n"
        "finally:\n    print('after', flush=True)\n"
    )

    ended = python(script, HEADSHOTS_FAULTS="work.put=kill")

    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout == "before\n"


@pytest.mark.parametrize(
    "text", ["no.such.point=kill", "work.put=explode", "work.put", "work.put=kill:often"]
)
def test_what_cannot_be_understood_is_refused_at_the_start(text: str) -> None:
    ended = python("import headshots.faults", HEADSHOTS_FAULTS=text)

    assert ended.returncode == 1
    assert "ValueError" in ended.stderr


@pytest.mark.parametrize("text", ["work.put=kill", ""])
def test_production_does_not_start_with_faults(tmp_path: Path, text: str) -> None:
    production = {
        "HEADSHOTS_ENV": "production",
        "HEADSHOTS_DATA": str(tmp_path),
        "SECRET_KEY": "x" * 60,
        "DATABASE_URL": "postgres://localhost/x",
        "BROKER_URL": "redis://localhost",
        "ROOT_KEYS": str(tmp_path / "root.keys"),
        "RECEIPT_KEY": str(tmp_path / "signing.key"),
        "ENGINE": "instantid",
        "WEIGHTS": str(tmp_path),
        "SITE_URL": "https://headshots.example",
        "ALLOWED_HOSTS": "headshots.example",
    }

    ended = python(
        "from headshots import faults, env; env.embedded_defaults = lambda _: []; import headshots.settings",
        HEADSHOTS_FAULTS=text,
        **production,
    )

    assert ended.returncode == 1
    assert "HEADSHOTS_FAULTS kills processes at chosen points, for tests; unset it" in ended.stderr
