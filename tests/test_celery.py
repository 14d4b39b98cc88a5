"""How long workers and site wait for servers, and how long a hint is worth taking."""

from pathlib import Path
from typing import Any

import pytest

from headshots import hints, rendering, settings
from headshots.celery import _send, app, transport_options
from headshots.hints import Task

RABBITMQ_ACK_SECONDS = 1800  # its default `consumer_timeout`: a channel that holds a message longer is closed


def test_no_message_stays_unanswered_for_as_long_as_rabbitmq_bears() -> None:
    for name in Task:
        assert app.tasks[name].time_limit < RABBITMQ_ACK_SECONDS


def test_a_run_stops_claiming_early_enough_to_finish_what_it_holds() -> None:
    assert app.tasks[Task.RENDER].soft_time_limit - rendering.RUN_SECONDS >= 240


@pytest.mark.parametrize("url", ["redis://broker/0", "rediss://user:word@broker:6380/0"])
def test_a_redis_that_does_not_answer_is_waited_for_for_seconds(url: str) -> None:
    assert transport_options(url, Path("/queue")) == {
        "visibility_timeout": 3600,
        "socket_connect_timeout": 2,
        "socket_timeout": 5,
        "socket_keepalive": True,
    }
    assert app.conf.task_publish_retry_policy["max_retries"] == 1


def test_a_message_is_not_delivered_twice_while_its_task_may_still_run() -> None:
    options = transport_options("redis://broker/0", Path("/queue"))

    assert options["visibility_timeout"] > max(app.tasks[name].time_limit for name in Task)


def test_rabbitmq_gets_no_options_of_redis() -> None:
    assert transport_options("amqp://broker//", Path("/queue")) == {}


def test_the_embedded_broker_is_a_folder() -> None:
    assert transport_options("", Path("/queue")) == {
        "data_folder_in": "/queue",
        "data_folder_out": "/queue",
        "control_folder": "/queue/control",
        "polling_interval": 0.2,
    }


def test_a_hint_that_nobody_took_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next sweep or round of the schedule gives another, so that none pile up behind a busy worker."""
    sent: list[dict[str, Any]] = []
    for name in Task:
        monkeypatch.setattr(app.tasks[name], "apply_async", lambda **options: sent.append(options))

    for name in Task:
        _send(name, ("7",), 1)

    assert hints.HINT_SECONDS == 60
    assert sent == [{"args": ("7",), "expires": 60}] * len(Task)


def test_a_postgres_that_vanished_is_noticed_well_within_a_lease() -> None:
    options = settings._database("postgres://me:word@db:5433/headshots")["OPTIONS"]

    assert options == {
        "connect_timeout": 5,
        "keepalives": 1,
        "keepalives_idle": 5,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,
    }
