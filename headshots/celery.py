"""The Celery app: queues, the beat schedule, and sending a hint by name once the transaction has committed.

A message is a wake-up hint that may be lost, late or doubled. The rows say what is to be done.
"""

import os
from enum import StrEnum
from functools import partial
from typing import Final

from celery import Celery
from django.conf import settings
from django.db import transaction
from kombu import Queue
from kombu.exceptions import OperationalError

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "headshots.settings")


class Task(StrEnum):
    """Every task there is. Services name them here and never import them."""

    ASSESS = "headshots.assess"
    RENDER = "headshots.render"
    SWEEP = "headshots.sweep"
    PURGE = "headshots.purge"


app = Celery("headshots")


def _configure() -> None:
    folder = str(settings.DATA / "queue")
    is_embedded = not settings.BROKER_URL
    app.conf.update(
        broker_url=settings.BROKER_URL or "filesystem://localhost",
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
        worker_send_task_events=False,
        beat_schedule={
            "sweep": {"task": Task.SWEEP, "schedule": 10.0, "options": {"expires": 30}},
            "purge": {"task": Task.PURGE, "schedule": 60.0, "options": {"expires": 120}},
        },
        beat_schedule_filename=f"{folder}/beat-schedule",
        timezone="UTC",
    )


_configure()


MAX_COPIES: Final = 4  # wakes several workers for a pack; a hint without work costs a millisecond


def enqueue(task: Task, *ids: str, copies: int = 1) -> None:
    """Send a hint for `task` when the current transaction commits; arguments are ids only.

    `copies` is how many workers could use one; up to MAX_COPIES are sent. A broker that cannot be reached is
    not an error here: the sweep sends the hint again.
    """
    transaction.on_commit(partial(_send, task, ids, min(copies, MAX_COPIES)))


def _send(task: Task, ids: tuple[str, ...], copies: int) -> None:
    for _ in range(copies):
        try:
            app.tasks[task].apply_async(args=ids)
        except (OperationalError, OSError):
            return
