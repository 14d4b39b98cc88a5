"""What real processes write when they break."""

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from headshots.env import ROOT
from tests.e2e.service import running, wait_for
from tests.logs.canaries import (
    ADDRESS,
    CAMERA,
    CANARIES,
    FILE_NAME,
    LINE,
    PROMPT,
    QUERY,
    SPOKEN,
    TOKEN,
    photo_with_a_note,
)

UNCAUGHT = """
import sys, threading, warnings
import django
django.setup()
from headshots import logs
logs.install()
words = sys.argv[1]
thread = threading.Thread(target=lambda: int(words))
thread.start()
thread.join()
class Lost:
    def __del__(self):
        raise ValueError(words)
Lost()
warnings.warn(words)
raise KeyError(words)
"""


def test_uncaught_errors_and_warnings_of_a_process_are_events(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", UNCAUGHT, SPOKEN],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "headshots.settings",
            "HEADSHOTS_DATA": str(tmp_path / "d"),
        },
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )

    assert (ended.returncode, ended.stdout) == (1, "")
    lines = ended.stderr.splitlines()
    assert [line.split()[2:6] for line in lines[:2]] == [
        ["headshots.logs", "a", "thread", "ended:"],
        ["headshots.logs", "an", "error", "was"],
    ]
    assert [re.findall(r"\w+Error", line) for line in lines] == [
        ["ValueError"],
        ["ValueError"],
        [],
        ["KeyError"],
    ]
    assert all(LINE.fullmatch(line) for line in lines)
    assert not [canary for canary in CANARIES if canary in ended.stderr]


FOREIGN_MESSAGE = """
import sys
import django
django.setup()
from headshots.celery import app
app.send_task("headshots.assess", args=sys.argv[1:2], queue="cpu")
app.send_task(sys.argv[1], args=sys.argv[1:2], queue="cpu")
"""
SUPERVISOR = ("8 styles created", "Headshots is starting on http://localhost:", "worker: Warm shutdown (Main")


@pytest.mark.slow
def test_site_and_workers_that_break_write_events_alone(tmp_path: Path, selfie: bytes) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "headshots.settings", "HEADSHOTS_DATA": str(data)}
    written = tmp_path / "service.log"
    with running(data, HEADSHOTS_DEBUG="true") as service:
        subprocess.run([sys.executable, "-c", FOREIGN_MESSAGE, SPOKEN], env=environment, check=True, cwd=ROOT)
        wait_for(lambda: "ValueError" in written.read_text())  # workers begin while stores answer
        (data / "blobs").rename(data / "elsewhere")
        (data / "blobs").write_bytes(b"not a folder")
        statuses = [
            answer_of(f"{service.client.base_url}{path}?{QUERY}={TOKEN}", selfie)
            for path in ("/new", "/api/v1/orders")
        ]
        (data / "blobs").unlink()
        (data / "elsewhere").rename(data / "blobs")

    text = written.read_text()
    assert set(statuses) <= {403, 500, 503}
    assert "headshots.assess" in text
    assert not [canary for canary in CANARIES if canary in text]
    for line in filter(None, text.splitlines()):
        assert LINE.fullmatch(line) or line.startswith(SUPERVISOR), line


def answer_of(address: str, selfie: bytes) -> int:
    """The status of an upload with a canary in every part of it."""
    boundary = "x" * 20
    fields = {"tier": "free", "consent": "true", "note": PROMPT}
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="selfie"; filename="{FILE_NAME}"\r\n\r\n'
    body = "".join([*parts, head]).encode() + photo_with_a_note(selfie) + f"\r\n--{boundary}--\r\n".encode()
    headers = {
        "Content-Type": f"multipart/form-data; boundary={boundary}",
        "X-Forwarded-For": ADDRESS,
        "Authorization": f"Bearer {TOKEN}",
        "User-Agent": CAMERA,
    }
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
