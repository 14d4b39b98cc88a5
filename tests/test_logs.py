"""Logs hold events and nothing of a person: word by word, at every place that can break, in real processes.

The canaries are what must never be written: a file name, a private link's token, a camera's note, an address,
a query, a prompt. Each place below is made to fail with all of them in the error's text.
"""

import ast
import io
import logging
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone
from PIL import Image
from pytest_django import Settings

from headshots import logs, rendering, tasks
from headshots.celery import app
from headshots.env import ROOT
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
from headshots.vault.tokens import new_token
from pipelines.errors import Final, Refused, Retryable
from pipelines.failures import failed_shot
from pipelines.preview import PreviewEngine
from tests.api.conftest import bearer, ready
from tests.e2e.service import running, wait_for
from tests.web.conftest import hold

__all__ = ["ready"]  # a fixture of the API's tests

TOKEN = new_token()
FILE_NAME = "grandma-at-the-wedding.jpg"
CAMERA = "Zeppelin Kamera No 77"
ADDRESS = "203.0.113.77"
QUERY = "sunflower-query"
PROMPT = "velvet unicorn astride a comet"
CANARIES = (TOKEN, FILE_NAME, CAMERA, ADDRESS, QUERY, PROMPT)
SPOKEN = " ".join(CANARIES)

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARNING|ERROR|CRITICAL) [\w.]+ \S.*")


class CanaryError(RuntimeError):
    """What every broken place raises."""


def explode(*args: object, **kwargs: object) -> NoReturn:
    raise CanaryError(SPOKEN)


def record(message: object, *args: object, name: str = "headshots.x", **extra: object) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.WARNING, "/somewhere/module.py", 7, message, args, None)
    made.__dict__.update(extra)
    return made


def event(message: object, *args: object, name: str = "headshots.x", **extra: object) -> str:
    return logs.event_of(record(message, *args, name=name, **extra))


# --- what passes, and what does not -----------------------------------------------------------------------

ID = uuid.UUID(int=10**37)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3, "3"),
        (2.5, "2.5"),
        (True, "True"),
        (None, "None"),
        (ID, str(ID)),
        (str(ID), str(ID)),
        ("o/" + "0a" * 16 + "/" + "0b" * 16, "o/" + "0a" * 16 + "/" + "0b" * 16),
        ("7F3K-9QXD-2M5W-PZ8T", "7F3K-9QXD-2M5W-PZ8T"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02 00:00:00+00:00"),
        ("no_face", "no_face"),
        ("no_face, face_blurred", "no_face, face_blurred"),
        ("no_face, " + FILE_NAME, "[withheld]"),
        ("CanaryError", "CanaryError"),
        (CanaryError, "CanaryError"),
        (CanaryError(SPOKEN), "CanaryError"),
        (Final("no_cuda", SPOKEN), "Final(no_cuda)"),
        (Refused(SPOKEN), "Refused"),
        (Refused("grandma"), "Refused"),
        (logs.Public("device cpu (CPU), torch 2.13"), "device cpu (CPU), torch 2.13"),
        pytest.param(TOKEN, "[withheld]", id="token"),
        ("ab" * 32, "[withheld]"),
        (FILE_NAME, "[withheld]"),
        ("Grandma", "[withheld]"),
        (b"\xff\xd8", "[bytes]"),
        ([FILE_NAME], "[list]"),
        (Path("/home") / FILE_NAME, "[PosixPath]"),
    ],
)
def test_numbers_ids_and_our_own_words_pass_and_nothing_else(value: object, shown: str) -> None:
    assert event("it was %s", value) == f"it was {shown}"


def test_a_dictionary_of_arguments_is_read_as_strictly() -> None:
    assert event("%(count)d of %(name)s", {"count": 2, "name": FILE_NAME}) == "2 of [withheld]"


def test_a_text_where_a_number_was_announced_is_not_written() -> None:
    assert event("%d shots", FILE_NAME) == "%d shots [withheld]"


def test_an_error_in_place_of_a_message_is_its_class() -> None:
    assert event(CanaryError(SPOKEN)) == "CanaryError"


@pytest.mark.parametrize("name", ["gunicorn.error", "headshotsX", "root", "py.warnings", "botocore.endpoint"])
def test_of_another_librarys_record_the_place_alone_is_told(name: str) -> None:
    said = event(f"Error handling request /?{QUERY} %s %s", FILE_NAME, ValueError(SPOKEN), name=name)

    assert said == "module:7 ValueError"


def test_a_request_is_its_method_route_and_status(client: Client, db: None) -> None:
    request = client.get(f"/privacy?{QUERY}").wsgi_request

    shown = event("%s: %s", "Not Found", "/" + QUERY, name="django.request", request=request, status_code=404)

    assert shown == "GET /privacy 404"


@pytest.mark.parametrize("method", [QUERY.upper(), "TRACE"])
def test_a_made_up_method_is_not_repeated(method: str) -> None:
    made = type("Request", (), {"method": method, "resolver_match": None})()

    assert event("x", name="django.request", request=made, status_code=405) == "request no route 405"


def test_a_task_is_its_name_and_id() -> None:
    about = {"name": "headshots.assess", "id": str(ID), "args": TOKEN, "exc": SPOKEN, "return_value": SPOKEN}

    shown = event("Task %(name)s %(args)s", about, name="celery.app.trace", data=about)
    unknown = event("Task %(name)s", about, name="celery.app.trace", data={"name": PROMPT, "id": TOKEN})

    assert shown == f"module:7 headshots.assess {ID}"
    assert unknown == "module:7 [withheld] [withheld]"


def test_a_line_is_time_level_logger_event_and_trail() -> None:
    try:
        try:
            explode()
        except CanaryError as error:
            raise StoreAway(SPOKEN) from error
    except StoreAway as error:
        made = logging.LogRecord(
            "headshots.x", logging.ERROR, "", 1, "it broke", (), (type(error), error, None)
        )
    made.created = 0.25

    line = logs.EventFormatter().format(made)

    assert re.fullmatch(
        r"1970-01-01T00:00:00\.250Z ERROR headshots\.x it broke: "
        r"StoreAway at main/tests/test_logs\.py:\d+ test_a_line_is_time_level_logger_event_and_trail; "
        r"from CanaryError at main/tests/test_logs\.py:\d+ explode < "
        r"main/tests/test_logs\.py:\d+ test_a_line_is_time_level_logger_event_and_trail",
        line.replace(f"{ROOT.name}/tests", "main/tests"),
    )


def test_a_circle_of_causes_ends() -> None:
    first, second = CanaryError("a"), StoreAway("b")
    first.__cause__, second.__cause__ = second, first

    assert logs.trail_of(first) == "CanaryError; from StoreAway"


def test_a_loggers_name_that_somebody_made_up_is_withheld() -> None:
    assert " [withheld] module:7" in logs.EventFormatter().format(record("x", name=f"gunicorn {FILE_NAME}"))


def test_a_line_that_cannot_be_written_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    handler = logs.EventHandler()
    handler.stream = open(os.devnull)  # not for writing  # noqa: SIM115

    handler.handle(record("x %s", FILE_NAME))

    assert capfd.readouterr() == ("", "")


def test_the_only_handler_is_ours(settings: Settings) -> None:
    assert settings.LOGGING["handlers"] == {"events": {"class": "headshots.logs.EventHandler"}}
    assert settings.LOGGING["root"]["handlers"] == ["events"]
    assert not any(logger.get("handlers") for logger in settings.LOGGING["loggers"].values())
    assert isinstance(logs.EventHandler().formatter, logs.EventFormatter)


def test_a_librarys_own_handler_is_taken_from_it() -> None:
    logger = logging.getLogger("somebodys.library")
    logger.addHandler(logging.StreamHandler())
    logger.propagate = False

    logs.take_over()

    assert (logger.handlers, logger.propagate) == ([], True)


# --- our own templates ------------------------------------------------------------------------------------

LEVELS = ("debug", "info", "warning", "error", "exception", "critical")


def log_calls(source: str) -> Iterator[ast.Call]:
    """Calls of `log.<level>` or `_log.<level>`, however the logger's name is spelt."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in LEVELS
            and isinstance(node.func.value, ast.Name)
            and re.fullmatch("_?log(ger)?", node.func.value.id, re.IGNORECASE)
        ):
            yield node


def is_literal(call: ast.Call) -> bool:
    return bool(call.args) and isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str)


def test_every_template_of_ours_is_a_literal() -> None:
    sources = [path for package in logs.OWN for path in (ROOT / package).rglob("*.py")]
    calls = [(path, call) for path in sources for call in log_calls(path.read_text())]

    assert len(calls) > 20
    assert [f"{path}:{call.lineno}" for path, call in calls if not is_literal(call)] == []


@pytest.mark.parametrize("planted", ["log.error(f'{x}')", "_log.info(x)", "logger.warning('a' + x)"])
def test_a_template_that_is_made_up_on_the_way_would_be_found(planted: str) -> None:
    assert [is_literal(call) for call in log_calls(planted)] == [False]


# --- every place that can break ---------------------------------------------------------------------------


@pytest.fixture
def written(settings: Settings) -> Iterator[io.StringIO]:
    """All that this process logs, down to DEBUG, as the service would write it; Django's debug mode is on."""
    settings.DEBUG = True
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.EventFormatter())
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.setLevel(level)
    root.removeHandler(handler)


def assert_told_without_canaries(written: io.StringIO, named: str = "CanaryError") -> None:
    text = written.getvalue()
    assert named in text
    for canary in CANARIES:
        assert canary not in text
    for line in text.splitlines():
        assert LINE.fullmatch(line.replace(" DEBUG ", " INFO ", 1)), line


SENT = {
    "REMOTE_ADDR": ADDRESS,
    "HTTP_X_FORWARDED_FOR": ADDRESS,
    "HTTP_USER_AGENT": CAMERA,
    "HTTP_REFERER": f"http://testserver/{PROMPT.replace(' ', '-')}",
}
ORDER = "/orders/{order}/"
API = "/api/v1/orders/{order}"


@dataclass(frozen=True)
class Place:
    """A request that meets a function which breaks."""

    broken: str
    path: str
    method: str = "GET"

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.broken.rpartition('services.')[2]}"


PAGES = [
    Place("headshots.web.views.styles.published_everywhere", "/"),
    Place("headshots.web.pages.styles.published_everywhere", "/new"),
    Place("headshots.web.views.orders.place", "/new", "UPLOAD"),
    Place("headshots.services.uploads.clean", "/new", "UPLOAD"),
    Place("headshots.services.objects.create_keys", "/new", "UPLOAD"),
    Place("headshots.web.views.orders.find_by_token", "/o", "POST"),
    Place("headshots.web.views.maintenance.last_inspection", "/privacy"),
    Place("headshots.web.views.licence_of", "/terms"),
    Place("headshots.web.views.licence_of", "/licences/free"),
    Place("headshots.web.receipt_views.purge.find_deletion", "/receipts/7F3K-9QXD-2M5W-PZ8T"),
    Place("headshots.web.receipt_views.purge.find_deletion", "/receipts/7F3K-9QXD-2M5W-PZ8T/receipt.txt"),
    Place("headshots.web.receipt_views.signing.published_keys", "/verify"),
    Place("headshots.web.receipt_views.signing.published_keys", "/keys"),
    Place("headshots.web.receipt_views.audit.checkpoint_numbers", "/audit/checkpoint"),
    Place("headshots.web.health._reasons", "/readyz"),
    Place("headshots.web.links.token_of", ORDER),
    Place("headshots.services.progress.view", ORDER),
    Place("headshots.services.progress.view", ORDER + "progress"),
    Place("headshots.services.progress.view", ORDER + "headshots/1/"),
    Place("headshots.services.delivery.open_headshot", ORDER + "headshots/1/preview"),
    Place("headshots.services.objects.read", ORDER + "headshots/1/full"),
    Place("headshots.services.objects.open_object", ORDER + "headshots/1/download"),
    Place("headshots.services.delivery.finished_shots", ORDER + "archive.zip"),
    Place("headshots.services.export._facts", ORDER + "export.zip"),
    Place("headshots.services.payments.payable", ORDER + "checkout"),
    Place("headshots.services.redo._enter", ORDER + "headshots/1/redo", "POST"),
    Place("headshots.services.redo._choose", ORDER + "headshots/1/keep", "POST"),
    Place("headshots.services.fencing.begin", ORDER + "delete", "POST"),
]
OPERATIONS = [
    Place("headshots.api.routes.styles.published_everywhere", "/api/v1/styles"),
    Place("headshots.api.routes.sales.reason_against", "/api/v1/tiers"),
    Place("headshots.api.routes.challenges.create", "/api/v1/challenge"),
    Place("headshots.services.admission.network_of", "/api/v1/orders", "UPLOAD"),
    Place("headshots.services.limits.hmac.digest", "/api/v1/orders", "UPLOAD"),
    Place("headshots.services.challenges.spend", "/new", "UPLOAD"),
    Place("headshots.api.routes.orders.place", "/api/v1/orders", "UPLOAD"),
    Place("headshots.services.uploads.store_selfie", "/api/v1/orders", "UPLOAD"),
    Place("headshots.api.routes.orders.find", API),
    Place("headshots.services.tombstones.exists", API + "/headshots/1"),
    Place("headshots.services.delivery.finished_shots", API + "/archive.zip"),
    Place("headshots.services.uploads.tombstones.require_none", API + "/export.zip"),
    Place("headshots.services.queue_clock.reserve", API + "/headshots/1/redo", "POST"),
    Place("headshots.services.redo._locked", API + "/headshots/1/keep", "POST"),
    Place("headshots.services.fencing.begin", API, "DELETE"),
    Place("headshots.api.routes.purge.find_deletion", "/api/v1/receipts/7F3K-9QXD-2M5W-PZ8T"),
]


def photo_with_a_note(selfie: bytes) -> bytes:
    """The sample portrait with the camera's canary in its EXIF."""
    with Image.open(io.BytesIO(selfie)) as image:
        exif = image.getexif()
        exif[0x0110] = CAMERA  # Model
        out = io.BytesIO()
        image.save(out, "JPEG", exif=exif)
    return out.getvalue()


@pytest.mark.parametrize("spot", [*PAGES, *OPERATIONS], ids=str)
def test_a_page_or_operation_that_breaks_tells_nothing_of_anybody(
    client: Client,
    ready: Placed,
    selfie: bytes,
    written: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
    spot: Place,
) -> None:
    hold(client, ready)
    client.raise_request_exception = False
    path = f"{spot.path.format(order=ready.order.pk)}?{QUERY}&token={TOKEN}"
    monkeypatch.setattr(spot.broken, explode)

    if spot.method == "UPLOAD":
        upload = SimpleUploadedFile(FILE_NAME, photo_with_a_note(selfie), "image/jpeg")
        agreed = {"consent": "yes", "adult": "yes", "upload_id": str(uuid.uuid4())}
        fields = {"tier": "free", **agreed, "selfie": upload, "note": PROMPT}
        response = client.post(path, fields, **SENT)  # type: ignore[arg-type]
    else:
        headers = bearer(ready.token)
        response = client.generic(spot.method, path, f"token={TOKEN}", headers=headers, **SENT)  # type: ignore[arg-type]

    assert response.status_code == 500
    assert_told_without_canaries(written)
    assert ready.token not in written.getvalue()


@pytest.mark.parametrize("path", [ORDER + "archive.zip", ORDER + "export.zip"])
def test_a_download_that_breaks_on_the_way_tells_nothing_of_anybody(
    client: Client, ready: Placed, written: io.StringIO, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    hold(client, ready)
    response = client.get(path.format(order=ready.order.pk), **SENT)  # type: ignore[arg-type]
    monkeypatch.setattr("headshots.services.delivery.objects.read", explode)

    with pytest.raises(CanaryError) as broken:
        response.getvalue()
    logging.getLogger("gunicorn.error").error("Error handling request %s", SPOKEN, exc_info=broken.value)

    assert_told_without_canaries(written)


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


# --- real processes ---------------------------------------------------------------------------------------

UNCAUGHT = """
import sys, threading, warnings
import django
django.setup()
from headshots import logs
logs.install()
words = sys.argv[1]
thread = threading.Thread(target=lambda: int(words))
thread.start()
thread.join()
class Lost:
    def __del__(self):
        raise ValueError(words)
Lost()
warnings.warn(words)
raise KeyError(words)
"""


def test_uncaught_errors_and_warnings_of_a_process_are_events(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", UNCAUGHT, SPOKEN],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "headshots.settings",
            "HEADSHOTS_DATA": str(tmp_path / "d"),
        },
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )

    assert (ended.returncode, ended.stdout) == (1, "")
    lines = ended.stderr.splitlines()
    assert [line.split()[2:6] for line in lines[:2]] == [
        ["headshots.logs", "a", "thread", "ended:"],
        ["headshots.logs", "an", "error", "was"],
    ]
    assert [re.findall(r"\w+Error", line) for line in lines] == [
        ["ValueError"],
        ["ValueError"],
        [],
        ["KeyError"],
    ]
    assert all(LINE.fullmatch(line) for line in lines)
    assert not [canary for canary in CANARIES if canary in ended.stderr]


FOREIGN_MESSAGE = """
import sys
import django
django.setup()
from headshots.celery import app
app.send_task("headshots.assess", args=sys.argv[1:2], queue="cpu")
app.send_task(sys.argv[1], args=sys.argv[1:2], queue="cpu")
"""
SUPERVISOR = ("8 styles created", "Headshots is starting on http://localhost:", "worker: Warm shutdown (Main")


@pytest.mark.slow
def test_site_and_workers_that_break_write_events_alone(tmp_path: Path, selfie: bytes) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "headshots.settings", "HEADSHOTS_DATA": str(data)}
    written = tmp_path / "service.log"
    with running(data, HEADSHOTS_DEBUG="true") as service:
        subprocess.run([sys.executable, "-c", FOREIGN_MESSAGE, SPOKEN], env=environment, check=True, cwd=ROOT)
        wait_for(lambda: "ValueError" in written.read_text())  # workers begin while stores answer
        (data / "blobs").rename(data / "elsewhere")
        (data / "blobs").write_bytes(b"not a folder")
        statuses = [
            answer_of(f"{service.client.base_url}{path}?{QUERY}={TOKEN}", selfie)
            for path in ("/new", "/api/v1/orders")
        ]
        (data / "blobs").unlink()
        (data / "elsewhere").rename(data / "blobs")

    text = written.read_text()
    assert set(statuses) <= {403, 500, 503}
    assert "headshots.assess" in text
    assert not [canary for canary in CANARIES if canary in text]
    for line in filter(None, text.splitlines()):
        assert LINE.fullmatch(line) or line.startswith(SUPERVISOR), line


def answer_of(address: str, selfie: bytes) -> int:
    """The status of an upload with a canary in every part of it."""
    boundary = "x" * 20
    fields = {"tier": "free", "consent": "true", "note": PROMPT}
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="selfie"; filename="{FILE_NAME}"\r\n\r\n'
    body = "".join([*parts, head]).encode() + photo_with_a_note(selfie) + f"\r\n--{boundary}--\r\n".encode()
    headers = {
        "Content-Type": f"multipart/form-data; boundary={boundary}",
        "X-Forwarded-For": ADDRESS,
        "Authorization": f"Bearer {TOKEN}",
        "User-Agent": CAMERA,
    }
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
