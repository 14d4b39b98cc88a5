"""Real servers on loopback: a Redis of our own, and moto's for S3 and KMS."""

import http.client
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import boto3  # type: ignore[import-untyped]
import pytest
from botocore.config import Config  # type: ignore[import-untyped]
from redis import Redis
from redis.exceptions import ConnectionError as NotYet


class RedisServer:
    """A redis-server without persistence on a unix socket; it can be stopped and started again, empty."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._command = [
            *(require_redis_binary(), "--port", "0", "--unixsocket", str(folder / "socket")),
            *("--save", "", "--appendonly", "no", "--dir", str(folder), *options),
        ]
        self.url = f"unix://{folder / 'socket'}"
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with Redis.from_url(self.url) as client:
            for _ in range(200):
                try:
                    client.ping()
                except NotYet:
                    time.sleep(0.01)
                else:
                    return
        raise RuntimeError("redis-server did not start")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        self.stop()
        self.start()


def require_redis_binary() -> str:
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        pytest.skip("needs the program redis-server, which infra/dev test installs")
    return binary


def shared_redis_url() -> str | None:
    """A database of this test process's own in the Redis that infra/dev started, if it did."""
    url = os.environ.get("TEST_REDIS_URL")
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return urlsplit(url)._replace(path=f"/{4 + int(worker) % 12}").geturl() if url else None


def aws_client(service: str, endpoint_url: str, *, attempts: int = 1) -> Any:
    """A client for a local server; one attempt, so that no test waits for the pauses between them."""
    return boto3.client(
        service,
        endpoint_url=endpoint_url,
        region_name="eu-central-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(
            retries={"mode": "standard", "total_max_attempts": attempts},
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def closed_port() -> int:
    """A port of loopback where nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the proxy sends back; `cut` bytes of the body that its length announces never come."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = (("x-amz-request-id", "REQ123"), ("x-amzn-RequestId", "REQ123"))
    cut: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as the client sent it."""

    method: str
    path: str
    action: str
    body: bytes
    headers: dict[str, str]


# Answers a request itself, sends it on (perhaps changed), or hangs up without a word when it gives None.
Rule = Callable[[Request, Callable[[Request], Answer]], Answer | None]


class Proxy:
    """An HTTP server on loopback before another one; `rule` decides what becomes of each request."""

    def __init__(self, target: str) -> None:
        self.rule: Rule = lambda request, forward: forward(request)
        self.seen: list[Request] = []
        self._target = urlsplit(target).netloc
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                if self.headers.get("Expect", "").lower() == "100-continue":
                    self.handle_expect_100()
                self._answer()

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                action = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
                headers = {name: value for name, value in self.headers.items() if name != "Expect"}
                request = Request(
                    method=self.command, path=self.path, action=action, body=body, headers=headers
                )
                proxy.seen.append(request)
                answer = proxy.rule(request, proxy.forward)
                if answer is None:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body[: len(answer.body) - answer.cut])
                self.close_connection = answer.cut > 0

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def forward(self, request: Request) -> Answer:
        connection = http.client.HTTPConnection(self._target, timeout=10)
        try:
            connection.request(request.method, request.path, request.body, request.headers)
            response = connection.getresponse()
            body = response.read()
            dropped = ("content-length", "transfer-encoding", "connection", "date", "server")
            headers = tuple(pair for pair in response.getheaders() if pair[0].lower() not in dropped)
            return Answer(status=response.status, body=body, headers=headers)
        finally:
            connection.close()
