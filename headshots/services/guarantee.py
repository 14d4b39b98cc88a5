"""The promised number of pictures, each through the quality gate: which are delivered, and what is left over.

More shots are planned than promised. A picture that passed the gate is kept until it is certain to be among
the best of its style; then it is delivered, for good. Each style has as many places as the plan without
spares gives it. Only when no shot is open any more do pictures of one style take the places that another
could not fill. As soon as the promised number is delivered, everything else is surplus: shots are not made,
and pictures nobody has seen are deleted.

A picture that is made again is no part of this before its customer chose it: see `services.redo`.

Since ranks are coarse, a picture of the best rank is certain at once, and so is every picture of an engine
that measures no likeness. If all are, no spare is ever made.
"""

import logging
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.db import transaction
from django.db.models import Q

from headshots.faults import faultpoint
from headshots.models import Order, Shot, ShotQuerySet, StoredObject
from headshots.services import objects
from headshots.states import LIVE_STATES, OPEN_STATES, UNDECIDED_STATES, WORKING_STATES, ShotState
from headshots.vault.errors import StoreAway
from pipelines.gate import BEST_RANK

log = logging.getLogger(__name__)

DEADLINE: Final = timedelta(minutes=30)  # before an order expires: time to look at what came, and to keep it
ERASED_AT_ONCE: Final = 100  # pictures in one sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A shot as the choice sees it."""

    shot: int
    index: int
    style: int
    state: ShotState
    rank: int


def choose(candidates: Sequence[Candidate], promised: int) -> list[int]:
    """Which kept pictures to deliver now, by their shots; never more than `promised` with those delivered.

    The places of a style are its share of the first `promised` indexes. Delivered pictures keep theirs.
    """
    places = Counter(each.style for each in candidates if each.index <= promised)
    taken = Counter(each.style for each in candidates if each.state == ShotState.DONE)
    still_open = Counter(each.style for each in candidates if each.state in OPEN_STATES)
    kept = [each for each in candidates if each.state == ShotState.KEPT]
    chosen: list[int] = []
    left: list[Candidate] = []
    ahead: Counter[int] = Counter()
    for each in sorted(kept, key=lambda each: (each.rank, each.index)):
        rivals = still_open[each.style] if each.rank > BEST_RANK else 0
        is_certain = taken[each.style] + ahead[each.style] + rivals < places[each.style]
        ahead[each.style] += 1
        if is_certain:
            chosen.append(each.shot)
        else:
            left.append(each)
    # A style whose pictures filled another's places may have more than its own: the total decides.
    room = promised - sum(taken.values())
    if not still_open:
        chosen += [each.shot for each in left]
    return chosen[: max(room, 0)]


def best_first(shots: Iterable[Shot]) -> list[Shot]:
    """Pictures as a customer sees them: by rank, and within a rank the styles in turn."""
    in_turn: list[tuple[int, int, int, Shot]] = []
    turns: Counter[tuple[int, int]] = Counter()
    for shot in sorted(shots, key=lambda shot: shot.index):
        group = (shot.rank, shot.style_version_id)
        in_turn.append((shot.rank, turns[group], shot.index, shot))
        turns[group] += 1
    return [shot for *_, shot in sorted(in_turn, key=lambda entry: entry[:3])]


def settle(order: Order) -> None:
    """Deliver what is certain, and call off what is not needed any more.

    In the caller's transaction, which holds the order's row: two workers that finish at once decide one after
    the other.
    """
    shots = Shot.objects.filter(order=order)
    chosen = choose(_candidates(shots), order.headshots)
    changed = shots.filter(pk__in=chosen, state=ShotState.KEPT).move(ShotState.DONE)
    if shots.filter(state=ShotState.DONE).count() >= order.headshots:
        # A shot that is being kept at this moment is not among these; who keeps it decides again.
        for state in UNDECIDED_STATES:
            changed += shots.planned().filter(state=state).move(ShotState.SURPLUS, lease_owner="")
    if changed:
        faultpoint("settle.decided")


def _candidates(shots: ShotQuerySet) -> list[Candidate]:
    ours = shots.filter(Q(replaces=None) | Q(state=ShotState.DONE)).order_by("index")
    rows = ours.values_list("pk", "index", "style_version", "state", "rank")
    return [
        Candidate(shot=pk, index=index, style=style, state=ShotState(state), rank=rank)
        for pk, index, style, state, rank in rows
    ]


def give_up_overdue(now: datetime) -> list[uuid.UUID]:
    """Close the shots of orders whose deadline has come; these orders, which are then to be finished.

    What was kept until then is delivered, and what is missing is paid back, while there is time to look.
    """
    overdue = Order.objects.filter(state__in=WORKING_STATES, expires_at__lte=now + DEADLINE)
    order_ids = list(overdue.order_by("expires_at").values_list("pk", flat=True))
    for order_id in order_ids:
        # No join, see `claiming.held`.
        still_open = Shot.objects.filter(
            order__in=Order.objects.filter(pk=order_id, state__in=WORKING_STATES)
        )
        still_open.filter(state__in=OPEN_STATES).move(
            ShotState.FAILED, error_code="deadline", lease_owner="", finished_at=now
        )
        log.error("order %s is closed at its deadline", order_id)
    return order_ids


def erase_surplus(orders: Iterable[uuid.UUID] | None = None) -> None:
    """Delete the pictures that are not needed, of these orders or of all; keys and delivered ones stay.

    What the store would not delete is tried again at the next sweep.
    """
    shots = Shot.objects.filter(Q(headshot__isnull=False) | Q(preview__isnull=False), state=ShotState.SURPLUS)
    shots = shots.filter(order__state__in=LIVE_STATES)
    if orders is not None:
        shots = shots.filter(order__in=orders)
    for shot in shots.select_related("headshot", "preview")[:ERASED_AT_ONCE]:
        try:
            _erase(shot)
        except (OSError, StoreAway) as error:
            log.error("surplus shot %d could not be erased: %s", shot.pk, type(error).__name__)


def _erase(shot: Shot) -> None:
    pictures = [stored for stored in (shot.headshot, shot.preview) if stored]
    for stored in pictures:
        faultpoint("surplus.erasing")
        objects.blobs().delete(objects.name_of(stored).blob_name)
        faultpoint("surplus.erased")
    there = StoredObject.objects.filter(pk__in=[stored.pk for stored in pictures])
    with transaction.atomic():
        # The rows stay: the receipt counts all that was ever stored.
        there.filter(state=StoredObject.State.STORED).update(state=StoredObject.State.DELETED)
        Shot.objects.filter(pk=shot.pk, state=ShotState.SURPLUS).update(headshot=None, preview=None)
