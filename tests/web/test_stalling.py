"""Customers who keep the web server waiting: the real server, its own command line, with short limits."""

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from headshots.management.commands import dev
from headshots.services.uploads import MAX_BYTES
from headshots.web import server
from tests.e2e.service import PATIENCE_SECONDS, wait_for

pytestmark = pytest.mark.slow

STALL_SECONDS = 1.0
THREADS = 8
# gunicorn alone would take 5 s for each eight connections that say nothing, and 2 s for each that it closes.
ACCEPTING_SECONDS = 14.0
LIMITS = f"""
from headshots.web import server
server.STALL_SECONDS = {STALL_SECONDS}
server.IDLE_SECONDS = 60.0
"""
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
UPLOAD = (
    "POST /api/v1/orders HTTP/1.1\r\nHost: localhost\r\n"
    "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {}\r\n\r\n"
)


@dataclass(frozen=True)
class Site:
    port: int
    log: Path

    def connect(self, timeout: float = PATIENCE_SECONDS) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def status(self, timeout: float = PATIENCE_SECONDS) -> str:
        """The first line of the answer that a customer gets who asks now."""
        with self.connect(timeout) as customer:
            customer.sendall(HEALTH + b"Connection: close\r\n\r\n")
            return whole(customer).partition(b"\r\n")[0].decode()

    def is_up(self) -> bool:
        try:
            return self.status() == "HTTP/1.1 200 OK"
        except OSError:
            return False


def whole(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The web process as `manage.py dev` starts it."""
    folder = tmp_path_factory.mktemp("stalling")
    (folder / "limits.py").write_text(LIMITS)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "HEADSHOTS_DATA": str(folder),
        "DATABASE_URL": "",
        "GUNICORN_CMD_ARGS": f"--config {folder / 'limits.py'}",
    }
    command = dev._web("127.0.0.1", port)
    assert command[command.index("--threads") + 1] == str(THREADS)
    running = Site(port, folder / "log")
    with running.log.open("wb") as log, subprocess.Popen(command, env=environment, stderr=log) as process:
        try:
            wait_for(running.is_up)
            yield running
        finally:
            process.terminate()


@pytest.fixture
def hold(site: Site) -> Iterator[Callable[[bytes], list[socket.socket]]]:
    """Opens as many connections as there are threads, sends the same on each, and keeps them all open."""
    with ExitStack() as kept:

        def open_all(sent: bytes) -> list[socket.socket]:
            held = [kept.enter_context(site.connect()) for _ in range(THREADS)]
            for connection in held:
                connection.sendall(sent)
            return held

        yield open_all


Hold = Callable[[bytes], list[socket.socket]]


def test_uploads_that_stand_still_end_and_others_are_served(site: Site, hold: Hold) -> None:
    held = hold(UPLOAD.format(1_000_000).encode() + b"--x\r\n")

    assert site.status() == "HTTP/1.1 200 OK"

    for connection in held:
        head, _, body = whole(connection).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert json.loads(body)["code"] == "upload_too_slow"


def test_requests_that_end_in_their_first_line_are_dropped_and_others_are_served(
    site: Site, hold: Hold
) -> None:
    held = hold(b"GET /healthz HTT")

    assert site.status() == "HTTP/1.1 200 OK"
    assert [whole(connection) for connection in held] == [b""] * THREADS


def test_connections_that_say_nothing_hold_no_thread(site: Site, hold: Hold) -> None:
    held = [connection for _ in range(3) for connection in hold(b"")]

    assert site.status(ACCEPTING_SECONDS) == "HTTP/1.1 200 OK"

    for connection in held:  # and they may still ask something
        connection.sendall(HEALTH + b"Connection: close\r\n\r\n")
        assert whole(connection).startswith(b"HTTP/1.1 200 ")


def test_customers_who_never_hang_up_delay_nobody(site: Site, hold: Hold) -> None:
    held = [connection for _ in range(3) for connection in hold(HEALTH + b"Connection: close\r\n\r\n")]

    assert site.status(ACCEPTING_SECONDS) == "HTTP/1.1 200 OK"
    assert all(whole(connection).startswith(b"HTTP/1.1 200 ") for connection in held)


def test_a_connection_serves_one_request_after_another_and_a_large_body_is_read_whole(site: Site) -> None:
    photo = b'--x\r\nContent-Disposition: form-data; name="selfie"; filename="me.jpg"\r\n\r\n'
    body = photo + bytes(MAX_BYTES + 1) + b"\r\n--x--\r\n"
    with site.connect() as customer:
        for _ in range(2):
            customer.sendall(UPLOAD.format(len(body)).encode() + body)
            answer = customer.recv(65536)
            while not answer.endswith(b"}"):
                answer += customer.recv(65536)
            assert answer.startswith(b"HTTP/1.1 413 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "file_too_large"


def test_no_stalled_connection_leaves_a_trace_in_the_log(site: Site, hold: Hold) -> None:
    held = hold(b"GET /healthz HTT")

    assert [whole(connection) for connection in held] == [b""] * THREADS

    assert "Timeout" not in site.log.read_text()
    assert "gunicorn" not in site.log.read_text()


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[server.PatientSocket, socket.socket]]:
    """The server's end of a connection and the customer's; 10 s of patience, 100 bytes a second."""
    monkeypatch.setattr(server, "STALL_SECONDS", 10.0)
    monkeypatch.setattr(server, "MIN_BYTES_PER_SECOND", 100)
    ours, theirs = socket.socketpair()
    with server.PatientSocket(ours) as patient, theirs:
        yield patient, theirs


Pair = tuple[server.PatientSocket, socket.socket]


@pytest.mark.parametrize(("sent", "left"), [(1, 1.01), (300, 4.0), (5000, 10.0)])
def test_each_byte_gives_back_its_share_of_the_time_up_to_the_whole(
    pair: Pair, sent: int, left: float
) -> None:
    patient, theirs = pair
    patient.patience_seconds = 1.0
    theirs.sendall(bytes(sent))

    assert len(patient.recv(8192)) == sent

    assert patient.patience_seconds == pytest.approx(left, abs=0.9)  # less the wait on a busy machine
    assert patient.patience_seconds <= left


def test_who_sends_nothing_is_waited_for_no_longer_than_the_time_that_is_left(pair: Pair) -> None:
    patient, _ = pair
    patient.patience_seconds = 0.01

    for _ in range(2):  # the second time nothing is left
        with pytest.raises(TimeoutError):
            patient.recv(8192)
        assert patient.patience_seconds == 0.0

    assert patient.gettimeout() is None


def test_what_has_arrived_is_read_even_when_no_time_is_left(pair: Pair) -> None:
    patient, theirs = pair
    patient.patience_seconds = 0.0
    theirs.sendall(b"late")

    assert patient.recv(8192) == b"late"


def test_who_takes_nothing_is_waited_for_no_longer_than_the_time_that_is_left(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient, _ = pair
    monkeypatch.setattr(server, "STALL_SECONDS", 0.01)

    with pytest.raises(TimeoutError):
        patient.sendall(bytes(100_000_000))


def test_who_takes_all_gets_all(pair: Pair) -> None:
    patient, theirs = pair
    whole_answer = bytes(range(256)) * 200
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)

    patient.sendall(whole_answer)
    patient.close()

    assert whole(theirs) == whole_answer
