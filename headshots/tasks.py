"""Celery tasks: the only door to the engine. Arguments are ids; each task may run twice, late, or never."""

import logging
import threading
import time
import uuid
from functools import cache
from typing import TYPE_CHECKING

from celery import shared_task
from celery.exceptions import SoftTimeLimitExceeded
from django.conf import settings

from headshots import breakdown, logs
from headshots.exceptions import NotFound
from headshots.faults import faultpoint
from headshots.hints import Task
from headshots.rendering import RenderRun, is_stopping, kept_alive
from headshots.services import (
    claiming,
    clock,
    credentials,
    fair_queue,
    mails,
    maintenance,
    orders,
    settlement,
    shots,
    uploads,
    workers,
)
from pipelines.errors import EngineBroken, Refused

if TYPE_CHECKING:
    from pipelines.engine import Assessor, Engine
    from pipelines.types import EngineConfig, FailedShot, FinishedShot, ShotRequest

log = logging.getLogger(__name__)

BOOT_PATIENCE_SECONDS = 10.0  # a first pass takes a fraction of a second where the stores answer

_draining = threading.Lock()  # held by the one thread of this process that runs the engine
_assessing = threading.Lock()  # and by the one that looks at a photo: detectors keep state while they look


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
        reserved_places=fair_queue.reserved_places(settings.SLOTS),
        accepts_random_weights=not settings.IS_PRODUCTION,
    )


@shared_task(name=Task.ASSESS, soft_time_limit=60, time_limit=90)
def assess(order_id: str) -> None:
    """Look at a selfie: start or park the order, or refuse it with a code."""
    if _may_work():
        with _assessing:
            _assess(uuid.UUID(order_id))


def _assess(order_id: uuid.UUID) -> None:
    from pipelines.images import decode_jpeg

    order = orders.begin_assessment(order_id, clock.now())
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


# Its message is answered when it ends, and RabbitMQ bears with an unanswered one for half an hour.
@shared_task(name=Task.RENDER, soft_time_limit=1620, time_limit=1740)
def render() -> None:
    """Drain the queue: render claimable shots until there is none left."""
    if _may_work():
        drain()


def drain() -> None:
    """Render until no shot is claimable or the worker is to stop; does nothing in a process that is at it.

    Pictures that the grace period was too short for are given back without spending an attempt. So are those
    that an engine held when it broke, unless there was only one; and the process ends.
    """
    if not _draining.acquire(blocking=False):
        return
    try:
        credentials.require_ready()
        engine, run = _engine(), RenderRun()
        with kept_alive(run):
            try:
                engine.run(run.source, run.sink, run.is_cancelled)
            except (SoftTimeLimitExceeded, SystemExit):  # stopped from outside: no attempt is spent
                claiming.release(run.owner)
                raise
            except EngineBroken as error:
                _end_broken(run, error)
                raise
            if is_stopping():
                claiming.release(run.owner)
    finally:
        _draining.release()


def _end_broken(run: RenderRun, error: EngineBroken) -> None:
    """Give back what the engine held, and end this process, unless it was only stopped amid a step."""
    if isinstance(error.__cause__, SoftTimeLimitExceeded):
        claiming.release(run.owner)
        raise error.__cause__
    try:
        run.give_up()
    finally:
        breakdown.end_process(error)


def is_draining() -> bool:
    """Whether a thread of this process is rendering."""
    return _draining.locked()


def wait_until_idle(seconds: float) -> None:
    """Wait for a run of another thread of this process to end; it renders nothing from here on."""
    _draining.acquire(timeout=seconds)


def warm_engine() -> None:
    """Load the engine of this process and let it take one step, so that no customer waits for its first.

    Raises Final as `load_engine` does, what the step ended in, and when pictures could not be signed.
    """
    from pipelines.errors import Final
    from pipelines.types import FailedShot

    def fail(result: "FinishedShot | FailedShot") -> None:
        if isinstance(result, FailedShot):
            raise Final(result.code, f"the engine made no step of the sample portrait: {result.code}")

    credentials.require_ready()
    with _draining:  # two threads that load networks at once break each other's
        engine, waiting = _engine(), [_sample_request()]
        # Cancelled as soon as it is asked about: after the first step.
        engine.run(lambda free_slots: [waiting.pop()] if waiting else [], fail, lambda shot_id: True)


def _sample_request() -> "ShotRequest":
    from pipelines.images import decode_jpeg
    from pipelines.presets import HEIGHT
    from pipelines.sample import sample_selfie
    from pipelines.styles import BUILTIN
    from pipelines.types import OutputSpec, ShotRequest

    return ShotRequest(
        shot_id="sample",
        identity="sample",
        portrait=decode_jpeg(sample_selfie()),
        preset=BUILTIN[0].preset,
        seeds=(1,),
        output=OutputSpec(long_edge=HEIGHT, is_watermarked=False),
    )


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


@shared_task(name=Task.SETTLE, soft_time_limit=280, time_limit=300)
def settle() -> None:
    """Send the refunds that are due, and ask the provider about payments that no event came for."""
    if not _may_work():
        return
    settled = settlement.run(clock.now())
    if settled.is_worth_a_line:
        log.info(
            "settlement: %d refunds sent, %d failed, %d to be tried again; %d checkouts looked up, %d paid",
            settled.sent,
            settled.failed,
            settled.delayed,
            settled.looked_up,
            settled.found_paid,
        )


@shared_task(name=Task.MAIL, soft_time_limit=280, time_limit=300)
def mail() -> None:
    """Send the mails that are due."""
    if not _may_work():
        return
    posted = mails.run(clock.now())
    if posted.is_worth_a_line:
        log.info(
            "mail: %d sent, %d given up, %d to be tried again", posted.sent, posted.given_up, posted.delayed
        )


def _may_work() -> bool:
    """Whether this process may touch orders. If not, the hint is dropped: the next sweep gives another."""
    return maintenance.wait_for_boot(BOOT_PATIENCE_SECONDS) and not workers.problem()
