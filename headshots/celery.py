"""The Celery app: queues, the beat schedule, and the carrier of the hints that services send."""

import logging.config
import os
from pathlib import Path
from typing import Any, Final

from celery import Celery
from celery.signals import setup_logging
from django.conf import settings
from kombu import Queue
from kombu.exceptions import OperationalError

from headshots import logs
from headshots.hints import HINT_SECONDS, Task, carry_by

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "headshots.settings")


app = Celery("headshots")

# A Redis that vanished without a word is waited for this long, not for ever. A worker that waits for work is
# not cut off: it reads from a socket only once something is there, and asks for a message a second at a time.
# RabbitMQ's client has limits of its own.
_REDIS_OPTIONS: Final[dict[str, Any]] = {
    "visibility_timeout": 3600,
    "socket_connect_timeout": 2,
    "socket_timeout": 5,
    "socket_keepalive": True,
}


def transport_options(broker_url: str, folder: Path) -> dict[str, Any]:
    """What the broker's transport is told; without a URL it is a folder."""
    if not broker_url:
        return {
            "data_folder_in": str(folder),
            "data_folder_out": str(folder),
            "control_folder": str(folder / "control"),
            "polling_interval": 0.2,
        }
    return dict(_REDIS_OPTIONS) if broker_url.startswith("redis") else {}


def _configure() -> None:
    folder = settings.DATA / "queue"
    app.conf.update(
        broker_url=settings.BROKER_URL or "filesystem://localhost",
        include=["headshots.tasks", "headshots.worker"],
        broker_transport_options=transport_options(settings.BROKER_URL, folder),
        broker_connection_retry_on_startup=True,
        task_default_queue="cpu",
        task_queues=(Queue("cpu"), Queue("gpu")),
        task_routes={Task.RENDER: {"queue": "gpu"}},
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        # Once more, for a connection that the broker's restart closed; a customer's request waits meanwhile.
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0},
        task_acks_late=True,
        task_reject_on_worker_lost=True,  # safe: attempts are counted in the rows
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_soft_shutdown_timeout=10,
        # A child that loads an engine says so only when that is done: from a network's disk, after minutes.
        worker_proc_alive_timeout=900,
        worker_send_task_events=False,
        beat_schedule={
            "sweep": {"task": Task.SWEEP, "schedule": 10.0, "options": {"expires": 30}},
            "purge": {"task": Task.PURGE, "schedule": 60.0, "options": {"expires": 120}},
            "settle": {"task": Task.SETTLE, "schedule": 30.0, "options": {"expires": 60}},
            "mail": {"task": Task.MAIL, "schedule": 30.0, "options": {"expires": 60}},
        },
        beat_schedule_filename=f"{folder}/beat-schedule",
        timezone="UTC",
    )


_configure()


def _send(task: Task, ids: tuple[str, ...], copies: int) -> None:
    """Send by name: an unreachable broker is not an error here, since the sweep sends the hint again."""
    for _ in range(copies):
        try:
            app.tasks[task].apply_async(args=ids, expires=HINT_SECONDS)
        except (OperationalError, OSError):
            return


carry_by(_send)


@setup_logging.connect
def _log_events(loglevel: int, **kwargs: Any) -> None:
    """Instead of Celery's own handlers, which print tasks' arguments; what libraries print is caught too."""
    logging.config.dictConfig(settings.LOGGING)
    logging.getLogger().setLevel(loglevel)
    logs.install()
    # By name: children read it back from their environment, where a number would not be understood.
    app.log.redirect_stdouts("INFO")  # type: ignore[arg-type]  # its types want the number
