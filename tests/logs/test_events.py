"""What of a record passes into a line, and what does not; the templates of our own."""

import ast
import logging
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.test import Client
from pytest_django import Settings

from headshots import logs
from headshots.env import ROOT
from headshots.vault.errors import StoreAway
from pipelines.errors import Final, Refused
from tests.logs.canaries import (
    FILE_NAME,
    ID,
    PROMPT,
    QUERY,
    SPOKEN,
    TOKEN,
    CanaryError,
    event,
    explode,
    record,
)

# --- what passes, and what does not -----------------------------------------------------------------------


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
        r"StoreAway at tests/logs/test_events\.py:\d+ test_a_line_is_time_level_logger_event_and_trail; "
        r"from CanaryError at tests/logs/canaries\.py:\d+ explode < "
        r"tests/logs/test_events\.py:\d+ test_a_line_is_time_level_logger_event_and_trail",
        line,
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
