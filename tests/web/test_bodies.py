"""Requests that bring too much, too little or nonsense: bounded memory, no file, one clear answer."""

import gzip
import io
import json
import os
import socket
import sys
import threading
import tracemalloc
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from pytest_django.live_server_helper import LiveServer

from headshots.exceptions import Refusal
from headshots.models import Order
from headshots.services.uploads import MAX_BYTES
from headshots.web import middleware
from headshots.web.middleware import DRAIN_LIMIT, WholeBody
from tests.web.conftest import code_of, nothing_is_stored

pytestmark = [pytest.mark.django_db, pytest.mark.slow]
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


@pytest.mark.parametrize(
    ("error", "code"), [(ConnectionResetError, "incomplete_upload"), (TimeoutError, "upload_too_slow")]
)
def test_a_broken_connection_refuses_the_body_and_is_read_no_further(error: type[OSError], code: str) -> None:
    class Broken(io.RawIOBase):
        reads = 0

        def read(self, size: int = -1) -> bytes:
            self.reads += 1
            raise error

    stream = Broken()
    body = WholeBody(stream, 10)  # type: ignore[arg-type]

    with pytest.raises(Refusal, match=code):
        body.read(5)
    body.drain()

    assert stream.reads == 1


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
    def files() -> set[Path]:
        """Without the vault's own books: its clock is noted with every request."""
        return {path for path in data.rglob("*") if path.is_file() and path.parent.name != "keys"}

    before = files()

    send(selfie[:-4000])
    send(bytes(MAX_BYTES + 1))

    assert files() == before


NAMES = {
    "right to left": "\u202egpj.exe".encode(),
    "NUL": b"me\0.php",
    "300 characters": b"a" * 300 + b".jpg",
    "a way out of the folder": b"../../../../etc/cron.d/me.jpg",
    "a way out on Windows": rb"..\..\me.jpg",
    "a device": b"CON",
    "not UTF-8": b"\xff\xfe\x80.jpg",
    "a line break": b"me\r\n .jpg",
    "markup": b"<img src=x onerror=alert(1)>.jpg",
}


@pytest.mark.parametrize("name", NAMES)
def test_whatever_a_file_is_called_is_dropped(
    client: Client,
    built_in: None,
    selfie: bytes,
    data: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    body = form(selfie).replace(b"me.jpg", b"KILROY" + NAMES[name] + b"KILROY").replace(b"premium", b"free")
    consent = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="consent"\r\n\r\ntrue\r\n'

    answer = post(client, "/api/v1/orders", consent.encode() + body)

    if answer.status_code != 201:  # what Django cannot read as a name makes no file
        assert (answer.status_code, answer.json()["code"]) in {
            (400, "selfie_missing"),
            (400, "malformed_request"),
        }
        assert nothing_is_stored()
    assert b"KILROY" not in answer.content
    assert "KILROY" not in caplog.text
    assert not [path for path in data.rglob("*") if path.is_file() and b"KILROY" in path.read_bytes()]


@pytest.mark.parametrize("disposition", ['name="field{}"', 'name="selfie"; filename="{}.jpg"'])
def test_ten_thousand_parts_are_malformed(client: Client, built_in: None, disposition: str) -> None:
    parts = (
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition.format(number)}\r\n\r\nx\r\n"
        for number in range(10_000)
    )
    body = ("".join(parts) + f"--{BOUNDARY}--\r\n").encode()

    answer = post(client, "/api/v1/orders", body)

    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
    assert nothing_is_stored()


def test_a_body_longer_than_it_says_is_read_no_further(client: Client, built_in: None, selfie: bytes) -> None:
    whole = form(selfie)
    stream = io.BytesIO(whole)

    answer = post(client, "/api/v1/orders", b"", length=len(whole) // 2, **{"wsgi.input": stream})

    assert (answer.status_code, answer.json()["code"]) == (400, "selfie_missing")
    assert stream.tell() <= len(whole) // 2
    assert nothing_is_stored()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip"])
def test_a_packed_body_is_not_unpacked(client: Client, built_in: None, selfie: bytes, encoding: str) -> None:
    body = gzip.compress(form(selfie))

    page = post(client, "/new", body, HTTP_CONTENT_ENCODING=encoding)
    answer = post(client, "/api/v1/orders", body, HTTP_CONTENT_ENCODING=encoding)

    assert page.status_code == 400
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
    assert nothing_is_stored()


def request_head(url: str, length: int) -> tuple[tuple[str, int], bytes]:
    host, port = url.removeprefix("http://").split(":")
    head = (
        f"POST /api/v1/orders HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n"
        f"Content-Type: {FORM}\r\nContent-Length: {length}\r\n\r\n"
    )
    return (host, int(port)), head.encode()


@pytest.mark.django_db(transaction=True)
def test_a_client_that_sends_byte_by_byte_blocks_nobody(
    live_server: LiveServer, built_in: None, selfie: bytes
) -> None:
    """While its body dribbles in, others are served; when it gives up, it leaves nothing."""
    body = form(selfie)
    address, head = request_head(live_server.url, len(body))
    with socket.create_connection(address, timeout=30) as slow:
        for byte in head + body[:50]:
            slow.send(bytes((byte,)))
        with socket.create_connection(address, timeout=30) as other:
            other.sendall(
                f"GET /healthz HTTP/1.1\r\nHost: {address[0]}\r\nConnection: close\r\n\r\n".encode()
            )
            answer = b"".join(iter(lambda: other.recv(65536), b""))
        slow.shutdown(socket.SHUT_WR)
        refusal = b"".join(iter(lambda: slow.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert refusal.startswith(b"HTTP/1.1 400 ")
    assert json.loads(refusal.partition(b"\r\n\r\n")[2])["code"] == "incomplete_upload"
    assert nothing_is_stored()


@pytest.mark.django_db(transaction=True)
def test_of_racing_uploads_with_one_number_one_becomes_an_order(built_in: None, selfie: bytes) -> None:
    number, together = str(uuid.uuid4()), threading.Barrier(3)

    def send_one() -> int:
        fields = {"tier": "free", "consent": "yes", "adult": "yes", "upload_id": number}
        try:
            together.wait()
            return Client().post("/new", {**fields, "selfie": io.BytesIO(selfie)}).status_code
        finally:
            connection.close()

    with ThreadPoolExecutor(3) as pool:
        statuses = sorted(future.result() for future in [pool.submit(send_one) for _ in range(3)])

    assert statuses == [302, 409, 409]
    assert Order.objects.count() == 1


_opened: list[str] | None = None  # an audit hook stays for the life of the process, so it is switched here


def _note_writing(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open":
        path, _, flags = arguments
        is_file = isinstance(path, str | bytes)  # else a pipe's descriptor gets a file object
        if is_file and isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            _opened.append(str(path))
    if _opened is not None and event.startswith("tempfile."):
        _opened.append(event)


sys.addaudithook(_note_writing)


@pytest.mark.parametrize("path", ["/new", "/api/v1/orders"])
@pytest.mark.parametrize("size", ["a selfie", "as large as may be", "too large"])
def test_an_upload_opens_no_file_for_writing_but_the_sealed_blob(
    client: Client,
    built_in: None,
    selfie: bytes,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    size: str,
) -> None:
    photo = {
        "a selfie": selfie,
        "as large as may be": selfie.ljust(MAX_BYTES, b"\0"),
        "too large": selfie.ljust(MAX_BYTES + 1, b"\0"),
    }[size]
    fields = {"tier": "free", "consent": "yes", "adult": "yes", "upload_id": str(uuid.uuid4())}
    monkeypatch.setattr(sys.modules[__name__], "_opened", [])

    response = client.post(path, {**fields, "selfie": io.BytesIO(photo)})

    written = [name for name in _opened or [] if name != os.devnull]
    assert response.status_code == (413 if size == "too large" else {"/new": 302}.get(path, 201))
    assert [name for name in written if not name.startswith(str(data))] == []
    assert all("/blobs/" in name or "/keys" in name for name in written)
    assert not [
        name for name in data.rglob("*") if name.is_file() and b"\xff\xd8\xff" in name.read_bytes()[:64]
    ]
