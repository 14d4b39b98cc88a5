"""python -m tests.bench.soak: two hours of a busy service in a few minutes.

Orders come by chance, in the mix and as often as tests/bench/queueing.py simulates for a load in which every
spare is made. Here every picture passes, so no spare is, and the load is lower: it is printed. What they go
through is the real one, on SQLite and a disk: placing, payment, queue, claims, sealing, commits, delivery to
the customer, deletion, sweep and purge. These are not: the clock, which jumps to the next event; the device,
which only takes that clock's time, as much as an H200 would at half of its arithmetic; the worker, one loop
in this process, without Celery, engine, or leases that run out; and the assessment. Pictures are tiny.

Printed are the seconds from upload to the last picture of free and premium orders (by the service's clock),
pictures an hour, the processor time that a picture costs besides its rendering, and how memory and database
grew. Shares and rates are of all the time until the last customer has deleted, twenty minutes after the last
order. Checked is that every order got what it paid for. The JSON is kept beside this file.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from headshots.tiers import TIERS
from pipelines.turns import Turns
from tests.bench.queueing import (
    ARRIVAL_SECONDS,
    FIXED_SECONDS,
    SECONDS_PER_SHOT,
    SLOTS,
    STEPS,
    arrivals,
    is_urgent,
)

if TYPE_CHECKING:  # Django is set up in `main`
    from headshots.services.claiming import Claim

HOURS: Final = 2.0
LOAD: Final = 0.7
SEED: Final = 1
LOOK_SECONDS: Final = 1.0  # as `rendering.LOOK_SECONDS`: between two claims that left slots empty
PURGE_SECONDS: Final = 60.0  # as the schedule has it
SWEEP_SECONDS: Final = 10.0
KEPT_SECONDS: Final = 1200.0  # after which a customer has looked, downloaded and deletes
SAMPLES: Final = 8  # of memory, evenly over the time


@dataclass(slots=True)
class World:
    """The service's clock, the one worker, and what was seen."""

    began: datetime
    seconds: float = 0.0
    flights: "list[Flight]" = field(default_factory=list)
    turns: Turns = field(default_factory=Turns)
    dry_until: float = 0.0
    busy_seconds: float = 0.0
    placed: dict[Any, tuple[str, float]] = field(default_factory=dict)
    ended: dict[Any, float] = field(default_factory=dict)
    to_delete: deque[tuple[float, Any]] = field(default_factory=deque)
    pictures: int = 0
    claims: int = 0
    longest_queue: int = 0

    @property
    def now(self) -> datetime:
        return self.began + timedelta(seconds=self.seconds)


@dataclass(slots=True)
class Flight:
    """A shot in the batch."""

    claim: "Claim"
    steps_left: int = STEPS


def soak(hours: float, load: float) -> dict[str, Any]:
    """Live through the hours. Django is set up, its database migrated."""
    from headshots.services import clock

    world = World(datetime.now(UTC))
    clock.system_time = lambda: world.now
    clock._ticks = lambda: world.seconds
    coming = deque(arrivals(load, hours, SEED))
    offered_seconds = sum(_device_seconds(pack.tier) for pack in coming)
    samples: list[dict[str, float]] = []
    rounds = {"purge": 0.0, "sweep": 0.0}
    started, cpu_started = time.perf_counter(), time.process_time()
    while coming or world.flights or len(world.ended) < len(world.placed) or world.to_delete:
        while coming and coming[0].arrived <= world.seconds:
            pack = coming.popleft()
            _place(world, pack.tier, pack.arrived)
        _board(world)
        if world.flights:
            _step(world)
        else:
            _idle(world, coming[0].arrived if coming else None)
        _housekeeping(world, rounds)
        while len(samples) < SAMPLES and world.seconds >= (len(samples) + 1) * hours * 3600 / SAMPLES:
            samples.append(_sample(world))
    cpu_seconds = time.process_time() - cpu_started
    _check(world)
    return {
        "hours": round(world.seconds / 3600, 3),
        "load": offered_seconds / (hours * 3600),
        "load_if_all_spares_were_made": load,
        "orders": len(world.placed),
        "pictures": world.pictures,
        "pictures_per_hour": world.pictures / world.seconds * 3600,
        "device_busy_share": world.busy_seconds / world.seconds,
        "claims": world.claims,
        "longest_queue_shots": world.longest_queue,
        "seconds_from_upload_to_last_picture": {
            tier: _quantiles(
                [world.ended[pk] - at for pk, (slug, at) in world.placed.items() if slug == tier]
            )
            for tier in ("free", "premium")
        },
        "processor_milliseconds_per_picture": 1000 * cpu_seconds / world.pictures,
        "wall_seconds": time.perf_counter() - started,
        "samples": samples,
        "resident_growth_first_to_last_quarter": samples[-1]["resident_mib"] / samples[1]["resident_mib"],
    }


def _device_seconds(tier: str) -> float:
    """What an order's pictures take of a device with full batches."""
    each = STEPS * (FIXED_SECONDS / SLOTS + SECONDS_PER_SHOT) + ARRIVAL_SECONDS[tier]
    return TIERS[tier].headshots * each


def _place(world: World, tier: str, arrived: float) -> None:
    from headshots.models import Order
    from headshots.services import orders
    from tests.e2e.small_service import AGREED, photo
    from tests.paying import pay

    placed = orders.place(
        raw=photo(), tier_slug=tier, style_slugs=(), agreed=AGREED, upload_id=None, now=world.now
    )
    orders.accept(placed.order, world.now)
    if placed.order.price_cents:
        pay(Order.objects.get(pk=placed.order.pk), world.now)
    world.placed[placed.order.pk] = (tier, arrived)
    world.dry_until = 0.0  # a hint wakes the worker


def _board(world: World) -> None:
    """Claim what fits, as `RenderRun.source` does."""
    from headshots.services import claiming, fair_queue

    free = SLOTS + fair_queue.reserved_places(SLOTS) - len(world.flights)
    if not free or world.seconds < world.dry_until:
        return
    claims = claiming.claim("soak:1:1", free, world.now, slots=SLOTS)
    world.claims += 1
    world.flights += [Flight(claimed) for claimed in claims]
    if len(claims) < free:
        world.dry_until = world.seconds + LOOK_SECONDS


def _step(world: World) -> None:
    """One denoising step of those whose turn it is; what is done is committed beside the next steps."""
    moving, _ = world.turns.split(world.flights, lambda flight: is_urgent(flight.claim.shot.order.tier))
    spent = FIXED_SECONDS * math.ceil(len(moving) / SLOTS) + SECONDS_PER_SHOT * len(moving)
    for flight in moving:
        flight.steps_left -= 1
    done = [flight for flight in world.flights if not flight.steps_left]
    spent += sum(ARRIVAL_SECONDS[flight.claim.shot.order.tier] for flight in done)
    world.seconds += spent
    world.busy_seconds += spent
    world.flights = [flight for flight in world.flights if flight.steps_left]
    for flight in done:
        _commit(world, flight.claim)
    if world.claims % 50 == 0:
        from headshots.services import claiming

        world.longest_queue = max(world.longest_queue, claiming.claimable(world.now).count())


def _commit(world: World, claimed: "Claim") -> None:
    from headshots.models import Order
    from headshots.services import shots
    from tests.e2e.small_service import finished

    order = claimed.shot.order
    if shots.commit(claimed, finished(str(claimed.shot.pk), claimed.seeds[0], 64), world.now):
        world.pictures += 1
    if Order.objects.filter(pk=order.pk, state="ready").exists() and order.pk not in world.ended:
        world.ended[order.pk] = world.seconds
        world.to_delete.append((world.seconds + KEPT_SECONDS, order.pk))


def _idle(world: World, next_arrival: float | None) -> None:
    """Nothing is in flight: go on to whatever happens next."""
    moments = [world.dry_until if world.dry_until > world.seconds else world.seconds + LOOK_SECONDS]
    if len(world.ended) == len(world.placed):  # nothing waits either
        later = [at for at in (next_arrival, world.to_delete[0][0] if world.to_delete else None) if at]
        moments = [min(later)] if later else moments
    world.seconds = max(world.seconds, min(moments))


def _housekeeping(world: World, rounds: dict[str, float]) -> None:
    """What customers and the schedule do meanwhile."""
    from headshots import tasks
    from headshots.models import Order
    from headshots.services import delivery, purge

    while world.to_delete and world.to_delete[0][0] <= world.seconds:
        order = Order.objects.get(pk=world.to_delete.popleft()[1])
        archive = sum(len(chunk) for chunk in delivery.stream_archive(order, world.now))
        assert archive > order.headshots * 1000
        purge.request(order, actor="customer", now=world.now)
    if world.seconds >= rounds["sweep"]:
        rounds["sweep"] = world.seconds + SWEEP_SECONDS
        tasks.sweep()
    if world.seconds >= rounds["purge"]:
        rounds["purge"] = world.seconds + PURGE_SECONDS
        tasks.purge_due()


def _check(world: World) -> None:
    """Every order got its pictures, each once, and all is deleted or about to be."""
    from headshots import tasks
    from headshots.models import Order, Refund, StoredObject
    from headshots.services import objects

    world.seconds += 2 * PURGE_SECONDS
    tasks.purge_due()
    world.seconds += 2 * PURGE_SECONDS
    tasks.purge_due()
    assert set(Order.objects.values_list("state", flat=True)) == {"purged"}
    assert not Refund.objects.exists()
    assert not list(objects.blobs().list("o/"))
    promised = sum(TIERS[tier].headshots for tier, _ in world.placed.values())
    assert world.pictures >= promised, (world.pictures, promised)
    assert not StoredObject.objects.filter(state=StoredObject.State.STORED).exists()


def _sample(world: World) -> dict[str, float]:
    from django.conf import settings

    from tests.e2e.service import resident_megabytes

    database = Path(settings.DATABASES["default"]["NAME"])
    return {
        "hour": round(world.seconds / 3600, 2),
        "resident_mib": round(resident_megabytes(os.getpid()), 1),
        "database_mib": round(database.stat().st_size / 2**20, 1),
        "pictures": world.pictures,
    }


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "orders": len(ordered),
        "p50": round(statistics.median(ordered), 1),
        "p95": round(ordered[int(0.95 * len(ordered))], 1),
        "max": round(ordered[-1], 1),
    }


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=HOURS)
    parser.add_argument("--load", type=float, default=LOAD, help="as if all spares were made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headshots-soak-") as folder:
        os.environ |= {"HEADSHOTS_DATA": folder, "DATABASE_URL": "", "PURGE_SETTLE_SECONDS": "2"}
        os.environ["DJANGO_SETTINGS_MODULE"] = "headshots.settings"
        import django

        django.setup()
        from django.core.management import call_command

        from headshots.services import uploads

        call_command("migrate", verbosity=0, skip_checks=True)
        call_command("seed_styles", stdout=sys.stderr)
        uploads.clean = lambda raw: raw
        found = soak(options.hours, options.load)
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        **found,
    }
    text = json.dumps(result, indent=1)
    if options.hours == HOURS:
        (Path(__file__).parent / "results" / "soak.json").write_text(text + "\n")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
