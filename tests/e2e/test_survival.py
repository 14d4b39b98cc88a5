"""What customers paid for is delivered, each picture once, whatever dies underneath.

Four GPU workers under Celery share a deep queue on Postgres and Redis, or RabbitMQ. One shot in ten kills,
stops or breaks the process that makes it. Meanwhile machines die, messages are doubled and lost, the broker
is killed and emptied, and the database crashes.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import psycopg
import pytest
from pytest_django import Settings

from headshots import worker
from headshots.env import ROOT, Environment
from headshots.models import Shot
from headshots.services import claiming, orders
from headshots.services.orders import Placed
from headshots.tiers import TIERS
from tests.e2e import brokers
from tests.e2e.brokers import Broker, RabbitBroker, RedisBroker
from tests.e2e.postgres import PostgresServer, running_postgres
from tests.e2e.test_workers import drive
from tests.e2e.worker_driver import FAULTS

PACK: Final = 50
SPARES: Final = TIERS["premium"].spares
SHOTS: Final = {
    RedisBroker: int(os.environ.get("SURVIVAL_SHOTS", "2000")),
    RabbitBroker: int(os.environ.get("SURVIVAL_SHOTS_RABBITMQ", "200")),
}
FAULT_PERCENT: Final = 10
WORKERS: Final = 4
LEASE_SECONDS: Final = 2.0
PATIENCE_SECONDS: Final = 1500.0  # a busy machine takes longer over the same work
RECOVERY_SECONDS: Final = 75.0  # what is promised of a picture whose worker died


@dataclass(slots=True, eq=False)
class Fleet:
    """The workers, what they work with, and whom to wake when."""

    folder: Path
    postgres: PostgresServer
    broker: Broker
    shots: int
    workers: "list[subprocess.Popen[bytes]]" = field(default_factory=list)
    wakes: dict[int, float] = field(default_factory=dict)  # a group's number is negative
    stops_seen: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """Of the workers, and of whoever places orders for them."""
        return {
            **os.environ,
            "DATABASE_URL": self.postgres.url,
            "BROKER_URL": self.broker.url,
            "LEASE_SECONDS": str(LEASE_SECONDS),
            "OMP_NUM_THREADS": "1",
        }

    def start_worker(self) -> None:
        """One more, in a process group of its own."""
        command = [sys.executable, "-m", "tests.e2e.survival_worker", str(self.folder), str(FAULT_PERCENT)]
        with (self.folder.parent / "workers.log").open("ab") as log:
            started = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self.workers.append(started)

    def wake_the_stopped(self) -> None:
        """Let processes that stopped themselves go on, when their leases have been over for a second."""
        stopped = self.lines("stopped")
        now = time.monotonic()
        self.wakes |= {int(pid): now + LEASE_SECONDS + 1 for pid in stopped[self.stops_seen :]}
        self.stops_seen = len(stopped)
        for pid in [pid for pid, at in self.wakes.items() if now > at]:
            del self.wakes[pid]
            _signal(pid, signal.SIGCONT)

    def lines(self, name: str) -> list[str]:
        """What the workers noted there."""
        path = self.folder / name
        return path.read_text().split() if path.exists() else []


def _signal(pid: int, number: int) -> None:
    """To a process, or with a negative number to its group."""
    with suppress(ProcessLookupError):  # it died meanwhile
        os.kill(pid, number)


# --- what is done to them -----------------------------------------------------------------------------------


def lose_and_double_messages(fleet: Fleet) -> None:
    """Of the messages that wait every other one is lost, and the rest are there twice."""
    assert fleet.broker.lose_and_double() > WORKERS


def lose_a_machine(fleet: Fleet) -> None:
    """A worker and its child die together."""
    lost = fleet.workers.pop(0)
    _signal(-lost.pid, signal.SIGKILL)
    lost.wait()
    fleet.start_worker()


def orphan_a_child(fleet: Fleet) -> None:
    """A worker dies and its child does not."""
    lost = fleet.workers.pop(0)
    lost.kill()
    lost.wait()
    fleet.start_worker()


def stop_a_worker(fleet: Fleet) -> None:
    """A whole worker stands still for longer than its leases, as a machine that is moved does."""
    group = -fleet.workers[-1].pid
    _signal(group, signal.SIGSTOP)
    fleet.wakes[group] = time.monotonic() + LEASE_SECONDS + 1


def kill_broker(fleet: Fleet) -> None:
    """It comes back; then old messages arrive again."""
    fleet.broker.kill()


def empty_broker(fleet: Fleet) -> None:
    """No message is left."""
    fleet.broker.empty()


def crash_postgres(fleet: Fleet) -> None:
    """In the middle of whatever transactions there are; it is away for a moment."""
    fleet.postgres.crash()
    time.sleep(1)
    fleet.postgres.start()


# At which share of the pictures delivered each happens.
DISTURBANCES: Final[Sequence[tuple[float, Callable[[Fleet], None]]]] = (
    (0.0, lose_and_double_messages),
    (0.1, lose_a_machine),
    (0.2, stop_a_worker),
    (0.3, kill_broker),
    (0.4, orphan_a_child),
    (0.5, empty_broker),
    (0.6, crash_postgres),
    (0.7, lose_a_machine),
    (0.8, stop_a_worker),
    (0.9, kill_broker),
)


# --- the tests ----------------------------------------------------------------------------------------------


@contextmanager
def running_fleet(folder: Path, kind: type[RedisBroker | RabbitBroker]) -> Iterator[Fleet]:
    """Servers and a data folder, no worker yet; nothing of it is left running."""
    (folder / "data").mkdir(mode=0o700)
    with running_postgres() as postgres, brokers.running(kind, folder) as broker:
        fleet = Fleet(folder / "data", postgres, broker, SHOTS[kind])
        try:
            yield fleet
        finally:
            for each in fleet.workers:
                _signal(-each.pid, signal.SIGKILL)
                each.wait()
            for pid in fleet.wakes:
                _signal(pid, signal.SIGKILL)


def progress(fleet: Fleet) -> tuple[int, int]:
    """Pictures delivered; and what is not at its end: orders, and pictures of spares that were not needed."""
    with psycopg.connect(fleet.postgres.url) as connection:
        done, orders_left, surplus = (
            row[0]
            for row in connection.execute(
                """SELECT count(*) FROM headshots_shot WHERE state = 'done'
                UNION ALL SELECT count(*) FROM headshots_order WHERE state IN ('queued', 'rendering')
                UNION ALL SELECT count(headshot_id) FROM headshots_shot WHERE state = 'surplus'"""
            )
        )
    return done, orders_left + surplus


def survive(fleet: Fleet) -> None:
    """Work until every order is closed, and disturb on the way."""
    disturbances = list(DISTURBANCES)
    began = time.monotonic()
    while (state := progress(fleet))[1]:
        assert time.monotonic() - began < PATIENCE_SECONDS, f"{state[0]} pictures, {state[1]} left"
        while disturbances and state[0] >= disturbances[0][0] * fleet.shots:
            disturbances.pop(0)[1](fleet)
        while len(fleet.workers) < WORKERS:
            fleet.start_worker()
        fleet.wake_the_stopped()
        time.sleep(0.2)
    assert not disturbances


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHOTS)
def test_every_picture_is_delivered_once_whatever_dies(
    tmp_path: Path, kind: type[RedisBroker | RabbitBroker]
) -> None:
    with running_fleet(tmp_path, kind) as fleet:
        drive(fleet.folder, "prepare", fleet.shots // PACK, PACK, SPARES, environment=fleet.environment)
        survive(fleet)
        found = drive(fleet.folder, "read", environment=fleet.environment)

    struck = Counter(Path(path).read_text() for path in (fleet.folder / "struck").iterdir())
    assert set(struck) == set(FAULTS)  # each kind of death did happen
    assert fleet.lines("late")  # and who was taken for dead came too late
    assert found["orders"] == ["ready"]
    assert set(found["shots"]) <= {"done", "surplus"}  # spares that were not needed
    assert len({picture.split()[0] for picture in found["pictures"]}) == fleet.shots
    assert found["stored"] == fleet.shots
    assert (found["unknown"], found["missing"]) == (0, 0)
    assert max(Counter(fleet.lines("diary")).values()) == 1


@pytest.mark.django_db
def test_a_dead_workers_shot_is_in_other_hands_within_75_seconds(
    placed: Placed, settings: Settings, now: datetime
) -> None:
    """With the lease and the pause between two looks that production has."""
    settings.LEASE_SECONDS = Environment.model_fields["lease_seconds"].default
    longest_pause = worker.POLL_SECONDS[1]
    orders.accept(placed.order, now)
    claiming.claim("dies", 3, now)
    last_beat = now + timedelta(seconds=settings.LEASE_SECONDS / 4)
    assert claiming.extend("dies", last_beat) == 3

    lease_ends = last_beat + timedelta(seconds=settings.LEASE_SECONDS)
    assert claiming.claim("lives", 3, lease_ends) == []
    seen = lease_ends + timedelta(seconds=longest_pause)
    assert len(claiming.claim("lives", 3, seen)) == 3

    assert (seen - last_beat).total_seconds() <= RECOVERY_SECONDS
    assert set(Shot.objects.values_list("lease_owner", "attempts")) == {("lives", 2)}
