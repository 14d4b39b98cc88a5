"""The states of orders and shots, and the one table of allowed moves for each.

Services move rows only through `QuerySet.move`, a conditional UPDATE from the states listed here.
"""

from collections.abc import Mapping
from typing import Final, TypeVar

from django.db import models

StateT = TypeVar("StateT", bound=models.TextChoices)


class OrderState(models.TextChoices):
    ASSESSING = "assessing"
    REFUSED = "refused"
    AWAITING_PAYMENT = "awaiting_payment"
    QUEUED = "queued"
    RENDERING = "rendering"
    READY = "ready"
    FAILED = "failed"
    PURGING = "purging"
    PURGED = "purged"


class ShotState(models.TextChoices):
    PENDING = "pending"
    LEASED = "leased"
    KEPT = "kept"  # passed the quality gate; whether it is delivered is not decided
    DONE = "done"  # delivered
    SURPLUS = "surplus"  # not needed: never made, given up on the way, or its picture is deleted
    FAILED = "failed"


_O = OrderState
ORDER_MOVES: Final[Mapping[OrderState, tuple[OrderState, ...]]] = {
    _O.ASSESSING: (_O.REFUSED, _O.AWAITING_PAYMENT, _O.QUEUED, _O.PURGING),
    _O.REFUSED: (_O.PURGING,),
    _O.AWAITING_PAYMENT: (_O.QUEUED, _O.PURGING),
    # ready, failed: at its deadline, whether or not it was begun
    _O.QUEUED: (_O.RENDERING, _O.READY, _O.FAILED, _O.PURGING),
    _O.RENDERING: (_O.READY, _O.FAILED, _O.PURGING),
    _O.READY: (_O.QUEUED, _O.PURGING),  # back to the queue: staff retry failed shots, a redo
    _O.FAILED: (_O.QUEUED, _O.PURGING),
    _O.PURGING: (_O.PURGED,),
    _O.PURGED: (),
}

_S = ShotState
SHOT_MOVES: Final[Mapping[ShotState, tuple[ShotState, ...]]] = {
    # failed: no attempt is left, or the order's deadline has come
    _S.PENDING: (_S.LEASED, _S.SURPLUS, _S.FAILED),
    # leased again: its worker was lost
    _S.LEASED: (_S.LEASED, _S.PENDING, _S.KEPT, _S.SURPLUS, _S.FAILED),
    _S.KEPT: (_S.DONE, _S.SURPLUS),
    _S.DONE: (_S.SURPLUS,),  # its customer had it made again, and chose the new one
    _S.SURPLUS: (),
    _S.FAILED: (_S.PENDING,),  # staff retry
}

LIVE_STATES: Final = tuple(state for state in OrderState if state not in (_O.PURGING, _O.PURGED))
WORKING_STATES: Final = (_O.QUEUED, _O.RENDERING)
OPEN_STATES: Final = (_S.PENDING, _S.LEASED)  # a picture may still come of it
UNDECIDED_STATES: Final = (*OPEN_STATES, _S.KEPT)  # neither delivered nor given up
MADE_STATES: Final = (_S.KEPT, _S.DONE, _S.SURPLUS)  # a picture came of it, unless surplus was never made


def sources_of(moves: Mapping[StateT, tuple[StateT, ...]], target: StateT) -> tuple[StateT, ...]:
    """The states from which a row may move to `target`."""
    return tuple(state for state, targets in moves.items() if target in targets)
