"""The order of the queue, as pure functions: the database's claims and the simulation both run on these.

Start-time fair queueing (Goyal, Vin, Cheng 1996) between the tiers. Each shot has a virtual finish time,
given once when its order enters the queue: start = max(virtual clock, last finish of its tier), finish =
start + work / weight of the tier. The smallest goes first, and the virtual clock is the start of the one
that is furthest behind. So a tier that was idle begins level with the others, and none can save up or starve.

The flows are the tiers, and the orders of one tier go one after the other. With a flow per order, packs of
fifty that overlap all end when the last one does; one after the other, the first is ready in half the time
and the last no later.

Around that order stand three rules. Beside its slots each worker has reserved places, since one that is taken
stays taken for a whole picture: a pack fills every slot, and a small order still boards at once. No order may
hold more than its cap while another waits. And an order that has
waited longer than its tier's patience goes first, whatever its place, but never into another's reserve.
"""

import math
import uuid
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Final

from headshots.tiers import TIERS, Tier
from pipelines.presets import HEIGHT

# Work is counted in rows through the denoiser: one sample, one step; 9.77 TFLOP for SDXL with IdentityNet at
# 896 x 1152. With guidance a step has two. Decoding is 10 TFLOP, enlarging fourfold 38 (counted from the
# networks' shapes, see tests/bench/flops.py).
ROWS_PER_STEP: Final = 2
DECODING_ROWS: Final = 1
ENLARGING_ROWS: Final = 4

VIRTUAL_UNIT: Final = 1000  # whole numbers, so that every database sums and compares them alike


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A shot that may be claimed. `since` is when it could first be claimed.

    One that `is_apart` is made by a worker that holds nothing else, see `claiming.claim`.
    """

    shot: int
    order: uuid.UUID
    tier: str
    work: int
    virtual_finish: int
    since: datetime
    is_apart: bool = False

    @property
    def virtual_start(self) -> int:
        """Its virtual finish time less its own length."""
        return self.virtual_finish - virtual_length(self.work, TIERS[self.tier])

    @property
    def late_at(self) -> datetime:
        """From when on it goes before all that are not late."""
        return self.since + timedelta(seconds=TIERS[self.tier].patience_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """What is leased now: by each order anywhere, and by each tier on the worker that asks."""

    by_order: Mapping[uuid.UUID, int] = field(default_factory=dict)
    here_by_tier: Mapping[str, int] = field(default_factory=dict)


def work_of(steps: int, long_edge: int) -> int:
    """The work of one shot, in rows through the denoiser."""
    return steps * ROWS_PER_STEP + DECODING_ROWS + (ENLARGING_ROWS if long_edge > HEIGHT else 0)


def virtual_length(work: int, tier: Tier) -> int:
    """How far `work` of a tier's flow moves its virtual finish time."""
    return work * VIRTUAL_UNIT // tier.weight


def offsets(works: Iterable[int], tier: Tier) -> list[int]:
    """The virtual finish times of an order's shots, counted from the order's virtual start."""
    return list(accumulate(virtual_length(work, tier) for work in works))


def start_of(clock: int, last_finish: int) -> int:
    """The virtual start of an order that enters the queue of a tier."""
    return max(clock, last_finish)


def choose(
    waiting: Mapping[str, Sequence[Waiting]],
    in_flight: InFlight,
    *,
    limit: int,
    slots: int,
    now: datetime,
) -> list[Waiting]:
    """Which of `waiting` a worker of `slots` should take, in this order, with `limit` of its places free.

    `waiting` holds each tier's shots by virtual finish time. Fewer than `limit` come back when the rest of
    the places is reserved for a tier that has nothing waiting.
    """
    lanes = {tier: deque(shots) for tier, shots in waiting.items() if shots}
    passed_over: dict[str, deque[Waiting]] = {tier: deque() for tier in lanes}
    held = Counter(in_flight.by_order)
    here = Counter(in_flight.here_by_tier)
    chosen: list[Waiting] = []
    while len(chosen) < limit:
        _pass_over_capped(lanes, passed_over, held)
        room = limit - len(chosen)
        for source in (lanes, passed_over):
            best = _first(source, here, room, slots, now)
            if best is not None:
                source[best.tier].popleft()
                break
        else:
            break
        held[best.order] += 1
        here[best.tier] += 1
        chosen.append(best)
    return chosen


def clock_after(waiting: Mapping[str, Sequence[Waiting]], chosen: Collection[Waiting]) -> int:
    """Where the virtual clock may be moved to when `chosen`, of `waiting`, went.

    That is the virtual start of the tier that is furthest behind, also when caps let later shots pass its
    first ones: who comes now begins level with these. Of a tier whose `waiting` all went the last one counts.
    """
    gone = {each.shot for each in chosen}
    return min(
        (
            next((each for each in lane if each.shot not in gone), lane[-1]).virtual_start
            for lane in waiting.values()
            if lane
        ),
        default=0,
    )


def _pass_over_capped(
    lanes: Mapping[str, deque[Waiting]],
    passed_over: Mapping[str, deque[Waiting]],
    held: Mapping[uuid.UUID, int],
) -> None:
    """Set the heads aside whose order holds its cap; they still go when nobody else can."""
    for tier, lane in lanes.items():
        while lane and held.get(lane[0].order, 0) >= TIERS[tier].in_flight_cap:
            passed_over[tier].append(lane.popleft())


def _first(
    lanes: Mapping[str, deque[Waiting]], here: Mapping[str, int], room: int, slots: int, now: datetime
) -> Waiting | None:
    heads = [lane[0] for tier, lane in lanes.items() if lane and room > _reserved(tier, here, slots)]
    return min(heads, key=lambda head: _rank(head, now), default=None)


def _reserved(tier: str, here: Mapping[str, int], slots: int) -> int:
    """Places that a tier must leave free, for those that have some reserved and do not hold them."""
    return sum(
        max(0, reserve(other.reserved_share, slots) - here.get(slug, 0))
        for slug, other in TIERS.items()
        if slug != tier
    )


def reserve(share: float, slots: int) -> int:
    """How many places beside a worker's slots a share of them is, rounded up."""
    return math.ceil(share * slots)


def reserved_places(slots: int) -> int:
    """How many places a worker has on top of its slots: those that any tier has reserved."""
    return sum(reserve(tier.reserved_share, slots) for tier in TIERS.values())


def _rank(head: Waiting, now: datetime) -> tuple[int, float]:
    if head.late_at <= now:
        return (0, head.late_at.timestamp())
    return (1, head.virtual_finish)
