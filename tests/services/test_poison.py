"""A shot that kills every worker that makes it: it is given up, and the orders beside it are delivered."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from headshots.models import Order, Shot
from headshots.services import claiming, orders, shots, uploads
from headshots.services.orders import Placed
from headshots.states import OrderState
from tests.services.test_tasks import picture

pytestmark = pytest.mark.django_db
SECOND = timedelta(seconds=1)
SLOTS = 8


@pytest.fixture(autouse=True)
def unlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are taken as they are: the process that cleans them has tests of its own, and takes its time."""
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)


@pytest.fixture
def start(place: Callable[..., Placed], now: datetime) -> Callable[[], Order]:
    """An accepted free order."""

    def start_one() -> Order:
        order = place().order
        orders.accept(order, now)
        return Order.objects.get(pk=order.pk)

    return start_one


def work(now: datetime, poison: set[int], worker: str) -> tuple[list[int], bool]:
    """One process: it makes all it can, or dies as soon as it holds a poisonous shot.

    The sizes of its claims, and whether it died.
    """
    sizes = []
    while claims := claiming.claim(worker, SLOTS, now):
        sizes.append(len(claims))
        if poison & {claimed.shot.pk for claimed in claims}:
            return sizes, True
        for claimed in claims:
            assert shots.commit(claimed, picture(str(claimed.shot.pk)), now)
    return sizes, False


def test_one_poisonous_shot_costs_the_orders_beside_it_nothing(
    start: Callable[[], Order], now: datetime
) -> None:
    doomed, beside = start(), start()
    poison = {Shot.objects.get(order=doomed, index=2).pk}
    deaths: list[list[int]] = []
    while Shot.objects.filter(state__in=("pending", "leased")).exists():
        sizes, is_dead = work(now, poison, f"worker {len(deaths)}")
        if is_dead:
            deaths.append(sizes)
        now += 61 * SECOND
        shots.mend(now)

    assert [sizes[-1] for sizes in deaths] == [6, 6, 1]
    assert Order.objects.get(pk=beside.pk).state == OrderState.READY
    assert set(beside.shots.values_list("state", "error_code")) == {("done", "")}
    assert list(doomed.shots.order_by("index").values_list("state", "attempts", "error_code")) == [
        ("done", 3, ""),
        ("failed", 3, "worker_lost"),
        ("done", 3, ""),
    ]


def test_an_order_of_nothing_but_poison_takes_nobody_along(start: Callable[[], Order], now: datetime) -> None:
    doomed, *beside = (start() for _ in range(4))
    poison = set(doomed.shots.values_list("pk", flat=True))
    deaths = 0
    while Shot.objects.filter(state__in=("pending", "leased")).exists():
        deaths += work(now, poison, f"worker {deaths}")[1]
        now += 61 * SECOND
        shots.mend(now)

    assert {order.shots.filter(state="done").count() for order in beside} == {3}
    assert set(doomed.shots.values_list("state", "error_code")) == {("failed", "worker_lost")}


@pytest.mark.parametrize(
    "of_shot",
    [
        {"state": "pending", "attempts": claiming.MAX_ATTEMPTS - 1},
        {"state": "leased", "lease_until": -1, "attempts": claiming.MAX_ATTEMPTS - 1},
        {"state": "pending", "error_code": "engine_broken"},
        {"state": "pending", "error_code": "out_of_memory", "attempts": 1},
    ],
    ids=["last attempt", "lost twice", "engine broken", "out of memory"],
)
def test_a_shot_that_must_have_no_company_is_claimed_alone_by_a_worker_that_holds_nothing(
    start: Callable[[], Order], now: datetime, of_shot: dict[str, Any]
) -> None:
    order = start()
    (held,) = claiming.claim("busy", 1, now)
    changes = {
        name: now + value * SECOND if name == "lease_until" else value for name, value in of_shot.items()
    }
    lone = Shot.objects.get(order=order, index=2)
    Shot.objects.filter(pk=lone.pk).update(**changes)

    before = list(Shot.objects.order_by("pk").values())
    assert claiming.claim("busy", 2, now) == []
    assert list(Shot.objects.order_by("pk").values()) == before
    assert claiming.has_claimable(now)
    (alone,) = claiming.claim("idle", 8, now)
    assert (alone.shot.pk, alone.is_apart) == (lone.pk, True)
    (third,) = claiming.claim("busy", 2, now)
    assert (third.shot.index, third.is_apart, held.is_apart) == (3, False, False)
