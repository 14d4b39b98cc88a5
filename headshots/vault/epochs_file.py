"""Epoch keys in a small SQLite file of their own: the store of one machine."""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from headshots.vault import files
from headshots.vault.errors import StoreAway

_BUSY_SECONDS: Final = 30.0


class FileShelf:
    """Wrapped epoch keys in a file.

    Many processes and threads may use it at once: each call opens its own connection. Keep the file out of
    backups and snapshots: a copy of it beside the root key is all it takes to read a live order.
    """

    def __init__(self, path: Path) -> None:
        """Opens or makes the file. Raises BadKeyFile when other users may read an existing one."""
        self._uri = f"{path.absolute().as_uri()}?mode=rw"  # a lost file is an error, not made anew
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

    def find(self, epoch: int) -> bytes | None:
        with self._connected() as connection:
            row = connection.execute("SELECT wrapped FROM epoch_key WHERE epoch = ?", (epoch,)).fetchone()
            return None if row is None else bytes(row[0])

    def keep(self, epoch: int, wrapped: bytes) -> None:
        with self._writing() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO epoch_key (epoch, wrapped)"
                " SELECT ?, ? WHERE NOT EXISTS (SELECT 1 FROM destroyed WHERE epoch = ?)",
                (epoch, wrapped, epoch),
            )

    def destroy(self, epochs: Iterable[int]) -> None:
        with self._writing() as connection:
            for epoch in epochs:
                connection.execute("INSERT OR IGNORE INTO destroyed (epoch) VALUES (?)", (epoch,))
                connection.execute("DELETE FROM epoch_key WHERE epoch = ?", (epoch,))

    def epochs(self) -> list[int]:
        with self._connected() as connection:
            return [epoch for (epoch,) in connection.execute("SELECT epoch FROM epoch_key ORDER BY epoch")]

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(
                sqlite3.connect(self._uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
            ) as connection:
                # Measured: without the first, or with a write-ahead log, deleted keys stay in the files.
                connection.execute("PRAGMA secure_delete = ON")
                connection.execute("PRAGMA journal_mode = DELETE")
                connection.execute("PRAGMA synchronous = FULL")
                yield connection
        except sqlite3.OperationalError as error:
            raise StoreAway(f"the file of epoch keys cannot be used: {error}") from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._connected() as connection:
            # IMMEDIATE takes the write lock first: two readers who both want to write would block for ever.
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                yield connection
