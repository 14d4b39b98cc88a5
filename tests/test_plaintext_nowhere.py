"""Where photos, tokens and names could end up by accident: messages, results, dumps, temporary files."""

import inspect
import io
import json
import os
import subprocess
import sys
import tempfile
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from django.utils import timezone

from headshots import tasks
from headshots.celery import app
from headshots.env import ROOT
from headshots.hints import Task
from headshots.models import Order, Shot
from headshots.services import delivery, export, orders, shots
from headshots.services.orders import Placed
from headshots.states import OrderState, ShotState
from tests.api.conftest import ready
from tests.e2e.service import running, wait_for
from tests.paying import pay

pytestmark = pytest.mark.slow

__all__ = ["ready"]  # a fixture of the API's tests

OURS = sorted(name for name in app.tasks if name.startswith("headshots."))


# --- messages and results -----------------------------------------------------------------------------------


def test_every_task_of_ours_is_one_that_services_name() -> None:
    assert sorted(map(str, Task)) == OURS


@pytest.mark.parametrize("name", OURS)
def test_a_task_takes_ids_and_gives_nothing(name: str) -> None:
    signature = inspect.signature(app.tasks[name].run)

    assert signature.return_annotation is None
    for parameter in signature.parameters.values():
        assert parameter.name.endswith("_id")
        assert (parameter.annotation, parameter.kind) == (str, parameter.POSITIONAL_OR_KEYWORD)


def test_results_are_stored_nowhere() -> None:
    assert app.conf.result_backend is None
    assert app.conf.task_ignore_result is True
    assert app.conf.worker_send_task_events is False
    assert type(app.backend).__name__ == "DisabledBackend"
    for name in OURS:
        assert app.tasks[name].ignore_result is True


def test_messages_are_json_and_nothing_else_is_read() -> None:
    assert (app.conf.task_serializer, list(app.conf.accept_content)) == ("json", ["json"])


def test_every_hint_of_an_orders_whole_life_carries_its_id_or_nothing(
    place: Callable[..., Placed],
    sent: list[tuple[str, tuple[str, ...]]],
    render_all: Callable[[], None],
    django_capture_on_commit_callbacks: Any,
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        free = place().order
        render_all()
        paid = place(tier_slug="premium", style_slugs=("tech",)).order
        orders.accept(paid, timezone.now())
        pay(Order.objects.get(pk=paid.pk), timezone.now())
        Shot.objects.filter(order=free, index=1).update(state=ShotState.FAILED, error_code="gate")
        orders.retry_failed(Order.objects.get(pk=free.pk), actor="ada", now=timezone.now())
        Order.objects.filter(pk=paid.pk).update(
            state=OrderState.ASSESSING, created_at=timezone.now() - 2 * shots.HINT_PATIENCE
        )
        shots.sweep(timezone.now())

    ids = {str(free.pk), str(paid.pk)}
    assert {name for name, _ in sent} == {Task.ASSESS, Task.RENDER}
    for name, arguments in sent:
        assert set(arguments) <= ids
        assert len(arguments) == (name == Task.ASSESS)


SEND = """
import sys
import django
django.setup()
from headshots.celery import app
import headshots.tasks
app.tasks["headshots.assess"].apply_async(args=(sys.argv[1],))
"""


def test_a_message_on_the_wire_holds_the_id_and_where_it_came_from(tmp_path: Path) -> None:
    order_id = str(uuid.uuid4())
    environment = {"DJANGO_SETTINGS_MODULE": "headshots.settings", "HEADSHOTS_DATA": str(tmp_path / "data")}

    subprocess.run(
        [sys.executable, "-c", SEND, order_id], env={**os.environ, **environment}, check=True, cwd=ROOT
    )

    (written,) = (tmp_path / "data" / "queue").glob("*.msg")
    message = json.loads(written.read_bytes())
    headers = message["headers"]
    assert (headers["task"], headers["argsrepr"]) == ("headshots.assess", f"('{order_id}',)")
    assert (headers["kwargsrepr"], headers["ignore_result"]) == ("{}", True)
    assert message["content-type"] == "application/json"


# --- dumps --------------------------------------------------------------------------------------------------

WORKER = """
import os
import django
django.setup()
from celery.signals import worker_init
from headshots import process, worker
assert not process.is_hardened()
worker_init.send(sender=None)
child = os.fork()
if child == 0:
    os._exit(0 if process.is_hardened() else 3)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_worker_is_hardened_before_its_children_are_forked(tmp_path: Path) -> None:
    environment = {"DJANGO_SETTINGS_MODULE": "headshots.settings", "HEADSHOTS_DATA": str(tmp_path / "data")}

    ended = subprocess.run(
        [sys.executable, "-c", WORKER], env={**os.environ, **environment}, check=False, cwd=ROOT
    )

    assert ended.returncode == 0


@pytest.mark.slow
def test_no_process_of_the_running_service_may_leave_a_core(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    with running(data, WORKER_PROCESSES="1") as service:
        web = service.children("headshots.wsgi")[-1:]
        # the pool's parent and its one child, which is forked once the parent has loaded its engine
        wait_for(lambda: len(service.children("--queues gpu")) == 2)
        workers = service.children("--queues gpu")
        for pid in (*web, *workers):
            limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
            (core,) = (line for line in limits if line.startswith("Max core file size"))
            assert core.split()[4:6] == ["0", "0"]


# --- temporary files ----------------------------------------------------------------------------------------


def explode(*args: object, **kwargs: object) -> NoReturn:
    raise AssertionError("a temporary file was asked for")


@pytest.mark.parametrize("stream", [delivery.stream_archive, export.stream])
def test_no_zip_makes_a_temporary_file(
    ready: Placed, monkeypatch: pytest.MonkeyPatch, stream: Callable[..., Any]
) -> None:
    for name in ("NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile", "mkstemp", "mkdtemp"):
        monkeypatch.setattr(tempfile, name, explode)
    order = Order.objects.get()

    pieces = list(stream(order, timezone.now()))

    assert len(pieces) > 3  # one for each file in it, and the end
    assert zipfile.ZipFile(io.BytesIO(b"".join(pieces))).testzip() is None


def test_making_pictures_makes_no_temporary_file(
    placed: Placed, render_all: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks._engine()
    tasks._assessor()
    for name in ("NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile", "mkstemp", "mkdtemp"):
        monkeypatch.setattr(tempfile, name, explode)

    render_all()

    assert Order.objects.get().state == OrderState.READY
