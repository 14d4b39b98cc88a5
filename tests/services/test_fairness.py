"""The order of the queue: nobody starves, shares follow the weights, caps and reserves hold, places stay."""

import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headshots.models import Order, QueueMark, Shot
from headshots.services import claiming, fair_queue, orders, payments, queue_clock, shots, uploads
from headshots.services.fair_queue import InFlight, Waiting
from headshots.services.orders import Placed
from headshots.states import OrderState, ShotState
from headshots.tiers import TIERS
from pipelines.types import FailedShot, FinishedShot, QualityReport
from tests.bench import queueing

SECOND = timedelta(seconds=1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FREE, PREMIUM = TIERS["free"], TIERS["premium"]


@pytest.fixture(autouse=True)
def unlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are taken as they are: the process that cleans them has tests of its own, and takes its time."""
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)


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


# --- the rules --------------------------------------------------------------------------------------------


def test_a_free_order_goes_before_what_is_left_of_a_pack() -> None:
    queue = Queue()
    queue.enter("premium")
    queue.take(20)
    queue.in_flight.clear()

    queue.enter("free")

    assert tiers_of(queue.take(6)) == "ffpfpp"


def test_orders_of_one_tier_go_one_after_the_other() -> None:
    queue = Queue()
    first, second = queue.enter("premium", 4), queue.enter("premium", 4)

    assert [each.order for each in queue.take(8)] == [first] * 4 + [second] * 4


def test_a_tier_that_was_idle_has_saved_nothing_up() -> None:
    queue = Queue()
    for _ in range(20):
        queue.enter("premium")
    queue.take(900)
    queue.in_flight.clear()

    for _ in range(20):
        queue.enter("free")

    assert Counter(tiers_of(queue.take(30))) == {"f": 20, "p": 10}


@pytest.mark.parametrize(("slots", "reserved"), [(1, 0), (2, 1), (4, 2), (8, 3), (16, 6)])
def test_a_pack_leaves_the_reserved_slots_free(slots: int, reserved: int) -> None:
    queue = Queue()
    queue.enter("premium")

    assert len(queue.take(slots, slots)) == slots - reserved
    assert queue.take(reserved, slots) == []
    queue.enter("free")
    assert tiers_of(queue.take(reserved, slots)) == "f" * min(reserved, 3)


def test_free_orders_may_take_every_slot_when_nobody_else_waits() -> None:
    queue = Queue()
    for _ in range(3):
        queue.enter("free")

    assert tiers_of(queue.take(8, 8)) == "f" * 8


def test_an_order_past_its_patience_goes_first_and_into_part_of_the_reserve() -> None:
    queue = Queue()
    queue.enter("premium")
    queue.now += PREMIUM.patience_seconds * SECOND
    queue.enter("free")
    queue.lanes["free"] *= 4

    assert tiers_of(queue.take(8, 8)) == "p" * 6 + "f" * 2


def test_of_two_late_orders_the_one_that_is_later_goes_first() -> None:
    queue = Queue()
    queue.enter("free", 1)
    queue.now += (PREMIUM.patience_seconds - FREE.patience_seconds + 1) * -SECOND
    queue.enter("premium", 1)
    queue.now = NOON + 1000 * SECOND

    assert tiers_of(queue.take(2)) == "pf"


def test_no_order_holds_more_than_its_cap_while_another_waits() -> None:
    queue = Queue()
    first, second = queue.enter("premium"), queue.enter("premium")

    chosen = Counter(each.order for each in queue.take(PREMIUM.in_flight_cap + 10))

    assert chosen == {first: PREMIUM.in_flight_cap, second: 10}


def test_an_order_alone_may_hold_everything() -> None:
    queue = Queue()
    queue.enter("premium")

    assert len(queue.take(40)) == 40


def test_the_clock_waits_for_the_shots_that_a_cap_holds_back() -> None:
    queue = Queue()
    queue.enter("premium")
    queue.enter("premium")
    queue.take(PREMIUM.in_flight_cap + 10)

    held_back = queue.lanes["premium"][0]
    assert held_back.virtual_finish == (PREMIUM.in_flight_cap + 1) * 60_000
    assert queue.clock == held_back.virtual_start


def test_the_work_of_a_shot_is_its_steps_its_decoding_and_its_enlarging() -> None:
    assert fair_queue.work_of(30, FREE.long_edge) == 61
    assert fair_queue.work_of(50, PREMIUM.long_edge) == 105


# --- properties -------------------------------------------------------------------------------------------

entries = st.lists(
    st.tuples(st.sampled_from(sorted(TIERS)), st.integers(1, 50), st.integers(21, 105)),
    min_size=1,
    max_size=12,
)
slot_counts = st.sampled_from((1, 2, 4, 8, 16))


@settings(max_examples=25, deadline=None)
@given(first=entries, second=entries, slots=slot_counts)
def test_no_order_starves(
    first: list[tuple[str, int, int]], second: list[tuple[str, int, int]], slots: int
) -> None:
    """Everything there is gets made, while newcomers of the other tier arrive without end."""
    queue = Queue()
    wanted = {queue.enter(*entry) for entry in first}
    rounds = 0
    while any(each.order in wanted for lane in queue.lanes.values() for each in lane):
        queue.take(slots, slots)
        queue.in_flight.clear()
        queue.now += 5 * SECOND
        tier, count, work = second[rounds % len(second)]
        queue.enter(tier, min(count, slots), work)
        rounds += 1
        assert rounds < 2000
    assert rounds * slots < 20 * sum(count for _, count, _ in first) + 200 * slots


@settings(max_examples=60, deadline=None)
@given(works=st.tuples(st.integers(21, 105), st.integers(21, 105)), taken=st.integers(20, 200))
def test_work_is_shared_by_weight_while_both_tiers_wait(works: tuple[int, int], taken: int) -> None:
    queue = Queue()
    for _ in range(80):
        queue.enter("free", 3, works[0])
        queue.enter("premium", 3, works[1])

    done = Counter({"free": 0, "premium": 0})
    for each in queue.take(taken):
        done[each.tier] += each.work

    # Start-time fair queueing's bound: never apart by more than one shot of each flow.
    lead = done["free"] / FREE.weight - done["premium"] / PREMIUM.weight
    assert abs(lead) <= works[0] / FREE.weight + works[1] / PREMIUM.weight


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 50), min_size=2, max_size=6), limit=st.integers(1, 120))
def test_the_cap_holds_whenever_somebody_else_could_go(sizes: list[int], limit: int) -> None:
    queue = Queue()
    for size in sizes:
        queue.enter("premium", size)
    queue.take(limit)

    held = Counter(each.order for each in queue.in_flight)
    left = Counter(each.order for each in queue.lanes["premium"])
    for order, count in held.items():
        others = [o for o in left if o != order and held[o] < PREMIUM.in_flight_cap]
        assert count <= PREMIUM.in_flight_cap or not others


@settings(max_examples=60, deadline=None)
@given(entered=entries, slots=slot_counts, rounds=st.integers(1, 20))
def test_slots_stay_free_only_for_a_tier_that_has_nothing_waiting(
    entered: list[tuple[str, int, int]], slots: int, rounds: int
) -> None:
    queue = Queue()
    for entry in entered:
        queue.enter(*entry)
    for _ in range(rounds):
        free = slots - len(queue.in_flight)
        chosen = queue.take(free, slots)
        idle = free - len(chosen)
        assert idle == 0 or not queue.lanes["free"]
        assert idle <= fair_queue.reserve(FREE.reserved_share, slots) or not queue.lanes["premium"]
        queue.in_flight = queue.in_flight[slots // 2 + 1 :]


# --- the rows ---------------------------------------------------------------------------------------------


@pytest.fixture
def start(place: Callable[..., Placed], now: datetime) -> Callable[..., Order]:
    """Places an order of a tier and lets it enter the queue at `at`."""

    def start_one(tier: str, at: datetime = now) -> Order:
        order = place(tier_slug=tier).order
        orders.accept(order, at)
        if order.price_cents:
            payments.confirm_test_payment(Order.objects.get(pk=order.pk), at)
        return Order.objects.get(pk=order.pk)

    return start_one


def places_of(order: Order) -> list[int | None]:
    return list(order.shots.order_by("index").values_list("virtual_finish", flat=True))


def failure(claimed: claiming.Claim) -> FailedShot:
    return FailedShot(shot_id=str(claimed.shot.pk), code="engine_error", is_retryable=True)


@pytest.mark.django_db
def test_an_order_has_no_place_before_it_starts(placed: Placed, now: datetime) -> None:
    assert places_of(placed.order) == [None] * 3
    assert claiming.claim("worker", 3, now) == []

    orders.accept(placed.order, now)

    work = placed.order.shots.get(index=1).work
    step = fair_queue.virtual_length(work, FREE)
    assert places_of(placed.order) == [step, 2 * step, 3 * step]


@pytest.mark.django_db
def test_the_next_order_of_a_tier_begins_where_the_last_one_ends(
    start: Callable[..., Order], now: datetime
) -> None:
    first, second = start("free"), start("free")

    ends = places_of(first)[-1]
    assert ends is not None
    assert places_of(second) == [ends + place for place in places_of(first) if place is not None]
    assert queue_clock.read("free") == places_of(second)[-1]


@pytest.mark.django_db
def test_a_claim_moves_the_clock_to_the_start_of_what_it_took(
    start: Callable[..., Order], now: datetime
) -> None:
    pack = start("premium")
    claiming.claim("worker", 5, now)

    # The start of the fifth: the rows behind those that were taken were not looked at.
    assert queue_clock.read(queue_clock.CLOCK) == places_of(pack)[3]
    queue_clock.advance(1)
    assert queue_clock.read(queue_clock.CLOCK) == places_of(pack)[3]


@pytest.mark.django_db
def test_a_free_order_placed_while_a_pack_runs_gets_the_next_slots(
    start: Callable[..., Order], now: datetime
) -> None:
    start("premium")
    assert len(claiming.claim("worker", 8, now, slots=8)) == 5

    free = start("free")

    assert [c.shot.order_id for c in claiming.claim("worker", 3, now, slots=8)] == [free.pk] * 3
    assert claiming.claim("another", 8, now, slots=8)[0].shot.order_id != free.pk


@pytest.mark.django_db
def test_the_reserve_counts_what_this_worker_holds(start: Callable[..., Order], now: datetime) -> None:
    start("free")
    start("premium")

    assert len(claiming.claim("one", 8, now, slots=8)) == 8  # three free ones fill the reserve
    assert len(claiming.claim("two", 8, now, slots=8)) == 5


@pytest.mark.django_db
def test_a_retry_keeps_its_place(start: Callable[..., Order], now: datetime) -> None:
    first, second = start("free"), start("free")
    before = places_of(first)
    claimed = claiming.claim("worker", 1, now)[0]

    shots.fail(claimed, failure(claimed), now)

    assert places_of(first) == before
    later = claiming.claim("worker", 6, now + 6 * SECOND)
    assert [(c.shot.order_id, c.shot.index) for c in later] == [
        *((first.pk, index) for index in (1, 2, 3)),
        *((second.pk, index) for index in (1, 2, 3)),
    ]


@pytest.mark.django_db
def test_shots_of_a_lost_worker_and_of_one_that_stops_keep_their_places(
    start: Callable[..., Order], now: datetime
) -> None:
    order = start("free")
    before = places_of(order)
    claiming.claim("stops", 3, now)
    claiming.release("stops")
    claiming.claim("is lost", 3, now)

    assert len(claiming.claim("worker", 3, now + 61 * SECOND)) == 3
    assert places_of(order) == before


@pytest.mark.django_db
def test_the_cap_holds_in_the_rows_and_falls_when_nobody_else_waits(
    start: Callable[..., Order], now: datetime
) -> None:
    first, second = start("premium"), start("premium")

    claimed = Counter(
        c.shot.order_id for worker in range(4) for c in claiming.claim(f"worker-{worker}", 8, now)
    )

    assert claimed == {first.pk: 24, second.pk: 8}
    Shot.objects.filter(order=second).update(state=ShotState.DONE)
    assert {c.shot.order_id for c in claiming.claim("worker-4", 8, now)} == {first.pk}


@pytest.mark.django_db
def test_a_pack_past_its_patience_goes_before_newcomers(start: Callable[..., Order], now: datetime) -> None:
    pack = start("premium")
    later = now + PREMIUM.patience_seconds * SECOND
    start("free", later)

    assert {c.shot.order_id for c in claiming.claim("worker", 3, later)} == {pack.pk}


@pytest.mark.django_db
def test_waiting_begins_with_the_payment_not_with_the_photo(
    start: Callable[..., Order], now: datetime
) -> None:
    pack = start("premium", now + 3600 * SECOND)

    assert set(pack.shots.values_list("not_before", flat=True)) == {now + 3600 * SECOND}


@pytest.mark.django_db
def test_the_shots_of_one_order_come_side_by_side(start: Callable[..., Order], now: datetime) -> None:
    start("premium")
    start("free")

    claimed = [c.shot.order_id for c in claiming.claim("worker", 6, now)]

    assert [one != after for one, after in pairwise(claimed)].count(True) == 1


@pytest.mark.django_db
def test_the_marks_come_back_when_their_rows_are_lost(start: Callable[..., Order], now: datetime) -> None:
    start("free")
    QueueMark.objects.all().delete()

    assert [c.shot.index for c in claiming.claim("worker", 3, now)] == [1, 2, 3]
    assert queue_clock.read(queue_clock.CLOCK) == 0


# --- by steps ---------------------------------------------------------------------------------------------


def test_a_free_order_beside_a_pack_takes_neither_more_steps_nor_more_time_than_alone() -> None:
    ours = queueing.beside_a_pack(queueing.ours, every=13)
    first_come = queueing.beside_a_pack(queueing.first_come, every=29)

    assert max(ours) <= 1.3
    assert min(first_come) > 5


def test_the_simulation_serves_every_order_under_every_policy() -> None:
    for pick in queueing.POLICIES.values():
        packs = list(queueing.arrivals(0.7, 0.5, seed=1))
        ready = queueing.simulate(pick, packs)

        assert {pack.id for pack in ready} == {pack.id for pack in packs}
        assert all(pack.ended > pack.arrived and pack.left == 0 for pack in ready)


class CountingWorker:
    """A worker of eight slots on the real queue; a shot takes thirty steps, and a step takes no time."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.flights: list[tuple[claiming.Claim, int]] = []

    def step(self) -> None:
        """Fill the free slots, go one step further with all, deliver what is done."""
        for claimed in claiming.claim("worker", 8 - len(self.flights), self.now, slots=8):
            self.flights.append((claimed, queueing.STEPS))
        self.flights = [(claimed, left - 1) for claimed, left in self.flights]
        for claimed, left in self.flights:
            if left == 0:
                assert shots.commit(claimed, picture(claimed), self.now)
        self.flights = [(claimed, left) for claimed, left in self.flights if left]

    def steps_until_ready(self, order: Order) -> int:
        """How many steps until an order is ready."""
        steps = 0
        while Order.objects.get(pk=order.pk).state != OrderState.READY:
            self.step()
            steps += 1
        return steps


def picture(claimed: claiming.Claim) -> FinishedShot:
    return FinishedShot(
        shot_id=str(claimed.shot.pk),
        seed=claimed.seeds[0],
        jpeg=b"a picture",
        preview_jpeg=b"a small picture",
        width=896,
        height=1152,
        report=QualityReport(measures={}),
        seconds=12.0,
    )


@pytest.mark.django_db
@pytest.mark.parametrize("moment", [1, 44])
def test_a_free_order_placed_while_a_pack_of_fifty_runs_is_done_as_fast_as_alone(
    start: Callable[..., Order], now: datetime, moment: int
) -> None:
    alone = CountingWorker(now).steps_until_ready(start("free"))
    worker = CountingWorker(now)
    pack = start("premium")
    for _ in range(moment):
        worker.step()
    assert len(worker.flights) == 5

    beside = worker.steps_until_ready(start("free"))

    assert alone == queueing.STEPS
    assert beside <= 1.3 * alone
    assert Order.objects.get(pk=pack.pk).state == OrderState.RENDERING
