"""Brokers of a test's own, to lose and double messages, to be killed and to be emptied."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import amqp
import pytest
from redis import Redis

from tests.vault.servers import RedisServer

_IS_ROOT: Final = os.geteuid() == 0
_START_SECONDS: Final = 90.0  # Erlang's, on a busy machine


class Broker(Protocol):
    """What can be done to either. `url` is for the workers."""

    url: str

    def lose_and_double(self) -> int:
        """Of the messages that wait every other one is lost, the rest are there twice; how many those are."""

    def kill(self) -> None:
        """It dies and comes back; messages that were taken before arrive again."""

    def empty(self) -> None:
        """Every message that waits is gone."""

    def stop(self) -> None:
        """For good; nothing is left running."""


class RedisBroker:
    """Redis: what is killed comes back empty."""

    def __init__(self, folder: Path) -> None:
        (folder / "redis").mkdir()
        self._server = RedisServer(folder / "redis")
        self._messages: list[bytes] = []
        self.url = self._server.url.replace("unix://", "redis+socket://")

    def lose_and_double(self) -> int:
        with Redis.from_url(self._server.url) as client:
            self._messages = client.lrange("gpu", 0, -1)[::2]
            client.delete("gpu")
            client.rpush("gpu", *self._messages, *self._messages)
        return len(self._messages)

    def kill(self) -> None:
        self._server.restart()
        with Redis.from_url(self._server.url) as client:
            client.rpush("gpu", *self._messages)

    def empty(self) -> None:
        """What was not acknowledged and the queues' own names go too."""
        with Redis.from_url(self._server.url) as client:
            client.flushall()

    def stop(self) -> None:
        self._server.stop()


class RabbitBroker:
    """A RabbitMQ node with folders, name, cookie and ports of its own: what was in its queues it keeps."""

    def __init__(self, folder: Path) -> None:
        self._program = require_rabbitmq()
        # Not below the tests' own folder, which no other user may enter.
        self._folder = Path(tempfile.mkdtemp(prefix="headshots-rabbitmq-"))
        self._port, self._epmd_port, dist_port = _free_ports(3)
        (self._folder / "rabbitmq.conf").write_text("loopback_users = none\n")
        (self._folder / "plugins").write_text("")
        if _IS_ROOT:
            for path in (self._folder, *self._folder.iterdir()):
                shutil.chown(path, "rabbitmq", "rabbitmq")
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "RABBITMQ_NODENAME": f"headshots-{self._port}@localhost",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self._port),
            "RABBITMQ_DIST_PORT": str(dist_port),
            "RABBITMQ_MNESIA_BASE": str(self._folder),
            "RABBITMQ_LOG_BASE": str(self._folder),
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "plugins"),
        }
        self._messages: list[Any] = []
        self.url = f"amqp://guest:guest@127.0.0.1:{self._port}//"
        self._start()

    def lose_and_double(self) -> int:
        def take(channel: Any) -> list[Any]:
            return list(iter(lambda: channel.basic_get("gpu", no_ack=True), None))

        self._messages = self._on_channel(take)[::2]
        self._publish(self._messages * 2)
        return len(self._messages)

    def kill(self) -> None:
        self._kill()
        self._start()
        self._publish(self._messages)

    def empty(self) -> None:
        self._on_channel(lambda channel: channel.queue_purge("gpu"))

    def stop(self) -> None:
        self._kill()
        for _ in range(100):  # it refuses to end while it knows of a node
            if subprocess.run(["epmd", "-kill"], env=self._environment, capture_output=True).returncode == 0:
                break
            time.sleep(0.1)
        shutil.rmtree(self._folder)

    def _publish(self, messages: list[Any]) -> None:
        def put(channel: Any) -> None:
            for message in messages:
                channel.basic_publish(amqp.Message(message.body, **message.properties), routing_key="gpu")

        self._on_channel(put)

    def _on_channel(self, use: Callable[[Any], Any]) -> Any:
        with amqp.Connection(f"127.0.0.1:{self._port}", "guest", "guest") as connection:
            return use(connection.channel())

    def _start(self) -> None:
        with (self._folder / "out").open("ab") as out:
            self._process = subprocess.Popen(
                [self._program],
                cwd="/",
                env=self._environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
                **_as_rabbitmq(),
            )
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            try:
                self._on_channel(
                    lambda channel: channel.queue_declare("gpu", durable=True, auto_delete=False)
                )
            except (OSError, amqp.AMQPError):
                time.sleep(0.2)
            else:
                return
        raise RuntimeError("rabbitmq-server did not start")

    def _kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _as_rabbitmq() -> Mapping[str, Any]:
    return {"user": "rabbitmq", "group": "rabbitmq", "extra_groups": []} if _IS_ROOT else {}


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def require_rabbitmq() -> str:
    """The server's program, not the wrapper that leaves our environment behind; skips where there is none."""
    program = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    found = str(program) if program.exists() else shutil.which("rabbitmq-server")
    if found is None:
        pytest.skip("needs the program rabbitmq-server, which infra/dev test installs")
    return found


@contextmanager
def running(kind: Callable[[Path], Broker], folder: Path) -> Iterator[Broker]:
    """A fresh one; stopped at the end."""
    broker = kind(folder)
    try:
        yield broker
    finally:
        broker.stop()
