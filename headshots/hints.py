"""Names of the tasks, and how services ask for one; what carries the hint is plugged in by who can send.

A hint may be lost, late or doubled: the rows say what is to be done, and the sweep hints again. So a process
that never imported `headshots.celery` may run every service, the purge above all; its hints go nowhere.
"""

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Final, TypeAlias

from django.db import transaction


class Task(StrEnum):
    """Every task there is. Services name them here and never import them."""

    ASSESS = "headshots.assess"
    RENDER = "headshots.render"
    SWEEP = "headshots.sweep"
    PURGE = "headshots.purge"
    SETTLE = "headshots.settle"
    MAIL = "headshots.mail"


Sender: TypeAlias = Callable[[Task, tuple[str, ...], int], None]  # (task, ids, copies)

# Then the sweep or the schedule has given another; without an end they would pile up behind a busy worker.
HINT_SECONDS: Final = 60
MAX_COPIES: Final = 4  # wakes several workers for a pack; a hint without work costs a millisecond
_senders: list[Sender] = []


def carry_by(sender: Sender) -> None:
    """Let `sender` carry all hints of this process; it swallows a broker that cannot be reached."""
    _senders[:] = [sender]


def enqueue(task: Task, *ids: str, copies: int = 1) -> None:
    """Send a hint for `task` when the current transaction commits; arguments are ids only.

    `copies` is how many workers could use one; up to MAX_COPIES are sent.
    """
    transaction.on_commit(partial(_send, task, ids, min(copies, MAX_COPIES)))


def _send(task: Task, ids: tuple[str, ...], copies: int) -> None:
    for sender in _senders:
        sender(task, ids, copies)
