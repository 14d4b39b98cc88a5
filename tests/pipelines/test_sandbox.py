"""The child that decodes photos gives the same answers as the decoder, and cannot do anything else."""

import os
import subprocess
import sys
import time

import pytest

from pipelines import images, sandbox
from pipelines.errors import Refused, Retryable
from tests.pipelines.test_images import hostile


def confined(code: str) -> subprocess.CompletedProcess[str]:
    program = f"from pipelines import sandbox\nsandbox._confine()\n{code}"
    return subprocess.run([sys.executable, "-B", "-c", program], capture_output=True, text=True, timeout=20)


def test_a_photo_comes_back_as_the_decoder_makes_it(selfie_jpeg: bytes) -> None:
    assert sandbox.clean_portrait_in_sandbox(selfie_jpeg) == images.clean_portrait(selfie_jpeg)


@pytest.mark.parametrize(
    "name", ["empty", "text", "jpeg cut at 50 %", "png bomb", "png text bomb", "apng", "banner"]
)
def test_refusals_of_the_child_reach_the_caller(name: str) -> None:
    raw, code = hostile()[name]

    with pytest.raises(Refused) as refusal:
        sandbox.clean_portrait_in_sandbox(raw)

    assert refusal.value.code == code


def test_a_child_out_of_time_is_killed_and_leaves_no_zombie(selfie_jpeg: bytes) -> None:
    started = time.monotonic()

    with pytest.raises((Refused, Retryable)):
        sandbox.clean_portrait_in_sandbox(selfie_jpeg, timeout_seconds=0.01)

    assert time.monotonic() - started < 2
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_child_that_cannot_start_is_not_the_photo_s_fault(
    monkeypatch: pytest.MonkeyPatch, selfie_jpeg: bytes
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent")

    with pytest.raises(Retryable) as error:
        sandbox.clean_portrait_in_sandbox(selfie_jpeg)

    assert error.value.code == "sandbox_unavailable"


@pytest.mark.parametrize(
    ("written", "code"),
    [
        (b"ready\n", "truncated_image"),
        (b"ready\nhalf a status", "truncated_image"),
        (b"ready\nodd_shape\n", "odd_shape"),
    ],
)
def test_a_child_that_dies_reads_as_a_damaged_photo(
    monkeypatch: pytest.MonkeyPatch, written: bytes, code: str
) -> None:
    monkeypatch.setattr(sandbox, "_ask_child", lambda raw, deadline: written)

    with pytest.raises(Refused) as refusal:
        sandbox.clean_portrait_in_sandbox(b"x")

    assert refusal.value.code == code


def test_a_confined_process_cannot_write_a_file(tmp_path: object) -> None:
    answer = confined(f"open({str(tmp_path)!r} + '/x', 'wb', buffering=0).write(b'x')")

    assert answer.returncode != 0
    assert "File too large" in answer.stderr


def test_a_confined_process_cannot_take_two_gigabytes() -> None:
    answer = confined("bytearray(2 * 1024**3)")

    assert answer.returncode == 1
    assert "MemoryError" in answer.stderr


def test_a_confined_process_is_neither_dumpable_nor_able_to_gain_rights() -> None:
    answer = confined(
        "import ctypes, resource\n"
        "prctl = ctypes.CDLL(None).prctl\n"
        "print(prctl(3, 0, 0, 0, 0), prctl(39, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CPU),"
        " resource.getrlimit(resource.RLIMIT_NPROC), resource.getrlimit(resource.RLIMIT_CORE),"
        " resource.getrlimit(resource.RLIMIT_NOFILE))"
    )

    assert answer.stdout == "0 1 (6, 6) (0, 0) (0, 0) (16, 16)\n"
