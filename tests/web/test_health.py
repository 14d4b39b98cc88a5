"""/healthz/workers and `worker gpu --probe`: whether pictures that wait are being made."""

from datetime import datetime, timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError
from django.test import Client

from headshots.models import Shot
from headshots.services import clock, orders, workers
from headshots.services.orders import Placed
from headshots.states import ShotState

pytestmark = pytest.mark.django_db

WAIT = "pictures wait, and no worker has moved for a minute"


@pytest.fixture
def waiting(placed: Placed, now: datetime) -> Placed:
    """An order whose three shots wait for a worker."""
    orders.accept(placed.order, now)
    return placed


def ask(client: Client) -> tuple[int, list[str]]:
    response = client.get("/healthz/workers")
    answer = response.json()
    assert answer["working"] == (response.status_code == 200) == (not answer["reasons"])
    return response.status_code, answer["reasons"]


def test_without_work_nobody_is_missed(client: Client) -> None:
    assert ask(client) == (200, [])


def test_pictures_that_wait_for_nobody_are_told(client: Client, waiting: Placed) -> None:
    assert ask(client) == (503, [WAIT])


def test_a_worker_that_moves_is_enough(client: Client, waiting: Placed) -> None:
    workers.report("gpu-1:7", clock.now() - timedelta(minutes=2))
    workers.report("gpu-2:7", clock.now() - timedelta(seconds=30))

    assert ask(client) == (200, [])


def test_a_stuck_device_is_told_by_its_worker_and_by_those_who_wait(client: Client, waiting: Placed) -> None:
    """It stopped with one picture in hand, whose lease has run out."""
    workers.report("gpu-1:7", clock.now() - timedelta(seconds=61))
    Shot.objects.filter(index=1).update(
        state=ShotState.LEASED, lease_owner="gpu-1:7:ab12", lease_until=clock.now() - timedelta(seconds=1)
    )

    assert ask(client) == (503, [WAIT, "1 worker stopped with pictures in hand"])


def test_it_is_told_while_others_go_on(client: Client, waiting: Placed) -> None:
    workers.report("gpu-1:7", clock.now() - timedelta(seconds=61))
    workers.report("gpu-2:7", clock.now())
    Shot.objects.filter(index=1).update(
        state=ShotState.LEASED, lease_owner="gpu-1:7:ab12", lease_until=clock.now() - timedelta(seconds=1)
    )

    assert ask(client) == (503, ["1 worker stopped with pictures in hand"])


def test_a_worker_whose_clock_is_ahead_is_told(client: Client, waiting: Placed) -> None:
    workers.report("gpu-1:7", clock.now() + timedelta(seconds=30))

    assert ask(client) == (503, ["the clock of 1 worker is ahead of ours"])


def test_missing_workers_take_no_web_process_off(client: Client, waiting: Placed) -> None:
    """It still takes, shows, gives out and deletes; to restart it would help nobody."""
    assert (client.get("/healthz").status_code, client.get("/readyz").status_code) == (200, 200)


def test_a_silent_database_is_a_reason(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(now: object) -> None:
        raise DatabaseError

    monkeypatch.setattr(workers, "known", silent)

    assert ask(client) == (503, ["the database does not answer"])


def test_the_answer_is_not_kept(client: Client) -> None:
    assert client.get("/healthz/workers").headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("host", "seconds", "is_ready"), [("here", 59, True), ("here", 61, False), ("there", 0, False)]
)
def test_the_probe_is_about_the_worker_of_its_own_machine(
    monkeypatch: pytest.MonkeyPatch, host: str, seconds: int, is_ready: bool
) -> None:
    monkeypatch.setattr(workers.socket, "gethostname", lambda: "here")
    workers.report(f"{host}:7", clock.now() - timedelta(seconds=seconds))

    with pytest.raises(SystemExit) as ended:
        call_command("worker", "gpu", "--probe")

    assert ended.value.code == (0 if is_ready else 1)


def test_the_probe_before_the_engine_is_warm_says_no() -> None:
    with pytest.raises(SystemExit) as ended:
        call_command("worker", "gpu", "--probe")

    assert ended.value.code == 1


def test_only_a_worker_that_renders_can_be_probed() -> None:
    with pytest.raises(CommandError, match="--probe is of the gpu role"):
        call_command("worker", "cpu", "--probe")
