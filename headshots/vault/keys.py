"""The key hierarchy: root ring, hourly epoch keys that are destroyed on time, order keys under them."""

import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol, Self
from uuid import UUID

from headshots.vault import files
from headshots.vault.envelope import (
    KEY_BYTES,
    Role,
    unwrap_epoch_key,
    unwrap_order_key,
    wrap_epoch_key,
    wrap_order_key,
)
from headshots.vault.errors import BadKeyFile, KeyGone, Unreadable

EPOCH: Final = timedelta(hours=1)
EPOCH_LIFE: Final = timedelta(hours=24)

_UNIX: Final = datetime(1970, 1, 1, tzinfo=UTC)
_BUSY_SECONDS: Final = 30.0


def epoch_of(at: datetime) -> int:
    """The number of the UTC hour that `at` (an aware datetime) lies in, counted from 1970."""
    return (at - _UNIX) // EPOCH


def not_after_of(epoch: int) -> datetime:
    """When the epoch's key dies: 24 hours after the hour began, so within 24 hours of any photo in it."""
    return _UNIX + epoch * EPOCH + EPOCH_LIFE


@dataclass(frozen=True, slots=True)
class RootRing:
    """The root keys: the first wraps, any unwraps.

    To rotate, put a new key first, keep the old ones for 25 hours, then drop them; nothing is wrapped anew.
    """

    keys: tuple[bytes, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.keys:
            raise ValueError("a root ring needs at least one key")
        if any(len(key) != KEY_BYTES or not any(key) for key in self.keys):
            raise ValueError(f"a root key has {KEY_BYTES} bytes that are not all zero")

    @classmethod
    def load(cls, path: Path) -> Self:
        """The ring in a file of one hex key per line. Raises BadKeyFile that names the line, or OSError."""
        with path.open("rb") as file:
            files.require_private(path, os.fstat(file.fileno()).st_mode)
            lines = [line.strip() for line in file]
        keys = [_parse_key(path, number, line) for number, line in enumerate(lines, 1) if line]
        if not keys:
            raise BadKeyFile(f"{path} holds no key")
        return cls(tuple(keys))

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """The ring in the file, which is made with one random key when there is none.

        Processes that start together all get the same ring: the file appears whole or not at all.
        """
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileExistsError):  # another process was first: its key is the key
                files.write_new(path, secrets.token_hex(KEY_BYTES).encode() + b"\n")
        return cls.load(path)

    def wrap(self, epoch_key: bytes, epoch: int) -> bytes:
        """The epoch key under the first root key."""
        return wrap_epoch_key(self.keys[0], epoch_key, epoch=epoch, end=not_after_of(epoch))

    def unwrap(self, wrapped: bytes, epoch: int) -> bytes:
        """The clear epoch key. Raises Unreadable when no key of the ring opens it."""
        for key in self.keys:
            try:
                return unwrap_epoch_key(key, wrapped, epoch=epoch, end=not_after_of(epoch))
            except Unreadable:
                continue
        raise Unreadable


def _parse_key(path: Path, number: int, line: bytes) -> bytes:
    try:
        key = bytes.fromhex(line.decode("ascii"))
    except ValueError:
        # Not chained: the cause would quote the line, and the line is a key.
        raise BadKeyFile(f"{path}, line {number}: not a hexadecimal key") from None
    if len(key) != KEY_BYTES:
        raise BadKeyFile(f"{path}, line {number}: the key has {len(key)} bytes, not {KEY_BYTES}")
    if not any(key):
        raise BadKeyFile(f"{path}, line {number}: the key is all zeros")
    return key


class EpochStore(Protocol):
    """Where epoch keys live, and nowhere else: never in the main database, never in a backup."""

    def get(self, epoch: int) -> bytes:
        """The clear key. Raises KeyGone when it was destroyed or never made."""

    def get_or_create(self, epoch: int, now: datetime) -> bytes:
        """The clear key, the same for all who ask at once.

        Raises KeyGone when it was destroyed or its life has ended; ValueError for an hour not yet begun.
        """

    def destroy(self, epoch: int) -> None:
        """Destroy the key for ever; it cannot be made again. Doing it twice is harmless."""

    def destroy_due(self, now: datetime) -> list[int]:
        """Destroy every key whose life has ended; gives their epochs."""

    def epochs(self) -> list[int]:
        """The epochs that have a key, oldest first."""


class FileEpochStore:
    """Epoch keys in a small SQLite file of their own, wrapped by the root ring.

    Many processes and threads may use it at once: each call opens its own connection. Keep the file out of
    backups and snapshots: a copy of it beside the root key is all it takes to read a live order.
    """

    def __init__(self, path: Path, ring: RootRing) -> None:
        """Opens or makes the file. Raises BadKeyFile when other users may read an existing one."""
        self._uri = f"{path.absolute().as_uri()}?mode=rw"  # a lost file is an error, not made anew
        self._ring = ring
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            # Opened by hand only when new: closing a descriptor drops the locks SQLite holds on a file.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            files.require_private(path, path.stat().st_mode)
        with self._writing() as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS epoch_key (epoch INTEGER PRIMARY KEY, wrapped BLOB NOT NULL)"
            )
            # Apart from the keys, so that the keys' table stays within a page and is never split into
            # copies: secure_delete zeroes what is deleted, not what a split leaves behind.
            connection.execute("CREATE TABLE IF NOT EXISTS destroyed (epoch INTEGER PRIMARY KEY)")

    def get(self, epoch: int) -> bytes:
        with self._connected() as connection:
            wrapped = _select(connection, epoch)
        if wrapped is None:
            raise KeyGone(epoch)
        return self._ring.unwrap(wrapped, epoch)

    def get_or_create(self, epoch: int, now: datetime) -> bytes:
        if now >= not_after_of(epoch):
            raise KeyGone(epoch)
        if epoch > epoch_of(now):
            raise ValueError(f"epoch {epoch} has not begun; its key would outlive its 24 hours")
        try:
            return self.get(epoch)
        except KeyGone:
            candidate = self._ring.wrap(secrets.token_bytes(KEY_BYTES), epoch)
        with self._writing() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO epoch_key (epoch, wrapped)"
                " SELECT ?, ? WHERE NOT EXISTS (SELECT 1 FROM destroyed WHERE epoch = ?)",
                (epoch, candidate, epoch),
            )
        return self.get(epoch)

    def destroy(self, epoch: int) -> None:
        with self._writing() as connection:
            _destroy(connection, epoch)

    def destroy_due(self, now: datetime) -> list[int]:
        due = [epoch for epoch in self.epochs() if not_after_of(epoch) <= now]
        if due:
            with self._writing() as connection:
                for epoch in due:
                    _destroy(connection, epoch)
        return due

    def epochs(self) -> list[int]:
        with self._connected() as connection:
            return [epoch for (epoch,) in connection.execute("SELECT epoch FROM epoch_key ORDER BY epoch")]

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with closing(
            sqlite3.connect(self._uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
        ) as connection:
            # Measured: without the first, or with a write-ahead log, deleted keys stay readable in the files.
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA synchronous = FULL")
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._connected() as connection:
            # IMMEDIATE takes the write lock first: two readers who both want to write would block for ever.
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                yield connection


def _select(connection: sqlite3.Connection, epoch: int) -> bytes | None:
    row = connection.execute("SELECT wrapped FROM epoch_key WHERE epoch = ?", (epoch,)).fetchone()
    return None if row is None else bytes(row[0])


def _destroy(connection: sqlite3.Connection, epoch: int) -> None:
    connection.execute("INSERT OR IGNORE INTO destroyed (epoch) VALUES (?)", (epoch,))
    connection.execute("DELETE FROM epoch_key WHERE epoch = ?", (epoch,))


def new_order_key(epochs: EpochStore, *, order_id: UUID, role: Role, epoch: int, now: datetime) -> bytes:
    """A fresh order key, wrapped (120 bytes) for its row; the clear key is given to nobody.

    Raises KeyGone when the epoch has ended.
    """
    epoch_key = epochs.get_or_create(epoch, now)
    return wrap_order_key(
        epoch_key,
        secrets.token_bytes(KEY_BYTES),
        order_id=order_id,
        role=role,
        epoch=epoch,
        not_after=not_after_of(epoch),
    )


def open_order_key(
    epochs: EpochStore, wrapped: bytes, *, order_id: UUID, role: Role, epoch: int, not_after: datetime
) -> bytes:
    """The clear order key. Raises KeyGone when the epoch key is destroyed, else Unreadable."""
    return unwrap_order_key(
        epochs.get(epoch), wrapped, order_id=order_id, role=role, epoch=epoch, not_after=not_after
    )
