"""The Celery app: queues, the beat schedule, and the carrier of the hints that services send."""

import logging.config
import os
from typing import Any

from celery import Celery
from celery.signals import setup_logging
from django.conf import settings
from kombu import Queue
from kombu.exceptions import OperationalError

from headshots import logs
from headshots.hints import Task, carry_by

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "headshots.settings")


app = Celery("headshots")


def _configure() -> None:
    folder = str(settings.DATA / "queue")
    is_embedded = not settings.BROKER_URL
    app.conf.update(
        broker_url=settings.BROKER_URL or "filesystem://localhost",
        include=["headshots.tasks", "headshots.worker"],
        broker_transport_options=(
            {
                "data_folder_in": folder,
                "data_folder_out": folder,
                "control_folder": f"{folder}/control",
                "polling_interval": 0.2,
            }
            if is_embedded
            else {"visibility_timeout": 3600}
        ),
        broker_connection_retry_on_startup=True,
        task_default_queue="cpu",
        task_queues=(Queue("cpu"), Queue("gpu")),
        task_routes={Task.RENDER: {"queue": "gpu"}},
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
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
            app.tasks[task].apply_async(args=ids)
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
