"""The whole service in one process, on a clock that tests set forward and with an engine that costs nothing.

The public functions are the real ones: tasks, services, vault, database. What is replaced is the time the
machine's clock says, the decoder's child process, and the maker of pictures. To be imported after
`django.setup()`.
"""

import io
import os
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.db import connections
from PIL import Image

import headshots.celery  # noqa: F401 (the tasks' app)
from headshots import tasks
from headshots.hints import Task, carry_by
from headshots.models import Order, Payment, Shot
from headshots.services import claiming, clock, delivery, marks, orders, shots, uploads
from headshots.services.consent import Consent
from headshots.tiers import TIERS
from headshots.vault.envelope import Kind
from pipelines.errors import Refused
from pipelines.gate import BEST_RANK, LIKENESSES
from pipelines.provenance import SourceType, mark
from pipelines.types import (
    Cancelled,
    FailedShot,
    FinishedShot,
    Pixels,
    QualityReport,
    ShotRequest,
    Sink,
    Source,
)
from tests.paying import tell_paid

AGREED = Consent(is_given=True, is_adult=True)
PACK = 3
SPARES = 1
STUBBORN = (3, 4)  # these shots of a pack fail for good: it lacks one picture
CLUMSY = 2  # and this one at its first attempt
FACELESS_EDGE = 48  # a photo of this size holds no face
LUCKY_EDGE = 80  # no shot of a photo of this size fails for good: the pack has one picture too many
PLAIN = 1  # the picture of it that is the worst
UNJUDGED = QualityReport(measures={})

_ahead = timedelta(0)
_hints: deque[tuple[Task, tuple[str, ...]]] = deque()


# --- time ---------------------------------------------------------------------------------------------------


def advance(by: timedelta) -> datetime:
    """Set the machine's clock forward; the time it is then."""
    global _ahead
    _ahead += by
    return clock.now()


def _system_time() -> datetime:
    return datetime.now(UTC) + _ahead


# --- the service --------------------------------------------------------------------------------------------


def use(data: Path) -> None:
    """Make `data` the data folder of this process, and go on from the latest time it has seen.

    Nothing may have been opened in another data folder before, other than in a parent process.
    """
    global _ahead
    settings.DATA = data
    connections.settings["default"]["NAME"] = data / "headshots.sqlite3"
    clock.system_time = _system_time
    mark = clock.read_mark(marks.path_of("clock"))
    _ahead = max(timedelta(0), mark.at - datetime.now(UTC))


def prepare(data: Path) -> None:
    """A data folder with a database, migrated and with its styles; no key has been made in it."""
    for folder in (data, data / "blobs", data / "keys"):
        folder.mkdir(mode=0o700, exist_ok=True)
    use(data)
    call_command("migrate", verbosity=0, skip_checks=True)
    call_command("seed_styles", stdout=io.StringIO())
    connections.close_all()


def furnish(diary: Path) -> None:
    """Small packs, a quick engine, hints that stay here; each shot that was kept is noted in `diary`."""
    TIERS["premium"] = replace(TIERS["premium"], headshots=PACK, spares=SPARES, long_edge=64)
    uploads.clean = lambda raw: raw
    tasks._engine = lambda: PatternEngine()
    tasks._assessor = lambda: _look
    carry_by(lambda task, ids, copies: hint(task, ids))
    commit = shots.commit

    def noted(claimed: claiming.Claim, finished: FinishedShot, now: datetime) -> bool:
        is_kept = commit(claimed, finished, now)
        if is_kept:
            note(diary, f"{claimed.shot.pk}")
        return is_kept

    shots.commit = noted


def note(diary: Path, line: str) -> None:
    """Append a line that is there even if the process is killed right after."""
    descriptor = os.open(diary, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


_RUN: Mapping[Task, Callable[..., None]] = {
    Task.ASSESS: tasks.assess,
    Task.RENDER: tasks.render,
    Task.SWEEP: tasks.sweep,
    Task.PURGE: tasks.purge_due,
    Task.MAIL: tasks.mail,
}


def hint(task: Task, ids: tuple[str, ...]) -> None:
    """Remember a hint for `work`."""
    _hints.append((task, ids))


def work() -> None:
    """Do what was hinted, as the workers would, until no hint is left."""
    while _hints:
        task, ids = _hints.popleft()
        _RUN[task](*ids)


# --- customers ----------------------------------------------------------------------------------------------


def photo(edge: int = 96) -> bytes:
    """A photo as it comes out of the decoder; one of FACELESS_EDGE holds no face."""
    return _jpeg(os.urandom(edge * edge * 3), edge)


def place(tier: str = "premium", raw: bytes | None = None) -> Order:
    """One customer's upload."""
    placed = orders.place(
        raw=raw or photo(),
        tier_slug=tier,
        style_slugs=("corporate",),
        agreed=AGREED,
        upload_id=uuid.uuid4(),
        now=clock.now(),
    )
    return placed.order


def pay(order: Order, provider: Path) -> None:
    """The provider's event, which it delivers again until it is answered; `provider` is its memory."""
    reference = Payment.objects.get(order=order).reference
    note(provider, f"sent {reference}")
    deliver_event(reference)
    note(provider, f"answered {reference}")


def unanswered(provider: Path) -> set[str]:
    """The references of the events that the service never answered."""
    lines = [line.split() for line in provider.read_text().splitlines()] if provider.exists() else []
    return {ref for what, ref in lines if what == "sent"} - {ref for what, ref in lines if what == "answered"}


def deliver_event(reference: str) -> None:
    """One delivery of the event that says that a payment was made."""
    tell_paid(reference, clock.now())


def pictures(order: Order) -> list[bytes]:
    """What the customer downloads: every finished picture, one by one, and all in a ZIP."""
    now = clock.now()
    indexes = Shot.objects.filter(order=order, state="done").values_list("index", flat=True)
    found = [delivery.open_headshot(order, index, kind, now) for index in indexes for kind in RESULTS]
    if found:
        archive = b"".join(delivery.stream_archive(order, now))
        assert all(picture in archive for picture in found[:: len(RESULTS)])
    return found


RESULTS = (Kind.HEADSHOT, Kind.PREVIEW)


# --- the engine ---------------------------------------------------------------------------------------------


def _jpeg(pixels: bytes, edge: int) -> bytes:
    out = io.BytesIO()
    Image.frombytes("RGB", (edge, edge), pixels).save(out, "JPEG", quality=90)
    return mark(out.getvalue(), SourceType.GENERATED)


def _look(portrait: Pixels) -> Any:
    if portrait.shape[0] == FACELESS_EDGE:
        raise Refused("no_face")


class PatternEngine:
    """Draws noise from the seed. One shot of each pack fails at first, and two for good."""

    name = "pattern"
    proof: Mapping[str, str] = {}

    def run(self, source: Source, sink: Sink, cancelled: Cancelled) -> None:
        """Render what `source` gives, two at a time, until it gives nothing more."""
        while requests := source(2):
            for request in requests:
                if WAIT_FOR_HEARTBEAT.is_set():
                    _wait_for_the_end()
                if not cancelled(request.shot_id):
                    sink(_draw(request))


WAIT_FOR_HEARTBEAT = threading.Event()


def _wait_for_the_end() -> None:
    """The heartbeat's thread is to be killed, and this process with it, before a picture is made."""
    time.sleep(20)
    raise AssertionError("no heartbeat in 20 s")


def _draw(request: ShotRequest) -> FinishedShot | FailedShot:
    shot = Shot.objects.get(pk=request.shot_id)
    is_lucky = request.portrait.shape[0] == LUCKY_EDGE
    if shot.index in STUBBORN and not is_lucky:
        return FailedShot(shot_id=request.shot_id, code="artefacts", is_retryable=False)
    if shot.index == CLUMSY and shot.attempts == 1:
        return FailedShot(shot_id=request.shot_id, code="artefacts", is_retryable=True)
    report = UNJUDGED
    if is_lucky:
        level = 2 if shot.index == PLAIN else 1
        report = QualityReport(measures={}, likeness=LIKENESSES[level], rank=BEST_RANK + 2 * level)
    return finished(request.shot_id, request.seeds[0], request.output.long_edge, report)


def finished(shot_id: str, seed: int, edge: int, report: QualityReport = UNJUDGED) -> FinishedShot:
    """A finished picture of nothing."""
    pixels = random.Random(seed).randbytes(edge * edge * 3)
    return FinishedShot(
        shot_id=shot_id,
        seed=seed,
        jpeg=_jpeg(pixels, edge),
        preview_jpeg=_jpeg(pixels[: 32 * 32 * 3], 32),
        width=edge,
        height=edge,
        report=report,
        seconds=0.0,
    )
