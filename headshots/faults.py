"""Named points at which a test may stop a process, to prove that nothing is lost or left by dying there.

A point is one line in the flow of production code. It does nothing unless HEADSHOTS_FAULTS was set when the
process started, and production refuses to start with it. The variable holds what is to happen, separated by
commas: `purge.shredded=kill`, or with the hit that counts, `work.put=raise:2`.
"""

import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

VARIABLE: Final = "HEADSHOTS_FAULTS"

POINTS: Final[Mapping[str, str]] = {
    # upload
    "upload.cleaned": "the photo is clean, nothing of the order is written",
    "upload.order_written": "the order's rows and keys are written, not committed",
    "upload.order_committed": "the order exists without its photo",
    "upload.intended": "the row that lets the photo be written is committed",
    "upload.put": "the photo is in the store, its row does not know",
    "upload.rows_written": "the photo's rows are written, not committed",
    "upload.committed": "the photo is taken, the customer has no answer",
    # assessment
    "assess.claimed": "the assessment is claimed",
    "assess.judged": "the photo was found usable, nobody was told",
    "assess.refused": "the photo was found unusable, nobody was told",
    "accept.moved": "the order is accepted, not committed",
    "accept.committed": "the order is accepted; what was paid before has not started it",
    "refuse.moved": "the order is refused, not committed",
    "refuse.committed": "the order is refused; its photo is still there",
    "refuse.refunded": "the refused order is paid back; its photo is still there",
    # money
    "payment.recorded": "the payment is written, not committed",
    "payment.committed": "the payment is taken and the order started; nobody was told",
    "refund.recorded": "the refund is written, not committed",
    # claims, leases, results
    "claim.won": "a shot is leased; its order still looks queued",
    "claim.started": "a shot is leased and its order rendering",
    "claim.prepared": "the worker holds the photo in clear",
    "heartbeat.extending": "a lease is about to be extended",
    "heartbeat.extended": "a lease was extended",
    "work.rendered": "a picture exists in memory alone",
    "work.intended": "the row that lets a picture be written is committed",
    "work.put": "a picture is in the store, its shot does not know",
    "work.written": "all of a shot's objects are in the store, its shot does not know",
    "work.moved": "a picture is kept, not committed",
    "work.committed": "a picture is kept; its order does not know",
    "work.discarding": "a picture that came too late is still in the store",
    "work.discarded": "a picture that came too late is gone, its row is not",
    "fail.moved": "a shot is given up or given back; its order does not know",
    "settle.decided": "what is delivered and what is not needed is written, not committed",
    "surplus.erasing": "a picture that is not needed is still in the store",
    "surplus.erased": "a picture that is not needed is gone, its shot does not know",
    "finish.moved": "the order is finished, not committed",
    "finish.refunded": "the order is finished and paid back, not committed",
    "sweep.hinted": "a sweep has hinted, and closed nothing yet",
    # the purge
    "purge.fencing": "P0: the order is fenced, not committed",
    "purge.fenced": "P0: the order is fenced, its keys are there",
    "purge.shredding": "P1: the keys are deleted, not committed",
    "purge.shredded": "P1: the keys are deleted, the journal still holds them",
    "purge.journal_truncated": "P1: the keys are gone",
    "purge.entombing": "P1: the tombstone is beside the keys, the store does not have it",
    "purge.entombed": "P1: the tombstone is set, no money is back",
    "purge.entombed_committed": "P1: the money is back and the tombstone recorded",
    "purge.sweeping": "P2: the first object is about to be deleted",
    "purge.object_deleted": "P2: one object is deleted",
    "purge.swept": "P2: all objects are deleted, no row knows",
    "purge.swept_committed": "P2: what a bucket had kept out of sight is counted",
    "purge.absent": "P3: nothing is listed and nothing can be read, no row knows",
    "purge.absent_written": "P3: the first look is written, not committed",
    "purge.absent_committed": "P3: the first look is recorded",
    "purge.settling": "P4: the second look is put off",
    "purge.late_written": "P4: what a late writer left is counted, not committed",
    "purge.late_committed": "P4: what a late writer left is counted and still there",
    "purge.absent_again": "P4: the second look found nothing, no row knows",
    "purge.absent_again_committed": "P4: the second look is recorded",
    "purge.scrubbed": "P5: the rows are blank, not committed",
    "purge.moved": "P6: the order is purged without a receipt, not committed",
    "purge.passed": "a pass is through all its orders, its heartbeat is not written",
    "receipt.audited": "the end is logged, the receipt not signed",
    "receipt.signed": "the receipt is signed, not written",
    "receipt.written": "the receipt is written, not committed",
    # selfies after an hour, epochs after a day
    "selfie.shredding": "the selfie's key is deleted, not committed",
    "selfie.shredded": "the selfie's key is deleted, the journal still holds it",
    "selfie.deleted": "the selfie is deleted, its row does not know",
    "epoch.destroying": "an hour's key is about to be destroyed",
    "epoch.destroyed": "an hour's key is destroyed",
    "tombstone.handed_over": "a tombstone is in the store and still beside the keys",
    "tombstone.pruned": "a tombstone is removed, its round not recorded",
    # the audit log outside the database
    "checkpoint.signed": "a checkpoint is signed, not written",
    "checkpoint.written": "a checkpoint is written",
    # files, whatever they hold
    "file.started": "a file has a part without content",
    "file.filled": "a part holds its content, not yet durable and without its final name",
    "file.linked": "a file has its final name, and its part is still there",
}
"""Every point, and what is true when a process stops there."""


class Mode(StrEnum):
    """What happens at a point."""

    KILL = "kill"  # SIGKILL: no handler, no finally, no atexit
    RAISE = "raise"  # OSError, as a disk or a socket would


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is to happen at a point, and at which of its hits, counted from 1. 0 stands for all of them."""

    mode: Mode
    hit: int


class InjectedFault(OSError):
    """What a point in the mode `raise` raises."""


_faults: dict[str, Fault] = {}
_hits: dict[str, int] = {}
_lock = threading.Lock()


def faultpoint(name: str) -> None:
    """Does nothing, unless HEADSHOTS_FAULTS names this point. Raises InjectedFault, or does not return."""
    if _faults:
        _reach(name)


def read_environment() -> None:
    """Take the faults that HEADSHOTS_FAULTS names now; done once at start, and by tests after a fork.

    Raises ValueError for a name that is no point, and for what cannot be read.
    """
    found = parse(os.environ.get(VARIABLE, ""))
    _faults.clear()
    _hits.clear()
    _faults.update(found)


def parse(text: str) -> dict[str, Fault]:
    """The faults in the variable's form, by point. Raises ValueError as `read_environment` does."""
    faults = {}
    for part in filter(None, text.split(",")):
        name, _, what = part.partition("=")
        mode, _, hit = what.partition(":")
        if name not in POINTS:
            raise ValueError(f"{VARIABLE} names {name!r}, which is no point")
        faults[name] = Fault(mode=Mode(mode), hit=int(hit or 1))
    return faults


def hits() -> dict[str, int]:
    """How often each point was reached since faults were named; a process without any does not count."""
    return dict(_hits)


def is_set() -> bool:
    """Whether this process may be stopped at a point, or its environment asks for it."""
    return bool(_faults) or VARIABLE in os.environ


def _reach(name: str) -> None:
    with _lock:  # the heartbeat is a thread of its own
        _hits[name] = _hits.get(name, 0) + 1
        fault = _faults.get(name)
        is_due = fault is not None and fault.hit in (0, _hits[name])
    if fault is None or not is_due:
        return
    if fault.mode == Mode.KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    raise InjectedFault(f"injected at {name}")


read_environment()
