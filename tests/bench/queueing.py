"""python -m tests.bench.queueing: how long orders wait on one GPU, under our order and under two others.

A simulation by denoising steps: Poisson arrivals, one premium pack of 50 and its spares for nine free packs
of 3, one worker of eight slots (ours has its reserved places besides) whose shots join at any step. Ours
runs on the functions that the database's claims run on (`services.fair_queue`), and steps are shared as the
engine shares them (`pipelines.turns`). The same arrivals are served first come first served, and premium
first. Printed are the times from arrival to the last picture, as 95th percentiles averaged over several
days, and their ratios to first come first served, all from one run; and how full our batches are: of the
slots for which there was work, the share that was used, in all steps and in those that no small order made
alone. The JSON is kept beside this file.

The speeds are a model, and the ratios hardly depend on it: a step of n shots takes FIXED + n x PER_SHOT
seconds. With these numbers a batch of 8 takes 1.49 s a picture, half of what an H200's bf16 arithmetic
allows, and a single one 24 % more than that.
"""

import argparse
import json
import math
import random
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Final

from headshots.services import fair_queue
from headshots.services.fair_queue import InFlight, Waiting
from headshots.tiers import TIERS
from pipelines.turns import Turns

SLOTS: Final = 8
STEPS: Final = 30
FIXED_SECONDS: Final = 0.0136
SECONDS_PER_SHOT: Final = 0.0478
ARRIVAL_SECONDS: Final = {"free": 0.04, "premium": 0.165}  # decoding, and enlarging for premium
PREMIUM_SHARE: Final = 0.1  # of the orders
HOURS: Final = 6
SEEDS: Final = range(1, 9)
LOADS: Final = (0.5, 0.6, 0.7, 0.85)
START: Final = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(eq=False, slots=True)
class _Pack:
    """An order in the simulation; times in seconds."""

    id: uuid.UUID
    tier: str
    arrived: float
    left: int
    ended: float = 0.0
    steps: int = 0  # that the worker made while the order was there


@dataclass(slots=True)
class _Flight:
    pack: _Pack
    shot: int
    steps_left: int = STEPS


@dataclass(slots=True)
class Fill:
    """Slots that were used, and that could have been: by who was aboard, and who waited."""

    used: int = 0
    wanted: int = 0

    @property
    def share(self) -> float:
        return self.used / self.wanted


@dataclass(slots=True)
class Worker:
    """One GPU and its queue; `pick` says which waiting shots go next."""

    pick: "Callable[[Worker, int], list[Waiting]]"
    turns: Turns = field(default_factory=Turns)
    fill: Fill = field(default_factory=Fill)
    fill_together: Fill = field(default_factory=Fill)
    now: float = 0.0
    clock: int = 0
    shots_made: int = 0
    lanes: dict[str, deque[Waiting]] = field(default_factory=lambda: {tier: deque() for tier in TIERS})
    last_finish: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TIERS, 0))
    packs: dict[uuid.UUID, _Pack] = field(default_factory=dict)
    flights: list[_Flight] = field(default_factory=list)

    @property
    def time(self) -> datetime:
        return START + timedelta(seconds=self.now)

    def enter(self, pack: _Pack) -> None:
        """An order joins the queue, as `queue_clock.enter` lets it."""
        tier = TIERS[pack.tier]
        works = [fair_queue.work_of(STEPS, tier.long_edge)] * tier.planned
        start = fair_queue.start_of(self.clock, self.last_finish[pack.tier])
        self.packs[pack.id] = pack
        for work, offset in zip(works, fair_queue.offsets(works, tier), strict=True):
            self.shots_made += 1
            self.lanes[pack.tier].append(
                Waiting(
                    shot=self.shots_made,
                    order=pack.id,
                    tier=pack.tier,
                    work=work,
                    virtual_finish=start + offset,
                    since=START + timedelta(seconds=pack.arrived),
                )
            )
            self.last_finish[pack.tier] = start + offset

    def board(self) -> None:
        """Fill the free places, as `claiming.claim` does."""
        reserved = fair_queue.reserved_places(SLOTS) if self.pick is ours else 0
        free = SLOTS + reserved - len(self.flights)
        chosen = self.pick(self, free) if free and any(self.lanes.values()) else []
        self.clock = max(self.clock, fair_queue.clock_after(self.lanes, chosen))
        for shot in chosen:
            self.lanes[shot.tier].remove(shot)
            self.flights.append(_Flight(self.packs[shot.order], shot.shot))

    def step(self) -> list[_Pack]:
        """One denoising step of those whose turn it is; the orders that are ready after it."""
        moving, passed = self.turns.split(
            self.flights, lambda one: self.pick is ours and is_urgent(one.pack.tier)
        )
        forwards = math.ceil(len(moving) / SLOTS)
        could = len(self.flights) + sum(map(len, self.lanes.values()))
        for fill in (self.fill,) if passed else (self.fill, self.fill_together):
            fill.used += len(moving)
            fill.wanted += max(len(moving), min(SLOTS * forwards, could))
        self.now += FIXED_SECONDS * forwards + SECONDS_PER_SHOT * len(moving)
        for pack in self.packs.values():
            pack.steps += 1
        for flight in moving:
            flight.steps_left -= 1
        ready = []
        for flight in [flight for flight in self.flights if not flight.steps_left]:
            self.flights.remove(flight)
            self.now += ARRIVAL_SECONDS[flight.pack.tier]
            flight.pack.left -= 1
            if not flight.pack.left:
                flight.pack.ended = self.now
                ready.append(self.packs.pop(flight.pack.id))
        return ready


def is_urgent(tier: str) -> bool:
    """As `RenderRun` tells the engine."""
    return TIERS[tier].reserved_share > 0


def ours(worker: Worker, free: int) -> list[Waiting]:
    """What `claiming.claim` would take."""
    held = [flight.pack for flight in worker.flights]
    in_flight = InFlight(
        by_order={pack.id: sum(one is pack for one in held) for pack in held},
        here_by_tier={tier: sum(one.tier == tier for one in held) for tier in TIERS},
    )
    heads = {tier: list(islice(lane, 2 * SLOTS)) for tier, lane in worker.lanes.items()}
    return fair_queue.choose(heads, in_flight, limit=free, slots=SLOTS, now=worker.time)


def first_come(worker: Worker, free: int) -> list[Waiting]:
    """First come, first served."""
    heads = [shot for lane in worker.lanes.values() for shot in islice(lane, free)]
    return sorted(heads, key=lambda shot: (shot.since, shot.shot))[:free]


def premium_first(worker: Worker, free: int) -> list[Waiting]:
    """Whoever pays goes first."""
    return [*islice(worker.lanes["premium"], free), *islice(worker.lanes["free"], free)][:free]


POLICIES: Final = {"first_come": first_come, "premium_first": premium_first, "ours": ours}


def arrivals(load: float, hours: float, seed: int) -> Iterator[_Pack]:
    """Orders of `hours` that keep a worker with full batches busy for the share `load` of the time."""
    rng = random.Random(seed)
    batch_share = STEPS * (FIXED_SECONDS / SLOTS + SECONDS_PER_SHOT)
    seconds_of = {slug: tier.planned * (batch_share + ARRIVAL_SECONDS[slug]) for slug, tier in TIERS.items()}
    mean_seconds = PREMIUM_SHARE * seconds_of["premium"] + (1 - PREMIUM_SHARE) * seconds_of["free"]
    at = 0.0
    while (at := at + rng.expovariate(load / mean_seconds)) < hours * 3600:
        tier = "premium" if rng.random() < PREMIUM_SHARE else "free"
        yield _Pack(uuid.UUID(int=rng.getrandbits(128)), tier, at, TIERS[tier].planned)


def simulate(worker: Worker, packs: Sequence[_Pack]) -> list[_Pack]:
    """Let `worker` serve all of `packs`; the same ones, in the order they were ready."""
    coming = deque(packs)
    ready: list[_Pack] = []
    while coming or worker.packs:
        if not worker.packs:
            worker.now = max(worker.now, coming[0].arrived)
        while coming and coming[0].arrived <= worker.now:
            worker.enter(coming.popleft())
        worker.board()
        ready += worker.step()
    return ready


def p95(ready: Sequence[_Pack], tier: str) -> float:
    """The 95th percentile of the seconds that orders of a tier took."""
    seconds = sorted(pack.ended - pack.arrived for pack in ready if pack.tier == tier)
    return seconds[int(0.95 * len(seconds))]


def beside_a_pack(pick: Callable[[Worker, int], list[Waiting]], *, every: int = 1) -> tuple[float, float]:
    """A free order beside a running premium pack, against one alone: the worst ratio in steps, in seconds.

    It is placed at one of `every` steps, from the pack's first to its last tenth.
    """
    (alone,) = simulate(Worker(pick), [_new("free", 0.0)])
    pack_steps = simulate(Worker(pick), [_new("premium", 0.0)])[0].steps
    steps_ratio = seconds_ratio = 0.0
    for moment in range(1, int(0.9 * pack_steps), every):
        worker = Worker(pick)
        worker.enter(_new("premium", 0.0))
        for _ in range(moment):
            worker.board()
            worker.step()
        guest = _new("free", worker.now)
        worker.enter(guest)
        while not guest.ended:
            worker.board()
            worker.step()
        steps_ratio = max(steps_ratio, guest.steps / alone.steps)
        seconds_ratio = max(seconds_ratio, (guest.ended - guest.arrived) / alone.ended)
    return steps_ratio, seconds_ratio


def _new(tier: str, at: float) -> _Pack:
    return _Pack(uuid.uuid4(), tier, at, TIERS[tier].planned)


def measure(hours: float, seeds: Sequence[int]) -> dict[str, object]:
    """All loads under all policies, and the ratios to first come first served."""
    loads: dict[str, object] = {}
    for load in LOADS:
        times = {name: dict.fromkeys(TIERS, 0.0) for name in POLICIES}
        for name, pick in POLICIES.items():
            workers = [Worker(pick) for _ in seeds]
            days = [
                simulate(worker, list(arrivals(load, hours, seed)))
                for worker, seed in zip(workers, seeds, strict=True)
            ]
            for tier in TIERS:
                times[name][tier] = sum(p95(day, tier) for day in days) / len(days)
            fills = [mean(worker.fill.share for worker in workers)]
            fills.append(mean(worker.fill_together.share for worker in workers))
        base, mine = times["first_come"], times["ours"]
        loads[f"{load:.0%}"] = {
            "p95_seconds": {
                name: {t: round(value, 1) for t, value in row.items()} for name, row in times.items()
            },
            "free_times_faster_than_first_come": round(base["free"] / mine["free"], 2),
            "premium_ratio_to_first_come": round(mine["premium"] / base["premium"], 3),
            "batch_fill": round(fills[0], 3),
            "batch_fill_but_for_steps_of_small_orders_alone": round(fills[1], 3),
            "premium_first_free_ratio_to_first_come": round(times["premium_first"]["free"] / base["free"], 2),
        }
    beside = {name: beside_a_pack(pick) for name, pick in POLICIES.items()}
    return {
        "hours": hours,
        "seeds": len(seeds),
        "slots": SLOTS,
        "steps": STEPS,
        "loads": loads,
        "free_order_beside_a_pack_of_50_in_steps": {name: round(pair[0], 2) for name, pair in beside.items()},
        "free_order_beside_a_pack_of_50_in_seconds": {
            name: round(pair[1], 2) for name, pair in beside.items()
        },
    }


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=HOURS)
    options = parser.parse_args()
    result = {"date": time.strftime("%Y-%m-%d"), **measure(options.hours, SEEDS)}
    text = json.dumps(result, indent=1)
    (Path(__file__).parent / "results" / "queueing.json").write_text(text + "\n")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
