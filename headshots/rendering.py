"""One run of the engine: what it claims and delivers, which claims still hold, and who keeps their leases.

The engine's loop must not wait: the rows are asked at most once a second while pictures are in flight, and a
finished picture is sealed, uploaded and committed in the engine's threads, beside the next denoising steps.
"""

import logging
import mmap
import os
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from billiard import current_process
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, connections

from headshots import breakdown
from headshots.exceptions import NotFound
from headshots.faults import faultpoint
from headshots.models import Order
from headshots.services import claiming, clock, credentials, shots, uploads, workers
from headshots.tiers import TIERS
from pipelines.errors import Retryable

if TYPE_CHECKING:
    from pipelines.types import FailedShot, FinishedShot, ShotRequest

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0  # between two questions to the rows while pictures are in flight
GRACE_SECONDS: Final = 10.0  # for pictures in flight when the worker is to stop; then they are given back
RUN_SECONDS: Final = 1320.0  # of claiming in one run: less than the soft limit of the task
# A minute in all: a database that restarts or fails over is back by then, and no picture need be made again.
DATABASE_PAUSES_SECONDS: Final = (0.5, 1, 2, 4, 8, 15, 30)
DATABASE_ERRORS: Final = (OperationalError, InterfaceError)

# One byte shared with the children of a prefork pool. No lock: a killed child must not leave one held.
_stopping = mmap.mmap(-1, 1)


def stop() -> None:
    """Claim nothing more, in this process and in the children it has forked."""
    _stopping[0] = 1


def is_stopping() -> bool:
    """Whether `stop` was called, here or in the process that forked this one."""
    return bool(_stopping[0])


def worker_name() -> str:
    """This process among all workers."""
    return f"{workers.host()}:{os.getpid()}"


class RenderRun:
    """The three functions that an engine's run needs. `sink` may be called from several threads at once."""

    def __init__(self) -> None:
        self.owner = f"{worker_name()}:{secrets.token_hex(4)}"
        self.moves = 0  # calls by the engine: as long as they go up, it is not stuck
        self._lock = threading.Lock()
        self._claims: dict[str, claiming.Claim] = {}  # until they are settled or given up
        self._unwanted: set[str] = set()
        self._portraits: dict[uuid.UUID, Any] = {}
        self._thread = threading.get_ident()
        self._look_at = 0.0
        self._dry_until = 0.0
        self._dry_slots = 0  # that the last answer left empty
        self._rests_until = 0.0  # nothing is claimed before, since the store does not answer
        self._closes_at = time.monotonic() + RUN_SECONDS
        self._grace_ends_at = float("inf")

    @property
    def held(self) -> list[int]:
        """The shots whose leases are to be kept."""
        with self._lock:
            return [claimed.shot.pk for claimed in self._claims.values()]

    def source(self, free_slots: int) -> "Sequence[ShotRequest]":
        """Claim up to `free_slots` shots; none once this worker was asked to stop.

        An order that vanished meanwhile is skipped, and one that cannot be read does not stop the others.
        While pictures are in flight a database that does not answer is asked again later.
        """
        self.moves += 1
        now = time.monotonic()
        if is_stopping() or now >= self._closes_at or now < self._rests_until:
            return []
        with self._lock:  # beside a shot that must have no company nothing is claimed
            if any(claimed.is_apart for claimed in self._claims.values()):
                return []
        # Slots that stayed empty are kept for others or find no work; a slot more is worth asking for.
        if self._claims and now < self._dry_until and free_slots <= self._dry_slots:
            return []
        requests: list[ShotRequest] = []
        try:
            self._take(free_slots, requests)
        except DATABASE_ERRORS as error:
            if not self._claims:
                raise
            log.warning("nothing can be claimed: %s", type(error).__name__)
            connection.close()
        self._dry_slots = free_slots - len(requests)
        if self._dry_slots:
            self._dry_until = time.monotonic() + LOOK_SECONDS
        return requests

    def is_cancelled(self, shot_id: str) -> bool:
        """Whether nobody waits for this shot any more, as the rows said at most a second ago."""
        self.moves += 1
        now = time.monotonic()
        if now >= self._look_at:
            self._look(now)
        is_given_up = shot_id in self._unwanted or now >= self._grace_ends_at
        if is_given_up:
            self._forget(shot_id)
        return is_given_up

    def sink(self, result: "FinishedShot | FailedShot") -> None:
        """Commit a picture, or record why there is none.

        Raises when the database stays away, and EngineBroken after too many errors that nobody can explain.
        """
        self.moves += 1
        with self._lock:
            claimed = self._claims.get(result.shot_id)
            is_alone = len(self._claims) == 1
        if claimed is None:
            log.info("shot %d was given up before it was done", int(result.shot_id))
        else:
            try:
                self._settle(claimed, result, is_alone=is_alone)
            finally:
                self._forget(result.shot_id)
                if threading.get_ident() != self._thread:
                    connections.close_all()  # a thread's own, which nothing else would close
        breakdown.note(result)

    def give_up(self) -> None:
        """Give back what the engine holds: it is broken, and makes nothing more of it."""
        with self._lock:
            claims = list(self._claims.values())
        for claimed in claims:
            self._settle(claimed, _failed(claimed, claiming.ENGINE_BROKEN), is_alone=len(claims) == 1)
            self._forget(str(claimed.shot.pk))

    def _take(self, free_slots: int, requests: "list[ShotRequest]") -> None:
        """Append what could be claimed and prepared: it is not lost to an error that comes after it."""
        slots = settings.SLOTS if settings.ENGINE == "instantid" else 0
        while not requests and not is_stopping() and not workers.problem():
            if time.monotonic() < self._rests_until:
                return
            claims = claiming.claim(self.owner, free_slots, clock.now(), slots=slots)
            if not claims:
                return
            self._hold(claims)
            try:
                self._prepare(claims, requests)
            finally:
                ready = {request.shot_id for request in requests}
                for claimed in claims:
                    if str(claimed.shot.pk) not in ready:
                        self._forget(str(claimed.shot.pk))

    def _hold(self, claims: Sequence[claiming.Claim]) -> None:
        """From here on their leases are kept: photos may be long in coming."""
        with self._lock:
            for claimed in claims:
                self._claims[str(claimed.shot.pk)] = claimed
                self._unwanted.discard(str(claimed.shot.pk))

    def _prepare(self, claims: Sequence[claiming.Claim], requests: "list[ShotRequest]") -> None:
        """Append the requests of these claims; those that a worker asked to stop does not come to are left.

        When the store does not answer the rest goes back at once: each further question costs as long.
        """
        for place, claimed in enumerate(claims):
            self.moves += 1
            if is_stopping():
                return
            try:
                requests.append(self._request(claimed))
            except NotFound:
                continue  # fenced between the claim and now: its shots are nobody's any more
            except Retryable as error:
                self._rests_until = time.monotonic() + shots.STORE_PAUSE.total_seconds()
                log.warning("%d shots cannot be prepared: %s", len(claims) - place, error.code)
                for left in claims[place:]:
                    shots.give_back(left, error.code, clock.now())
                return
            except Exception as error:
                log.error("shot %d cannot be prepared: %s", claimed.shot.pk, type(error).__name__)
                shots.fail(claimed, _failed(claimed, "not_prepared"), clock.now())
            else:
                faultpoint("claim.prepared")

    def _request(self, claimed: claiming.Claim) -> "ShotRequest":
        from pipelines.types import OutputSpec, ShotRequest

        order = claimed.shot.order
        return ShotRequest(
            shot_id=str(claimed.shot.pk),
            identity=order.pk.hex,
            portrait=self._portrait(order),
            preset=claimed.shot.style_version.preset(),
            seeds=claimed.seeds,
            output=OutputSpec(long_edge=order.long_edge, is_watermarked=order.is_watermarked),
            is_urgent=TIERS[order.tier].reserved_share > 0,
        )

    def _portrait(self, order: Order) -> Any:
        """The order's photo. Those of the orders in flight are kept: their shots hold them anyway."""
        from pipelines.images import decode_jpeg

        if order.pk not in self._portraits:
            with self._lock:
                in_flight = {claimed.shot.order_id for claimed in self._claims.values()}
            self._portraits = {pk: photo for pk, photo in self._portraits.items() if pk in in_flight}
            self._portraits[order.pk] = decode_jpeg(uploads.open_selfie(order, clock.now()))
        return self._portraits[order.pk]

    def _look(self, now: float) -> None:
        """Ask the rows about all claims in one query; a database that is away leaves the last answer."""
        self._look_at = now + LOOK_SECONDS
        if is_stopping():
            self._grace_ends_at = min(self._grace_ends_at, now + GRACE_SECONDS)
        with self._lock:
            claims = dict(self._claims)
        try:
            wanted = claiming.wanted(list(claims.values()))
        except DATABASE_ERRORS as error:
            log.warning("the claims cannot be looked at: %s", type(error).__name__)
            connection.close()
            return
        self._unwanted = {shot_id for shot_id, claimed in claims.items() if claimed.shot.pk not in wanted}

    def _settle(
        self, claimed: claiming.Claim, result: "FinishedShot | FailedShot", *, is_alone: bool
    ) -> None:
        for pause in DATABASE_PAUSES_SECONDS:
            try:
                _record(claimed, result, is_alone=is_alone)
            except DATABASE_ERRORS as error:
                log.warning("shot %d waits for the database: %s", claimed.shot.pk, type(error).__name__)
                connection.close()
                time.sleep(pause)
            else:
                return
        _record(claimed, result, is_alone=is_alone)

    def _forget(self, shot_id: str) -> None:
        with self._lock:
            self._claims.pop(shot_id, None)


def _record(claimed: claiming.Claim, result: "FinishedShot | FailedShot", *, is_alone: bool) -> None:
    """Sign and commit, or fail; a picture that cannot be stored gives its shot back.

    So does one for which nobody can be blamed: `is_alone` says that no other shot of this worker can be.
    """
    from pipelines.types import FailedShot

    if isinstance(result, FailedShot):
        if result.code in claiming.UNBLAMED_CODES and not is_alone:
            shots.give_back(claimed, result.code, clock.now())
        else:
            shots.fail(claimed, result, clock.now())
        return
    faultpoint("work.rendered")
    try:
        signed = replace(result, jpeg=credentials.attach(result.jpeg))
        if not shots.commit(claimed, signed, clock.now()):
            log.info("shot %d came too late and was discarded", claimed.shot.pk)
    except DATABASE_ERRORS:
        raise
    except Retryable as error:
        log.warning("shot %d cannot be stored: %s", claimed.shot.pk, error.code)
        shots.give_back(claimed, error.code, clock.now())
    except Exception as error:
        log.error("shot %d cannot be stored: %s", claimed.shot.pk, type(error).__name__)
        shots.fail(claimed, _failed(claimed, "not_stored"), clock.now())


def _failed(claimed: claiming.Claim, code: str) -> "FailedShot":
    from pipelines.types import FailedShot

    return FailedShot(shot_id=str(claimed.shot.pk), code=code, is_retryable=True)


@contextmanager
def kept_alive(run: RenderRun) -> Iterator[None]:
    """Keep the leases of `run` from a thread, at a quarter of their length, while the body runs.

    An engine that has not moved for STUCK_SECONDS keeps nothing: other workers take its shots over when the
    leases run out. In a child of a pool the process then ends itself, since nothing else can stop a device
    that does not come back; its parent starts another.
    """
    over = threading.Event()
    thread = threading.Thread(target=_beat, args=(run, over), name="lease-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=5)


def _beat(run: RenderRun, over: threading.Event) -> None:
    interval = settings.LEASE_SECONDS / 4
    # Counted in beats, not by the clock: a process that was stopped for an hour has not been stuck for one.
    seen, still_seconds = run.moves, 0.0
    while not over.wait(interval):
        still_seconds = still_seconds + interval if run.moves == seen else 0.0
        seen = run.moves
        if still_seconds < settings.STUCK_SECONDS:
            tolerant("heartbeat", lambda now: _keep(run, now))
        elif still_seconds - interval < settings.STUCK_SECONDS:
            log.critical("the engine has not moved for %.0f s: its leases run out", still_seconds)
        elif still_seconds >= settings.STUCK_SECONDS + settings.LEASE_SECONDS and current_process().daemon:
            log.critical("the engine does not come back: this process ends")
            os._exit(os.EX_SOFTWARE)
    connections.close_all()


def _keep(run: RenderRun, now: datetime) -> None:
    claiming.extend(run.owner, now, run.held)
    workers.report(worker_name(), now)


def tolerant(what: str, step: Callable[[datetime], object]) -> None:
    """Run a step that will be repeated anyway; a database away for a moment must not end the thread."""
    try:
        step(clock.now())
    except Exception as error:
        log.warning("%s failed: %s", what, type(error).__name__)
        connection.close()
