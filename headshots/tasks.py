"""Celery tasks: the only door to the engine. Arguments are ids; each task may run twice, late, or never."""

import logging
import mmap
import os
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from celery import shared_task
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import worker_init, worker_process_init, worker_ready, worker_shutting_down
from django.conf import settings
from django.db import connection, connections

from headshots import logs, process
from headshots.exceptions import NotFound
from headshots.faults import faultpoint
from headshots.hints import Task, enqueue
from headshots.services import clock, maintenance, orders, shots, uploads
from pipelines.errors import Refused

if TYPE_CHECKING:
    from pipelines.engine import Assessor, Engine
    from pipelines.types import EngineConfig, FailedShot, FinishedShot, ShotRequest

log = logging.getLogger(__name__)

BOOT_PATIENCE_SECONDS = 10.0  # a first pass takes a fraction of a second where the stores answer

# One byte shared with the children of a prefork pool. No lock: a killed child must not leave one held.
_stopping = mmap.mmap(-1, 1)


@cache
def _engine() -> "Engine":
    """The engine of this process, loaded once, in the child that uses it."""
    from pipelines.engine import load_engine

    started = time.perf_counter()
    engine = load_engine(_engine_config())
    logs.take_over()
    proof = logs.Public(", ".join(f"{name} {value}" for name, value in engine.proof.items()))
    log.info("engine %s is loaded after %.1f s: %s", engine.name, time.perf_counter() - started, proof)
    return engine


@cache
def _assessor() -> "Assessor":
    """What looks at selfies in this process; it needs no GPU."""
    from pipelines.engine import load_assessor

    assessor = load_assessor(_engine_config())
    logs.take_over()
    return assessor


def _engine_config() -> "EngineConfig":
    from pipelines.types import EngineConfig

    return EngineConfig(
        kind=settings.ENGINE,
        weights_dir=settings.WEIGHTS,
        device=settings.DEVICE,
        slots=settings.SLOTS,
        accepts_random_weights=not settings.IS_PRODUCTION,
    )


@shared_task(name=Task.ASSESS, soft_time_limit=60, time_limit=90)
def assess(order_id: str) -> None:
    """Look at a selfie: start or park the order, or refuse it with a code."""
    from pipelines.images import decode_jpeg

    if not _may_work():
        return
    order = orders.begin_assessment(uuid.UUID(order_id), clock.now())
    if order is None:
        return
    try:
        _assessor()(decode_jpeg(uploads.open_selfie(order, clock.now())))
    except Refused as refused:
        faultpoint("assess.refused")
        if not isinstance(refused, NotFound):  # the order was deleted meanwhile: there is nobody to tell
            orders.refuse(order, refused.code, clock.now())
        return
    faultpoint("assess.judged")
    orders.accept(order, clock.now())


@shared_task(name=Task.RENDER, soft_time_limit=3000, time_limit=3300)
def render() -> None:
    """Drain the queue: render claimable shots until there is none left."""
    if not _may_work():
        return
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
    if not _may_work():
        return
    swept = shots.sweep(clock.now())
    if swept.given_up or swept.abandoned:
        log.warning("sweep gave up %d shots and closed %d abandoned uploads", swept.given_up, swept.abandoned)


@shared_task(name=Task.PURGE, soft_time_limit=280, time_limit=300)
def purge_due() -> None:
    """One pass of the purge, and the inspection when that is due."""
    tally = maintenance.run_pass(clock.now())
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
        while not requests and not _stopping[0] and not maintenance.problem():
            claims = shots.claim(self.owner, free_slots, clock.now())
            if not claims:
                break
            for claimed in claims:
                if request := self._prepared(claimed):
                    faultpoint("claim.prepared")
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
            shots.fail(claimed, failed, clock.now())
            return None

    def sink(self, result: "FinishedShot | FailedShot") -> None:
        """Commit a picture, or record why there is none."""
        from pipelines.types import FinishedShot

        claimed = self._claims.pop(result.shot_id)
        faultpoint("work.rendered")
        if isinstance(result, FinishedShot):
            if not shots.commit(claimed, result, clock.now()):
                log.info("shot %s came too late and was discarded", result.shot_id)
        else:
            shots.fail(claimed, result, clock.now())

    def is_cancelled(self, shot_id: str) -> bool:
        """Whether nobody waits for this shot any more."""
        return not shots.is_wanted(self._claims[shot_id])

    def _request(self, claimed: shots.Claim) -> "ShotRequest":
        from pipelines.images import decode_jpeg
        from pipelines.types import OutputSpec, ShotRequest

        order = claimed.shot.order
        if order.pk not in self._portraits:
            self._portraits.clear()  # one person's photo in memory at a time
            self._portraits[order.pk] = decode_jpeg(uploads.open_selfie(order, clock.now()))
        return ShotRequest(
            shot_id=str(claimed.shot.pk),
            identity=order.pk.hex,
            portrait=self._portraits[order.pk],
            preset=claimed.shot.style_version.preset(),
            seeds=claimed.seeds,
            output=OutputSpec(long_edge=order.long_edge, is_watermarked=order.is_watermarked),
        )


def _may_work() -> bool:
    """Whether this process may touch orders. If not, the hint is dropped: the next sweep gives another."""
    return maintenance.wait_for_boot(BOOT_PATIENCE_SECONDS) and not maintenance.problem()


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
        step(clock.now())
    except Exception as error:
        log.warning("heartbeat failed: %s", type(error).__name__)
        connection.close()


@worker_shutting_down.connect
def _stop_claiming(**kwargs: Any) -> None:
    """Runs in the pool's parent; its children see the same event, finish their picture and end."""
    _stopping[0] = 1


@worker_init.connect
def _harden(**kwargs: Any) -> None:
    """In the pool's parent, before its children are forked."""
    process.harden()


@worker_process_init.connect
def _begin_child(**kwargs: Any) -> None:
    connections.close_all()
    maintenance.start()


@worker_ready.connect
def _sweep_at_start(**kwargs: Any) -> None:
    """Work that a dead worker left behind is hinted at once, not at the next beat."""
    enqueue(Task.SWEEP)
    enqueue(Task.PURGE)
