"""Many worker processes on one data folder, some of which die, stop for longer than their lease, or break.

    python -m tests.e2e.worker_driver FOLDER prepare ORDERS HEADSHOTS [SPARES]  places paid orders
    python -m tests.e2e.worker_driver FOLDER work PROCESSES [FAULTS [MILLISECONDS [POISON]]]  renders them
    python -m tests.e2e.worker_driver FOLDER read                     what was delivered

Each prints one line of JSON. Services, vault and database are the real ones. `work` forks processes that do
what a worker's child does, and forks another for each that dies. Without FAULTS the preview engine makes the
pictures; with it an engine that counts: FAULTS % of the shots have a fault that strikes once, at the first
attempt, and a picture takes MILLISECONDS of a device. The shot number POISON kills each process that claims
it, with everything that it claimed beside it.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import django

LEASE_SECONDS: Final = 2.0
PATIENCE_SECONDS: Final = 400.0
PLACES_BESIDE_POISON: Final = 6
FAULTS: Final = ("kill", "stop", "raise", "late kill")


def prepare(folder: Path, order_count: int, shot_count: int, spares: int = 0) -> dict[str, Any]:
    """A data folder with that many paid orders of that many headshots each, ready to be rendered."""
    from django.core.management import call_command

    from headshots import celery, tasks  # noqa: F401 (hints are sent)
    from headshots.models import Order
    from headshots.services import clock, orders
    from headshots.services.consent import Consent
    from pipelines.sample import sample_selfie
    from tests.paying import pay

    call_command("migrate", verbosity=0, skip_checks=True)
    call_command("seed_styles", stdout=sys.stderr)
    _furnish(shot_count, spares)
    for _ in range(order_count):
        placed = orders.place(
            raw=sample_selfie(),
            tier_slug="premium",
            style_slugs=(),
            agreed=Consent(is_given=True, is_adult=True),
            upload_id=None,
            now=clock.now(),
        )
        orders.accept(placed.order, clock.now())
        pay(Order.objects.get(pk=placed.order.pk), clock.now())
    return {"orders": order_count}


def work(
    folder: Path, processes: int, faults: int = 0, milliseconds: int = 0, poison: int = 0
) -> dict[str, Any]:
    """Render everything with `processes` at a time; what it took."""
    from django.conf import settings
    from django.db import connections

    from headshots.models import Order
    from headshots.states import WORKING_STATES

    settings.LEASE_SECONDS = LEASE_SECONDS
    began, alive, stopped_until, deaths = time.monotonic(), set[int](), dict[int, float](), 0
    while Order.objects.filter(state__in=WORKING_STATES).exists():
        assert time.monotonic() - began < PATIENCE_SECONDS, "orders are left over"
        connections.close_all()  # before any fork
        while len(alive) < processes:
            alive.add(_forked(lambda: _live(folder, faults, milliseconds, poison)))
        time.sleep(0.05)
        while alive and (ended := os.waitpid(-1, os.WNOHANG | os.WUNTRACED))[0]:
            pid, status = ended
            if os.WIFSTOPPED(status):
                stopped_until[pid] = time.monotonic() + LEASE_SECONDS + 1
            else:
                deaths += os.WIFSIGNALED(status)
                alive.discard(pid)
        for pid, until in list(stopped_until.items()):
            if time.monotonic() > until:
                os.kill(pid, signal.SIGCONT)
                del stopped_until[pid]
    seconds = time.monotonic() - began
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    struck = len(list((folder / "struck").glob("*")))
    return {"seconds": round(seconds, 2), "deaths": deaths, "struck": struck}


def read(folder: Path) -> dict[str, Any]:
    """What was delivered: the states, and a digest of every picture's pixels in its order's place."""
    from headshots.models import Order, Shot, StoredObject
    from headshots.services import clock, objects
    from headshots.vault.envelope import Kind

    done = Shot.objects.filter(state="done").select_related("headshot__order").order_by("order", "index")
    # The pixels: what signs a file around them does not sign twice alike.
    pictures = [
        f"{shot.order_id}/{shot.index} {_digest(objects.read(shot.headshot, clock.now()))}"
        for shot in done
        if shot.headshot
    ]
    # Without what a process left that was killed amid a write: no object, gone with its order at the latest.
    there = {name for name in objects.blobs().list("o/") if not name.endswith(".part")}

    def names(*states: str) -> set[str]:
        return {objects.name_of(row).blob_name for row in StoredObject.objects.filter(state__in=states)}

    return {
        "orders": sorted(set(Order.objects.values_list("state", flat=True))),
        "shots": sorted(set(Shot.objects.values_list("state", flat=True))),
        "pictures": pictures,
        "stored": StoredObject.objects.filter(kind=Kind.HEADSHOT, state="stored").count(),
        "unknown": len(there - names("intended", "stored")),
        "missing": len(names("stored") - there),
        "most_attempts": max(Shot.objects.values_list("attempts", flat=True)),
    }


def _digest(jpeg: bytes) -> str:
    from pipelines.images import decode_jpeg

    return hashlib.sha256(decode_jpeg(jpeg).tobytes()).hexdigest()


def _furnish(shot_count: int, spares: int) -> None:
    from headshots import tiers
    from headshots.services import uploads

    tiers.TIERS["premium"] = replace(tiers.TIERS["premium"], headshots=shot_count, spares=0, long_edge=1152)
    uploads.clean = lambda raw: raw  # the sandbox is tested elsewhere


def _forked(live: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        live()
    finally:
        os._exit(1)


def _live(folder: Path, faults: int, milliseconds: int, poison: int) -> None:
    """What a worker's child does: look for work every now and then, and render."""
    from headshots import tasks
    from headshots.rendering import tolerant
    from headshots.services import clock, shots

    if faults or milliseconds or poison:
        engine = FaultyEngine(folder / "struck", faults, milliseconds=milliseconds, poison=poison)
        tasks._engine = lambda: engine  # type: ignore[assignment]
    while True:
        tolerant("render", lambda now: tasks.drain())
        tolerant("mend", lambda now: shots.mend(clock.now()))
        time.sleep(random.uniform(0.05, 0.2))


def _stop() -> None:
    """Whoever waits for this process as its parent is told, and lets it go on."""
    os.kill(os.getpid(), signal.SIGSTOP)


class FaultyEngine:
    """Makes a small picture at once, except where a fault strikes: each shot's at most once, or each time."""

    name = "faulty"
    proof: Final[dict[str, str]] = {}

    def __init__(
        self,
        struck: Path,
        percent: int,
        stop: Callable[[], None] = _stop,
        milliseconds: int = 0,
        poison: int = 0,
    ) -> None:
        """`milliseconds` is what a device would be busy with each picture, `poison` a shot's number."""
        self._struck, self._percent, self._stop, self._poison = struck, percent, stop, str(poison)
        self._places = PLACES_BESIDE_POISON if poison else 1
        self._seconds = milliseconds / 1000
        struck.mkdir(exist_ok=True)

    def run(self, source: Any, sink: Any, cancelled: Any) -> None:
        """See `Engine.run`."""
        while requests := source(self._places):
            if self._poison in {request.shot_id for request in requests}:
                os.kill(os.getpid(), signal.SIGKILL)
            for request in requests:
                fault = self._fault_of(request.shot_id)
                if fault == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if fault == "stop":
                    self._stop()
                if fault == "raise":
                    raise RuntimeError("device lost")
                time.sleep(self._seconds)
                sink(_picture(request))
                if fault == "late kill":
                    os.kill(os.getpid(), signal.SIGKILL)

    def _fault_of(self, shot_id: str) -> str:
        number = int(hashlib.sha256(shot_id.encode()).hexdigest(), 16)
        if number % 100 >= self._percent:
            return ""
        fault = FAULTS[number // 100 % len(FAULTS)]
        try:
            with (self._struck / shot_id).open("x") as struck:
                struck.write(fault)
        except FileExistsError:
            return ""
        return fault


def _picture(request: Any) -> Any:
    import numpy as np

    from pipelines.finish import finish
    from pipelines.provenance import SourceType
    from pipelines.types import FinishedShot, OutputSpec, QualityReport

    output = OutputSpec(long_edge=48, is_watermarked=False)
    pixels = np.full((48, 37, 3), request.seeds[0] % 251, np.uint8)
    done = finish(pixels, output=output, marks=(), source_type=SourceType.GENERATED)
    return FinishedShot(
        shot_id=request.shot_id,
        seed=request.seeds[0],
        jpeg=done.jpeg,
        preview_jpeg=done.preview_jpeg,
        width=done.width,
        height=done.height,
        report=QualityReport(measures={}),
        seconds=0.01,
    )


def main() -> None:
    """Run one of the commands above."""
    folder, command, *numbers = sys.argv[1:]
    os.environ |= {"HEADSHOTS_DATA": folder, "DJANGO_SETTINGS_MODULE": "headshots.settings"}
    django.setup()
    commands: dict[str, Callable[..., dict[str, Any]]] = {"prepare": prepare, "work": work, "read": read}
    sys.stdout.write(json.dumps(commands[command](Path(folder), *map(int, numbers))) + "\n")


if __name__ == "__main__":
    main()
