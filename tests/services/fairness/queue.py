"""The queue without a database."""

import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta

from headshots.services import fair_queue
from headshots.services.fair_queue import InFlight, Waiting
from headshots.tiers import TIERS

SECOND = timedelta(seconds=1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FREE, PREMIUM = TIERS["free"], TIERS["premium"]


class Queue:
    """The queue without a database: orders enter, workers take, as the services do it."""

    def __init__(self) -> None:
        self.clock = self.made = 0
        self.now = NOON
        self.last_finish = dict.fromkeys(TIERS, 0)
        self.lanes: dict[str, list[Waiting]] = {slug: [] for slug in TIERS}
        self.in_flight: list[Waiting] = []

    def enter(self, tier: str, count: int = 0, work: int = 60) -> uuid.UUID:
        order = uuid.uuid4()
        count = count or TIERS[tier].headshots
        start = fair_queue.start_of(self.clock, self.last_finish[tier])
        for offset in fair_queue.offsets([work] * count, TIERS[tier]):
            self.made += 1
            self.lanes[tier].append(
                Waiting(
                    shot=self.made,
                    order=order,
                    tier=tier,
                    work=work,
                    virtual_finish=start + offset,
                    since=self.now,
                )
            )
            self.last_finish[tier] = start + offset
        return order

    def take(self, limit: int, slots: int = 0) -> list[Waiting]:
        held = InFlight(
            by_order=Counter(each.order for each in self.in_flight),
            here_by_tier=Counter(each.tier for each in self.in_flight),
        )
        chosen = fair_queue.choose(self.lanes, held, limit=limit, slots=slots, now=self.now)
        self.clock = max(self.clock, fair_queue.clock_after(self.lanes, chosen))
        for each in chosen:
            self.lanes[each.tier].remove(each)
        self.in_flight += chosen
        return chosen


def tiers_of(chosen: list[Waiting]) -> str:
    return "".join(each.tier[0] for each in chosen)
