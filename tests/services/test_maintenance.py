"""Who calls the purge: each alone is enough, two never do one round together, none starts without it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.db import transaction
from django.test import Client

from headshots import hints, tasks
from headshots.env import ROOT
from headshots.models import Heartbeat, Order, OrderKey
from headshots.services import clock, delivery, fencing, maintenance, objects, purge
from headshots.services.orders import Placed
from headshots.states import OrderState
from headshots.vault.envelope import Kind
from tests.services.unreliable import OPERATIONS, UnreliableStore

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


@pytest.fixture
def boot(monkeypatch: pytest.MonkeyPatch) -> maintenance._Boot:
    """This process as one that has just started and has made no round."""
    boot = maintenance._Boot(clock.system_time())
    monkeypatch.setattr(maintenance, "_boot", [boot])
    return boot


def expire(order: Order) -> None:
    Order.objects.filter(pk=order.pk).update(
        created_at=order.created_at - timedelta(hours=24), expires_at=order.created_at - timedelta(minutes=1)
    )


def test_a_process_is_not_ready_before_its_first_pass(client: Client, boot: maintenance._Boot) -> None:
    before = client.get("/readyz")
    maintenance._round(boot)
    after = client.get("/readyz")

    assert (before.status_code, before.json()["reasons"]) == (503, [maintenance.BOOT_PROBLEM])
    assert after.status_code == 200


def test_a_pass_that_fails_opens_nothing(
    client: Client, boot: maintenance._Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(now: datetime) -> None:
        raise OSError("the database is away")

    monkeypatch.setattr(fencing, "end_all_due", broken)
    with pytest.raises(OSError, match="away"):
        maintenance._round(boot)

    assert not boot.has_passed.is_set()
    assert client.get("/readyz").status_code == 503


def test_a_process_that_starts_while_the_store_is_away_ends_what_is_due(
    client: Client, placed: Placed, boot: maintenance._Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the database is an older copy cannot be asked then: the gate stays closed, the keys go."""
    expire(placed.order)
    store = UnreliableStore(objects.blobs())
    store.faults.failing = set(OPERATIONS)
    monkeypatch.setattr(objects, "blobs", lambda: store)
    maintenance._round(boot)

    order = Order.objects.get()
    assert order.state == OrderState.PURGING
    assert order.shredded_at
    assert not OrderKey.objects.exists()
    assert client.get("/readyz").json()["reasons"] == [maintenance.BOOT_PROBLEM]

    store.faults.failing = set()
    maintenance._round(boot)
    assert client.get("/readyz").status_code == 200


def test_a_pass_of_another_process_counts_if_it_is_of_now(boot: maintenance._Boot) -> None:
    Heartbeat.objects.create(
        name=maintenance.ROUND, at=clock.now(), leased_until=clock.now() + maintenance.LEASE
    )
    Heartbeat.objects.create(name=purge.HEARTBEAT, at=boot.started_at - timedelta(seconds=1))
    maintenance._round(boot)
    assert not boot.has_passed.is_set()

    Heartbeat.objects.filter(name=purge.HEARTBEAT).update(at=clock.now())
    maintenance._round(boot)

    assert boot.has_passed.is_set()


def test_the_lease_of_a_killed_process_holds_up_no_start(boot: maintenance._Boot) -> None:
    Heartbeat.objects.create(
        name=maintenance.ROUND, at=clock.now(), leased_until=clock.now() + maintenance.LEASE
    )
    late = maintenance._Boot(boot.started_at - maintenance.BOOT_PATIENCE)

    maintenance._round(late)

    assert late.has_passed.is_set()


def test_a_worker_does_nothing_before_the_first_pass(
    placed: Placed, boot: maintenance._Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "BOOT_PATIENCE_SECONDS", 0.0)

    tasks.assess(str(placed.order.pk))
    tasks.render()

    order = Order.objects.get()
    assert (order.state, order.assess_attempts) == (OrderState.ASSESSING, 0)


def test_one_process_at_a_time_makes_the_round(now: datetime) -> None:
    assert maintenance._claim("round", now, maintenance.INTERVAL)
    assert not maintenance._claim("round", now + timedelta(minutes=1), maintenance.INTERVAL)

    maintenance._release("round")

    assert maintenance._claim("round", now + timedelta(minutes=1), maintenance.INTERVAL)


def test_a_round_is_not_made_again_within_its_interval(now: datetime) -> None:
    assert maintenance._claim("round", now, maintenance.INTERVAL)
    maintenance._release("round")

    assert not maintenance._claim("round", now + timedelta(seconds=29), maintenance.INTERVAL)
    assert maintenance._claim("round", now + timedelta(seconds=30), maintenance.INTERVAL)


def test_the_round_of_a_process_that_died_is_taken_over(now: datetime) -> None:
    assert maintenance._claim("round", now, timedelta(0))

    assert not maintenance._claim("round", now + timedelta(minutes=4), timedelta(0))
    assert maintenance._claim("round", now + maintenance.LEASE, timedelta(0))


def test_an_upload_takes_one_due_order_along(
    place: Callable[..., Placed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "NUDGE_SECONDS", 60.0)
    due, also_due = place().order, place().order
    expire(due)
    expire(also_due)

    place()

    assert sorted(Order.objects.values_list("state", flat=True)) == ["assessing", "assessing", "purging"]
    assert OrderKey.objects.count() == 4
    assert purge.objects_left() == 2


def test_a_download_takes_one_due_order_along(
    placed: Placed, place: Callable[..., Placed], now: datetime
) -> None:
    due = place().order
    expire(due)

    with pytest.raises(Exception, match="headshot_not_found"):
        delivery.stream_archive(placed.order, now)

    assert Order.objects.get(pk=due.pk).state == OrderState.PURGING


def test_nothing_due_costs_one_query(
    placed: Placed, now: datetime, django_assert_num_queries: Callable[[int], object]
) -> None:
    with django_assert_num_queries(1):  # type: ignore[attr-defined]
        purge.nudge(now)


def test_a_request_sweeps_no_longer_than_its_share(
    placed: Placed, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys go at once; of the objects each request deletes one at least, and the passes the rest."""
    for index in (1, 2):
        objects.put(objects.intend(placed.order, Kind.HEADSHOT, index, now), b"a picture", now)
    expire(placed.order)
    monkeypatch.setattr(purge, "NUDGE_SECONDS", -1.0)

    left = []
    for _ in range(3):
        purge.nudge(now)
        left.append(purge.objects_left())

    assert not OrderKey.objects.exists()
    assert left == [2, 1, 0]
    order = Order.objects.get()
    assert order.state == OrderState.PURGING
    assert order.absent_at
    assert now <= order.absent_at <= clock.now()


def test_a_deletion_that_breaks_is_not_the_next_customers_problem(
    placed: Placed, place: Callable[..., Placed], monkeypatch: pytest.MonkeyPatch
) -> None:
    expire(placed.order)

    def broken(*args: object, **kwargs: object) -> None:
        raise OSError("disk")

    monkeypatch.setattr(fencing, "_end", broken)

    assert place().order.state == OrderState.ASSESSING


def test_hints_go_nowhere_where_nobody_carries_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "_senders", [])

    with transaction.atomic():
        hints.enqueue(hints.Task.RENDER, copies=3)


WITHOUT_A_BROKER = """
import json, sys
from django.core.management import call_command
import django
django.setup()
call_command("migrate", verbosity=0)
call_command("purge", "--json")
call_command("purge", "--verify")
unwanted = {"celery", "kombu", "redis", "amqp", "torch", "cv2"}
loaded = sorted({name.partition(".")[0] for name in sys.modules} & unwanted)
print(json.dumps(loaded))
"""


def test_the_purge_imports_neither_celery_nor_redis(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_BROKER],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "headshots.settings",
            "HEADSHOTS_DATA": str(tmp_path / "data"),
            "BROKER_URL": "redis://127.0.0.1:1/0",
            "DATABASE_URL": "",
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    assert json.loads(ended.stdout.splitlines()[-1]) == []
    assert json.loads(ended.stdout.splitlines()[0])["failed"] == 0
