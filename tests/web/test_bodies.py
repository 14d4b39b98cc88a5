"""Requests that bring too much, too little or nonsense: bounded memory, no file, one clear answer."""

import io
import json
import socket
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from pytest_django.live_server_helper import LiveServer

from headshots.exceptions import Refusal
from headshots.services.uploads import MAX_BYTES
from headshots.web import middleware
from headshots.web.middleware import DRAIN_LIMIT, WholeBody
from tests.web.conftest import code_of, nothing_is_stored

pytestmark = pytest.mark.django_db
BOUNDARY = "frontier"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


def form(photo: bytes, field: str = "selfie") -> bytes:
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="tier"\r\n\r\npremium\r\n'
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="me.jpg"\r\n\r\n'
    )
    return head.encode() + photo + f"\r\n--{BOUNDARY}--\r\n".encode()


def post(client: Client, path: str, body: bytes, *, length: int | None = None, **extra: Any) -> Any:
    announced = str(len(body) if length is None else length)
    environ = {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": announced, "CONTENT_TYPE": FORM, **extra}
    return client.generic("POST", path, **environ)


@pytest.mark.parametrize("kept", [0, 40, 200, 5000])
def test_a_body_cut_off_half_way_is_an_incomplete_upload(
    client: Client, built_in: None, selfie: bytes, kept: int
) -> None:
    whole = form(selfie)

    page = post(client, "/new", whole[:kept], length=len(whole))
    answer = post(client, "/api/v1/orders", whole[:kept], length=len(whole))

    assert (page.status_code, code_of(page)) == (400, "incomplete_upload")
    assert answer.status_code == 400
    assert set(answer.json()) == {"code", "message", "advice"}
    assert answer.json()["code"] == "incomplete_upload"
    assert nothing_is_stored()


def test_a_reset_connection_reads_as_an_incomplete_upload() -> None:
    class Reset(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise ConnectionResetError

    with pytest.raises(Refusal, match="incomplete_upload"):
        WholeBody(Reset(), 10).read(5)  # type: ignore[arg-type]


def test_a_whole_body_reads_like_the_stream_below_it() -> None:
    body = WholeBody(io.BytesIO(b"one\ntwo\nthree"), 13)

    assert (body.readline(), body.read(2), body.read(), body.read()) == (b"one\n", b"tw", b"o\nthree", b"")


def test_a_body_read_at_once_must_be_whole() -> None:
    with pytest.raises(Refusal, match="incomplete_upload"):
        WholeBody(io.BytesIO(b"half"), 8).read()


@pytest.mark.parametrize("path", ["/new", "/api/v1/orders", "/nowhere"])
def test_an_enormous_body_is_refused_unread(client: Client, built_in: None, path: str) -> None:
    class Untouchable(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise AssertionError("nobody may read this body")

    extra = {"wsgi.input": Untouchable()}
    response = post(client, path, b"", length=DRAIN_LIMIT + 1, **extra)

    assert response.status_code == 413
    assert nothing_is_stored()


def test_a_large_body_that_is_no_form_is_read_and_dropped(client: Client, built_in: None) -> None:
    body = io.BytesIO(bytes(MAX_BYTES + middleware.FORM_OVERHEAD + 1))

    extra = {"wsgi.input": body, "CONTENT_TYPE": "image/jpeg"}
    response = post(client, "/api/v1/orders", b"", length=len(body.getvalue()), **extra)

    assert (response.status_code, response.json()["code"]) == (413, "file_too_large")
    assert body.read() == b""


def test_too_large_a_photo_costs_no_more_memory_than_the_limit(client: Client, built_in: None) -> None:
    body = form(bytes(MAX_BYTES * 2))
    tracemalloc.start()
    try:
        response = post(client, "/api/v1/orders", b"", length=len(body), **{"wsgi.input": io.BytesIO(body)})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert (response.status_code, response.json()["code"]) == (413, "file_too_large")
    assert peak < MAX_BYTES * 1.5
    assert nothing_is_stored()


@pytest.mark.parametrize(
    "extra",
    [
        {"CONTENT_LENGTH": "many"},
        {"CONTENT_LENGTH": "-5"},
        {"CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked"},
    ],
)
def test_a_body_of_unknown_length_is_refused(client: Client, built_in: None, extra: dict[str, str]) -> None:
    response = post(client, "/api/v1/orders", b"x", **extra)

    assert (response.status_code, response.json()["code"]) == (400, "malformed_request")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"no boundary at all"),
        ("application/x-www-form-urlencoded", b"a=" + b"b" * (1024 * 1024 + 1)),
        ("application/x-www-form-urlencoded", b"&".join(b"a=1" for _ in range(301))),
    ],
)
def test_a_form_that_cannot_be_read_is_malformed(
    client: Client, built_in: None, content_type: str, body: bytes
) -> None:
    page = post(client, "/new", body, CONTENT_TYPE=content_type)
    answer = post(client, "/api/v1/orders", body, CONTENT_TYPE=content_type)

    assert page.status_code == 400
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
    assert nothing_is_stored()


def test_a_file_in_another_field_is_not_kept(client: Client, built_in: None, selfie: bytes) -> None:
    response = post(client, "/new", form(selfie, field="attachment"))

    assert (response.status_code, code_of(response)) == (400, "selfie_missing")
    assert nothing_is_stored()


@pytest.mark.django_db(transaction=True)
def test_the_client_sees_the_refusal_and_not_a_reset_connection(
    live_server: LiveServer, built_in: None
) -> None:
    body = form(bytes(MAX_BYTES + 5_000_000))
    host, port = live_server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = (
            f"POST /api/v1/orders HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n"
            f"Content-Type: {FORM}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "file_too_large"


def test_no_upload_leaves_a_file(send: Callable[..., Any], data: Path, selfie: bytes) -> None:
    before = {path for path in data.rglob("*") if path.is_file()}

    send(selfie[:-4000])
    send(bytes(MAX_BYTES + 1))

    assert {path for path in data.rglob("*") if path.is_file()} == before
