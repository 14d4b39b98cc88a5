"""The world that the purge is tried in: clocks, folders, database copies and root keys that a test can move.

Everything in it is real but the clocks: SQLite, the disk store, the file of epoch keys, the marks beside
them.
"""

import secrets
import shutil
import sqlite3
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from django.db import connection
from django.test import override_settings
from django.utils import timezone

from headshots.services import clock, farewells, objects, purge, styles, uploads
from headshots.vault.blobs import DiskBlobStore
from tests.services.unreliable import UnreliableStore

START: Final = datetime(2026, 3, 1, 10, 20, tzinfo=UTC)
MEMORY: Final = Path("/dev/shm")  # where a sync costs nothing; any folder will do
SETTLE_SECONDS: Final = 120.0
LEASE_SECONDS: Final = 60


class World:
    """One installation from its first day; `close` ends it and gives the machine its own clock back."""

    def __init__(self, pristine: sqlite3.Connection) -> None:
        self.elapsed = timedelta(0)
        self.clock_error = timedelta(0)
        self.folder = Path(tempfile.mkdtemp(prefix="world-", dir=MEMORY if MEMORY.is_dir() else None))
        self._copies: list[sqlite3.Connection] = []
        self._stack = ExitStack()
        self._stack.callback(shutil.rmtree, self.folder)
        self._stack.enter_context(
            override_settings(
                DATA=self.folder, PURGE_SETTLE_SECONDS=SETTLE_SECONDS, LEASE_SECONDS=LEASE_SECONDS
            )
        )
        self.store = UnreliableStore(DiskBlobStore(self.folder / "blobs"))
        patch = self._stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(objects, "blobs", lambda: self.store)
        patch.setattr(clock, "system_time", lambda: self.true_time + self.clock_error)
        patch.setattr(clock, "_ticks", lambda: self.elapsed.total_seconds())
        patch.setattr(uploads, "clean_portrait_in_sandbox", lambda raw, **options: raw)
        patch.setattr(purge, "NUDGE_SECONDS", 3600.0)  # so that no outcome hangs on this machine's speed
        _copy(pristine, _live())
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA synchronous = OFF")
        self.restart()

    def close(self) -> None:
        """Take everything away."""
        for copy in self._copies:
            copy.close()
        _forget_process()
        self._stack.close()

    # time and processes

    @property
    def true_time(self) -> datetime:
        """What a right clock would say."""
        return START + self.elapsed

    def pass_time(self, by: timedelta) -> None:
        """Time goes on, for the machine's clock and for its count of seconds."""
        self.elapsed += by

    def restart(self) -> None:
        """Every process ends and starts again: what only memory held is gone."""
        _forget_process()

    # the database's copies

    @property
    def copies(self) -> int:
        """How many backups there are."""
        return len(self._copies)

    def back_up(self) -> None:
        """Keep a consistent copy of the database as it is now."""
        copy = sqlite3.connect(":memory:", check_same_thread=False)
        _copy(_live(), copy)
        self._copies.append(copy)

    def put_back(self, number: int) -> None:
        """The database becomes a copy made before, under a service that goes on running."""
        _copy(self._copies[number], _live())

    # keys

    @property
    def _root_keys(self) -> Path:
        return self.folder / "keys" / "root.keys"

    def rotate_root_key(self) -> None:
        """A new root key first, the old ones kept behind it; the processes start again to read it."""
        if self._root_keys.exists():
            self._root_keys.write_text(secrets.token_hex(32) + "\n" + self._root_keys.read_text())
            self.restart()

    def drop_old_root_keys(self) -> None:
        """What FORMAT.md allows 25 hours after a rotation."""
        if self._root_keys.exists():
            self._root_keys.write_text(self._root_keys.read_text().splitlines()[0] + "\n")
            self.restart()

    @property
    def are_epoch_keys_away(self) -> bool:
        """Whether the file of epoch keys cannot be opened."""
        return self._epoch_keys_aside.exists()

    @property
    def _epoch_keys(self) -> Path:
        return self.folder / "keys" / "epochs.sqlite3"

    @property
    def _epoch_keys_aside(self) -> Path:
        return self.folder / "keys" / "aside"

    def take_epoch_keys_away(self) -> None:
        """The file cannot be opened from here on."""
        objects.epochs()  # a process that never opened it would make it anew
        self._epoch_keys.rename(self._epoch_keys_aside)

    def bring_epoch_keys_back(self) -> None:
        """The file is where it was."""
        if self.are_epoch_keys_away:
            self._epoch_keys_aside.rename(self._epoch_keys)


def pristine_database() -> sqlite3.Connection:
    """A copy of the test's database with the built-in styles and nothing else."""
    styles.seed_builtin(now=timezone.now())
    copy = sqlite3.connect(":memory:", check_same_thread=False)
    _copy(_live(), copy)
    return copy


def files_with(folder: Path, needle: bytes) -> list[Path]:
    """The files below a folder that hold these bytes."""
    return [path for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()]


def _live() -> sqlite3.Connection:
    connection.ensure_connection()
    live = connection.connection
    assert isinstance(live, sqlite3.Connection)
    return live


def _copy(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    assert not source.in_transaction
    assert not target.in_transaction
    source.backup(target)


def _forget_process() -> None:
    for cached in (objects._order_keys, objects._epochs):
        cached.cache_clear()
    clock._seen.clear()
    farewells._held.clear()
