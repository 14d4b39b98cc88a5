"""Fairness counted in steps of the denoising loop."""

from collections.abc import Callable
from datetime import datetime

import pytest

from headshots.models import Order
from headshots.services import claiming, shots
from headshots.states import OrderState
from tests.bench import queueing
from tests.rendered import rendered


def test_a_free_order_beside_a_pack_takes_neither_more_steps_nor_more_time_than_alone() -> None:
    ours = queueing.beside_a_pack(queueing.ours, every=13)
    first_come = queueing.beside_a_pack(queueing.first_come, every=29)

    assert max(ours) <= 1.3
    assert min(first_come) > 5


def test_slots_for_which_there_is_work_are_used_but_for_steps_that_small_orders_make_alone() -> None:
    worker = queueing.Worker(queueing.ours)
    queueing.simulate(worker, list(queueing.arrivals(0.7, 1.0, seed=1)))

    assert worker.fill_together.share >= 0.9
    assert worker.fill.share >= 0.7


def test_the_simulation_serves_every_order_under_every_policy() -> None:
    for pick in queueing.POLICIES.values():
        packs = list(queueing.arrivals(0.7, 0.5, seed=1))
        ready = queueing.simulate(queueing.Worker(pick), packs)

        assert {pack.id for pack in ready} == {pack.id for pack in packs}
        assert all(pack.ended > pack.arrived and pack.left == 0 for pack in ready)


class CountingWorker:
    """A worker of eight slots and three reserved places on the real queue.

    A shot takes thirty steps, and a step takes no time.
    """

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.flights: list[tuple[claiming.Claim, int]] = []

    def step(self) -> None:
        """Fill the free places, go one step further with all, deliver what is done."""
        for claimed in claiming.claim("worker", 11 - len(self.flights), self.now, slots=8):
            self.flights.append((claimed, queueing.STEPS))
        self.flights = [(claimed, left - 1) for claimed, left in self.flights]
        for claimed, left in self.flights:
            if left == 0:
                assert shots.commit(claimed, rendered(claimed), self.now)
        self.flights = [(claimed, left) for claimed, left in self.flights if left]

    def steps_until_ready(self, order: Order) -> int:
        """How many steps until an order is ready."""
        steps = 0
        while Order.objects.get(pk=order.pk).state != OrderState.READY:
            self.step()
            steps += 1
        return steps


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
    assert len(worker.flights) == 8

    beside = worker.steps_until_ready(start("free"))

    assert alone == queueing.STEPS
    assert beside <= 1.3 * alone
    assert Order.objects.get(pk=pack.pk).state == OrderState.RENDERING
