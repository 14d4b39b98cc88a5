"""Tasks, services, engine and sandbox are made to fail with all canaries in the error's text."""

import io
import logging
import warnings
from collections.abc import Callable
from typing import NoReturn

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone

from headshots import rendering, tasks
from headshots.celery import app
from headshots.models import Order
from headshots.services import (
    audit,
    clock,
    fencing,
    maintenance,
    objects,
    orders,
    purge,
    shots,
    uploads,
    verification,
)
from headshots.services.orders import Placed
from headshots.vault.errors import StoreAway
from pipelines.errors import Final, Refused, Retryable
from pipelines.failures import failed_shot
from pipelines.preview import PreviewEngine
from tests.logs.canaries import (
    CANARIES,
    FILE_NAME,
    ID,
    PROMPT,
    SENT,
    SPOKEN,
    CanaryError,
    assert_told_without_canaries,
    explode,
)

pytestmark = pytest.mark.slow

# --- tasks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("headshots.assess", "headshots.tasks.orders.begin_assessment"),
        ("headshots.assess", "headshots.tasks.uploads.open_selfie"),
        ("headshots.assess", "headshots.tasks._assessor"),
        ("headshots.render", "headshots.tasks._engine"),
        ("headshots.render", "headshots.tasks.claiming.claim"),
        ("headshots.render", "headshots.tasks.shots.commit"),
        ("headshots.render", "headshots.tasks.RenderRun._request"),
        ("headshots.render", "pipelines.preview._candidate"),
        ("headshots.sweep", "headshots.tasks.shots.sweep"),
        ("headshots.purge", "headshots.tasks.maintenance.run_pass"),
        ("headshots.mail", "headshots.tasks.mails.run"),
    ],
)
def test_a_task_that_breaks_tells_nothing_of_anybody(
    placed: Placed, written: io.StringIO, monkeypatch: pytest.MonkeyPatch, name: str, broken: str
) -> None:
    if name == "headshots.render":
        orders.accept(placed.order, timezone.now())
    monkeypatch.setattr(broken, explode)

    arguments = (str(placed.order.pk),) if name == "headshots.assess" else ()
    app.tasks[name].apply(args=arguments)

    assert_told_without_canaries(written)


def test_a_message_that_no_service_sent_is_not_repeated(written: io.StringIO, db: None) -> None:
    app.tasks["headshots.assess"].apply(args=(SPOKEN,))

    assert_told_without_canaries(written, "ValueError")


# --- services, engine and sandbox -------------------------------------------------------------------------


def break_store(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*args: object, **kwargs: object) -> NoReturn:
        raise StoreAway(SPOKEN)

    monkeypatch.setattr(type(objects.blobs()), "list", away)
    monkeypatch.setattr(type(objects.epochs()), "destroy_due", away)


def run_purge(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    fencing.begin(order, reason="customer", now=timezone.now())
    break_store(monkeypatch)
    purge.run(timezone.now())


def begin_purge(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    late = timezone.now()
    Order.objects.update(created_at=late.replace(year=2025), expires_at=late)
    monkeypatch.setattr(fencing, "_fence", explode)
    purge.run(timezone.now())


def inspect(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "TABLE", {"receipts": explode})
    verification.record(verification.inspect(timezone.now()))


def sign_checkpoint(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    def unwritable(*args: object) -> NoReturn:
        raise OSError(SPOKEN)

    monkeypatch.setattr(audit, "_checkpoint", unwritable)
    audit.checkpoint(timezone.now())


def maintain(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    class Enough(BaseException):
        """Ends the endless thread."""

    def stop(*args: object) -> NoReturn:
        raise Enough

    monkeypatch.setattr(maintenance, "_round", explode)
    monkeypatch.setattr(maintenance.connections, "close_all", lambda: None)
    monkeypatch.setattr(maintenance.threading.Event, "wait", stop)
    with pytest.raises(Enough):
        maintenance._rounds(maintenance._Boot(clock.system_time()))


def heartbeat(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering.connection, "close", lambda: None)
    rendering.tolerant("heartbeat", explode)


def no_sandbox(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*args: object, **kwargs: object) -> NoReturn:
        raise Retryable("sandbox_unavailable", SPOKEN)

    monkeypatch.setattr(uploads, "clean_portrait_in_sandbox", unavailable)
    with pytest.raises(Refused):
        uploads.clean(b"x")


def engine_of_ours(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    failed_shot(str(ID), Final("no_cuda", SPOKEN))


def engine_of_others(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    failed_shot(str(ID), CanaryError(SPOKEN))


def engine_with_a_prompt(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    """What text encoders say of a prompt that is too long for them, with the prompt in it."""
    logging.getLogger("transformers.tokenization").warning(f"truncated: {PROMPT}")
    warnings.warn(f"truncated: {PROMPT}", UserWarning, stacklevel=1)


def late_writer(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    orders.accept(order, timezone.now())
    run = tasks.RenderRun()
    batches = iter([run.source(1), []])
    monkeypatch.setattr(shots, "commit", lambda *args: False)
    PreviewEngine().run(lambda free_slots: next(batches), run.sink, lambda shot_id: False)


@pytest.mark.parametrize(
    ("happen", "named"),
    [
        (run_purge, "StoreAway"),
        (begin_purge, "CanaryError"),
        (inspect, "CanaryError"),
        (sign_checkpoint, "OSError"),
        (maintain, "CanaryError"),
        (heartbeat, "CanaryError"),
        (no_sandbox, "Retryable(sandbox_unavailable)"),
        (engine_of_ours, "Final(no_cuda)"),
        (engine_of_others, "CanaryError"),
        (engine_with_a_prompt, "transformers.tokenization"),
        (late_writer, "came too late"),
    ],
)
def test_a_service_or_engine_that_breaks_tells_nothing_of_anybody(
    placed: Placed,
    written: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
    happen: Callable[[Order, pytest.MonkeyPatch], None],
    named: str,
) -> None:
    logging.captureWarnings(True)
    try:
        happen(placed.order, monkeypatch)
    finally:
        logging.captureWarnings(False)

    assert_told_without_canaries(written, named)


@pytest.mark.django_db
def test_a_file_that_the_sandbox_refuses_tells_nothing_of_anybody(
    client: Client, built_in: None, written: io.StringIO
) -> None:
    upload = SimpleUploadedFile(FILE_NAME, b"\xff\xd8\xff\xe1" + SPOKEN.encode(), "image/jpeg")

    response = client.post("/api/v1/orders", {"selfie": upload, "consent": "true"}, **SENT)  # type: ignore[arg-type]

    assert response.status_code in (415, 422)
    assert_told_without_canaries(written, f"/api/v1/orders {response.status_code}")


def test_the_same_accident_in_an_ordinary_log_would_be_found(written: io.StringIO) -> None:
    (handler,) = (h for h in logging.getLogger().handlers if getattr(h, "stream", None) is written)
    handler.setFormatter(logging.Formatter())

    failed_shot(str(ID), Final("no_cuda", SPOKEN))

    assert all(canary in written.getvalue() for canary in CANARIES)
