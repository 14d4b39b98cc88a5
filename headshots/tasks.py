"""Celery tasks: the only door to the engine. Arguments are ids; each task may run twice, late, or never."""

import logging
import mmap
import os
import secrets
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from celery import shared_task
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import worker_process_init, worker_ready, worker_shutting_down
from django.conf import settings
from django.db import connection, connections
from django.utils import timezone

from headshots.celery import Task, enqueue
from headshots.exceptions import NotFound
from headshots.services import orders, purge, shots, uploads
from pipelines.errors import Refused

if TYPE_CHECKING:
    from pipelines.engine import Engine
    from pipelines.types import FailedShot, FinishedShot, ShotRequest

log = logging.getLogger(__name__)

# One byte shared with the children of a prefork pool. No lock: a killed child must not leave one held.
_stopping = mmap.mmap(-1, 1)


@cache
def _engine() -> "Engine":
    """The engine of this process, loaded once, in the child that uses it."""
    from pipelines.engine import load_engine
    from pipelines.types import EngineConfig

    engine = load_engine(EngineConfig(kind=settings.ENGINE))
    log.info("engine %s is loaded", engine.name)
    return engine


@shared_task(name=Task.ASSESS, soft_time_limit=60, time_limit=90)
def assess(order_id: str) -> None:
    """Look at a selfie: start or park the order, or refuse it with a code."""
    from pipelines.images import decode_jpeg

    order = orders.begin_assessment(uuid.UUID(order_id), timezone.now())
    if order is None:
        return
    try:
        _engine().assess(decode_jpeg(uploads.open_selfie(order, timezone.now())))
    except Refused as refused:
        if not isinstance(refused, NotFound):  # the order was deleted meanwhile: there is nobody to tell
            orders.refuse(order, refused.code, timezone.now())
        return
    orders.accept(order, timezone.now())


@shared_task(name=Task.RENDER, soft_time_limit=3000, time_limit=3300)
def render() -> None:
    """Drain the queue: render claimable shots until there is none left."""
    run = RenderRun(_owner())
    with _heartbeat(run.owner):
        try:
            _engine().run(run.source, run.sink, run.is_cancelled)
        except (SoftTimeLimitExceeded, SystemExit):  # stopped from outside: no attempt is spent
            shots.release(run.owner)
            raise


@shared_task(name=Task.SWEEP, soft_time_limit=50, time_limit=60)
def sweep() -> None:
    """Mend what lost messages and dead workers left behind."""
    swept = shots.sweep(timezone.now())
    if swept.given_up or swept.abandoned:
        log.warning("sweep gave up %d shots and closed %d abandoned uploads", swept.given_up, swept.abandoned)


@shared_task(name=Task.PURGE, soft_time_limit=280, time_limit=300)
def purge_due() -> None:
    """One pass of the purge."""
    tally = purge.run(timezone.now())
    if tally.begun or tally.purged or tally.failed:
        log.info(
            "purge: %d begun, %d done, %d waiting, %d failed",
            tally.begun,
            tally.purged,
            tally.waiting,
            tally.failed,
        )


class RenderRun:
    """One run of the engine: what it claims, what it delivers, and which claims are still wanted."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self._claims: dict[str, shots.Claim] = {}
        self._portraits: dict[uuid.UUID, Any] = {}

    def source(self, free_slots: int) -> Sequence["ShotRequest"]:
        """Claim up to `free_slots` shots; none once this worker was asked to stop.

        An order that vanished meanwhile is skipped, and one that cannot be read does not stop the others.
        """
        requests: list[ShotRequest] = []
        while not requests and not _stopping[0]:
            claims = shots.claim(self.owner, free_slots, timezone.now())
            if not claims:
                break
            for claimed in claims:
                if request := self._prepared(claimed):
                    requests.append(request)
                    self._claims[request.shot_id] = claimed
        return requests

    def _prepared(self, claimed: shots.Claim) -> "ShotRequest | None":
        from pipelines.types import FailedShot

        try:
            return self._request(claimed)
        except NotFound:
            return None  # fenced between the claim and now: its shots are nobody's any more
        except Exception as error:
            shot_id = str(claimed.shot.pk)
            log.error("shot %s cannot be prepared: %s", shot_id, type(error).__name__)
            failed = FailedShot(shot_id=shot_id, code="not_prepared", is_retryable=True)
            shots.fail(claimed, failed, timezone.now())
            return None

    def sink(self, result: "FinishedShot | FailedShot") -> None:
        """Commit a picture, or record why there is none."""
        from pipelines.types import FinishedShot

        claimed = self._claims.pop(result.shot_id)
        if isinstance(result, FinishedShot):
            if not shots.commit(claimed, result, timezone.now()):
                log.info("shot %s came too late and was discarded", result.shot_id)
        else:
            shots.fail(claimed, result, timezone.now())

    def is_cancelled(self, shot_id: str) -> bool:
        """Whether nobody waits for this shot any more."""
        return not shots.is_wanted(self._claims[shot_id])

    def _request(self, claimed: shots.Claim) -> "ShotRequest":
        from pipelines.images import decode_jpeg
        from pipelines.types import OutputSpec, ShotRequest

        order = claimed.shot.order
        if order.pk not in self._portraits:
            self._portraits.clear()  # one person's photo in memory at a time
            self._portraits[order.pk] = decode_jpeg(uploads.open_selfie(order, timezone.now()))
        return ShotRequest(
            shot_id=str(claimed.shot.pk),
            identity=order.pk.hex,
            portrait=self._portraits[order.pk],
            preset=claimed.shot.style_version.preset(),
            seeds=claimed.seeds,
            output=OutputSpec(long_edge=order.long_edge, is_watermarked=order.is_watermarked),
        )


def _owner() -> str:
    return f"{socket.gethostname()[:40]}:{os.getpid()}:{secrets.token_hex(4)}"


@contextmanager
def _heartbeat(owner: str) -> Iterator[None]:
    """Keep the leases of `owner` alive from a thread, at a quarter of their length, while the body runs."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(settings.LEASE_SECONDS / 4):
            _tolerant(lambda now: shots.extend(owner, now))
        connections.close_all()

    thread = threading.Thread(target=beat, name="lease-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)


def _tolerant(step: Callable[[datetime], object]) -> None:
    """Run a step that will be repeated anyway; a database away for a moment must not end the thread."""
    try:
        step(timezone.now())
    except Exception as error:
        log.warning("heartbeat failed: %s", type(error).__name__)
        connection.close()


@worker_shutting_down.connect
def _stop_claiming(**kwargs: Any) -> None:
    """Runs in the pool's parent; its children see the same event, finish their picture and end."""
    _stopping[0] = 1


@worker_process_init.connect
def _forget_inherited_connections(**kwargs: Any) -> None:
    connections.close_all()


@worker_ready.connect
def _sweep_at_start(**kwargs: Any) -> None:
    """Work that a dead worker left behind is hinted at once, not at the next beat."""
    enqueue(Task.SWEEP)
    enqueue(Task.PURGE)
