"""What must never be written: a file name, a token, a camera's note, an address, a query, a prompt."""

import io
import logging
import re
import uuid
from typing import NoReturn

from PIL import Image

from headshots import logs
from headshots.vault.tokens import new_token

TOKEN = new_token()
FILE_NAME = "grandma-at-the-wedding.jpg"
CAMERA = "Zeppelin Kamera No 77"
ADDRESS = "203.0.113.77"
QUERY = "sunflower-query"
PROMPT = "velvet unicorn astride a comet"
CANARIES = (TOKEN, FILE_NAME, CAMERA, ADDRESS, QUERY, PROMPT)
SPOKEN = " ".join(CANARIES)
# What a request brings along besides its path.
SENT = {
    "REMOTE_ADDR": ADDRESS,
    "HTTP_X_FORWARDED_FOR": ADDRESS,
    "HTTP_USER_AGENT": CAMERA,
    "HTTP_REFERER": f"http://testserver/{PROMPT.replace(' ', '-')}",
}
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARNING|ERROR|CRITICAL) [\w.]+ \S.*")
ID = uuid.UUID(int=10**37)


class CanaryError(RuntimeError):
    """What every broken place raises."""


def explode(*args: object, **kwargs: object) -> NoReturn:
    raise CanaryError(SPOKEN)


def record(message: object, *args: object, name: str = "headshots.x", **extra: object) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.WARNING, "/somewhere/module.py", 7, message, args, None)
    made.__dict__.update(extra)
    return made


def event(message: object, *args: object, name: str = "headshots.x", **extra: object) -> str:
    return logs.event_of(record(message, *args, name=name, **extra))


def assert_told_without_canaries(written: io.StringIO, named: str = "CanaryError") -> None:
    text = written.getvalue()
    assert named in text
    for canary in CANARIES:
        assert canary not in text
    for line in text.splitlines():
        assert LINE.fullmatch(line.replace(" DEBUG ", " INFO ", 1)), line


def photo_with_a_note(selfie: bytes) -> bytes:
    """The sample portrait with the camera's canary in its EXIF."""
    with Image.open(io.BytesIO(selfie)) as image:
        exif = image.getexif()
        exif[0x0110] = CAMERA  # Model
        out = io.BytesIO()
        image.save(out, "JPEG", exif=exif)
    return out.getvalue()
