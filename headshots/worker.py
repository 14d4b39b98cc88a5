"""What a Celery worker does beside its tasks: start hardened, look for work itself, stop within its grace.

A worker asks the rows every few seconds, so a broker that is away, or lost its messages, costs seconds. The
dedicated GPU worker (`manage.py worker gpu`) also loads its engine before it takes any work, and does not
start without.
"""

import logging
import mmap
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from celery import bootsteps
from celery.signals import (
    worker_init,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutting_down,
)
from celery.utils import nodenames
from celery.worker import state
from django.conf import settings
from django.db import close_old_connections, connections

from headshots import logs, process, tasks
from headshots.celery import app
from headshots.hints import Task, enqueue
from headshots.rendering import GRACE_SECONDS, is_stopping, stop, tolerant, worker_name
from headshots.services import claiming, maintenance, sales, shots, workers
from pipelines.weights import read_lock

log = logging.getLogger(__name__)

POLL_SECONDS: Final = (2.0, 5.0)  # drawn anew each time, so that workers do not ask in step
MEND_SECONDS: Final = 30.0

_LOADING: Final = 0
_READY: Final = 1
_FAILED: Final = 2

# What has become of the engine of a dedicated worker's child; one byte that its parent sees too.
_engine_state = mmap.mmap(-1, 1)


class EngineGate(bootsteps.StartStopStep):
    """Between the pool and the consumer: takes no work before the child has its engine, ends without one."""

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        """Wait for the child. Ends the process with os.EX_CONFIG if that has no engine, or has died."""
        children = parent.pool.info["processes"]
        while _engine_state[0] == _LOADING:
            if any(map(_has_ended, children)):
                log.critical("the engine cannot start: its process was killed while loading it")
                _engine_state[0] = _FAILED
            time.sleep(0.05)
        if _engine_state[0] == _FAILED:
            # No task was taken, so nothing is to be put in order, and the kernel ends the children.
            os._exit(os.EX_CONFIG)
        threading.Thread(target=_watch, name="engine-watch", daemon=True).start()


def dedicate_to_gpu() -> None:
    """Make this process's worker, which is not started yet, the dedicated GPU worker."""
    app.steps["worker"].add(EngineGate)
    worker_process_init.connect(_load_engine)


def run(queue: str, *, processes: int, beat: bool) -> int:
    """Run this process's worker until it is stopped; its exit code."""
    from celery.apps.worker import Worker

    worker = Worker(
        app=app,
        hostname=nodenames.default_nodename(f"{queue}.{os.getpid()}@{nodenames.gethostname()}"),
        queues=queue,
        pool_cls="prefork",
        concurrency=processes,
        beat=beat,
        loglevel="WARNING",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def _load_engine(**kwargs: Any) -> None:
    """In the child, before it takes work. One line says why not; the parent ends."""
    started = time.perf_counter()
    try:
        held = read_lock(settings.WEIGHTS).values() if settings.WEIGHTS else ()
        sales.require_licences({entry.key for entry in held})
        tasks.warm_engine()
    except Exception as error:
        # Our own errors name settings and files of the operator's, nothing of a person.
        log.critical("the engine cannot start: %s", logs.Public(f"{type(error).__name__}: {error}"))
        _engine_state[0] = _FAILED
        return
    log.info("the engine has made its first step after %.1f s", time.perf_counter() - started)
    _engine_state[0] = _READY


def _watch() -> None:
    """In the parent: a child that was started later and has no engine ends the worker."""
    while _engine_state[0] != _FAILED:
        time.sleep(1)
    setattr(state, "should_stop", os.EX_CONFIG)  # noqa: B010  Celery's own way to end; its types know only None


def _has_ended(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


@worker_init.connect
def _harden(**kwargs: Any) -> None:
    """In the pool's parent, before its children are forked."""
    process.harden()


@worker_process_init.connect
def _begin_child(**kwargs: Any) -> None:
    connections.close_all()
    maintenance.start()
    queues = set(app.amqp.queues.consume_from)
    threading.Thread(target=_look_for_work, args=(queues,), name="look-for-work", daemon=True).start()


@worker_shutting_down.connect
def _stop_claiming(**kwargs: Any) -> None:
    """Runs in the pool's parent; its children see the same event, finish their pictures and end."""
    stop()


@worker_process_shutdown.connect
def _end_child(**kwargs: Any) -> None:
    """A run that no task began is waited for here; what it does not finish, it gives back."""
    stop()
    tasks.wait_until_idle(GRACE_SECONDS + 5)


@worker_ready.connect
def _sweep_at_start(**kwargs: Any) -> None:
    """Work that a dead worker left behind is hinted at once, not at the next beat."""
    enqueue(Task.SWEEP)
    enqueue(Task.PURGE)


def _look_for_work(queues: set[str]) -> None:
    """The thread of a child: what its queues are for, found in the rows instead."""
    looks = [look for queue, look in _LOOKS.items() if queue in queues]
    mend_at = time.monotonic() + MEND_SECONDS
    while not is_stopping():
        time.sleep(random.uniform(*POLL_SECONDS))
        if time.monotonic() >= mend_at:
            looks_now = [*looks, _mend]
            mend_at = time.monotonic() + MEND_SECONDS
        else:
            looks_now = looks
        for look in looks_now:
            tolerant("look for work", look)
        close_old_connections()


def _assess_waiting(now: datetime) -> None:
    for order in shots.unassessed(now):
        if order.assess_attempts < claiming.MAX_ATTEMPTS:
            tasks.assess(str(order.pk))


def _render_waiting(now: datetime) -> None:
    if not tasks.is_draining():
        workers.report(worker_name(), now)
        if claiming.has_claimable(now):
            tasks.render()


def _mend(now: datetime) -> None:
    if not workers.problem():
        shots.mend(now)


_LOOKS: Final[Mapping[str, Callable[[datetime], None]]] = {"cpu": _assess_waiting, "gpu": _render_waiting}
