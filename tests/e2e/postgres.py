"""A Postgres of a test's own: private folder and port, to be broken and started again."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

_IS_ROOT: Final = os.geteuid() == 0  # Postgres refuses to run as root


class PostgresServer:
    """A server on loopback with the database `postgres`, which the role `headshots` owns."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self._folder, self._binaries = folder, binaries
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"postgres://headshots@127.0.0.1:{self._port}/postgres"
        self._run(f"'{binaries}/initdb' -D '{folder}/data' -A trust -U headshots")
        self.start()

    def start(self) -> None:
        """Start, and wait until it takes connections."""
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c fsync=off"
        sockets = f"-c unix_socket_directories={self._folder}"
        self._control("start", f"-l '{self._folder}/log' -o '{options} {sockets}'")

    def crash(self) -> None:
        """End at once and without a checkpoint, whatever is under way."""
        self._control("stop", "-m immediate")

    def _control(self, verb: str, options: str) -> None:
        self._run(f"'{self._binaries}/pg_ctl' -s -w -D '{self._folder}/data' {options} {verb}")

    def _run(self, command: str) -> None:
        line = f"cd / && {command} >/dev/null"
        command_line = ["su", "postgres", "-s", "/bin/sh", "-c", line] if _IS_ROOT else ["sh", "-c", line]
        subprocess.run(command_line, check=True, timeout=120)


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A fresh server; stopped and removed at the end. Skips the test where there is none to start."""
    binaries = require_postgres()
    # Not below the tests' own folder, which no other user may enter.
    folder = Path(tempfile.mkdtemp(prefix="headshots-postgres-"))
    if _IS_ROOT:
        shutil.chown(folder, "postgres")
    server = PostgresServer(folder, binaries)
    try:
        yield server
    finally:
        server.crash()
        shutil.rmtree(folder)


def require_postgres() -> Path:
    """The folder of the newest server's programs; skips the test where there are none."""
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(found, key=lambda path: float(path.parent.parent.name), default=None)
    if newest is None:
        pytest.skip("needs the programs of Postgres, which infra/dev test installs")
    return newest.parent
