"""Holds clear order keys for up to a minute, so that fifty headshots do not cost fifty unwrappings."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeAlias
from uuid import UUID
from weakref import WeakValueDictionary

from headshots.vault.envelope import Role
from headshots.vault.keys import EpochStore, open_order_key

MAX_AGE: Final = timedelta(seconds=60)

_Slot: TypeAlias = tuple[UUID, Role, int]
# What a key was unwrapped from (wrapped key, epoch, end), so that a row edited meanwhile finds nothing here.
_Row: TypeAlias = tuple[bytes, int, datetime]


@dataclass(frozen=True, slots=True)
class _Entry:
    key: bytearray
    row: _Row
    stale_at: float


class OrderKeys:
    """The clear order keys of one process, dropped after 60 seconds or when the order is forgotten.

    Wiping is best effort: the library and the interpreter make copies that Python cannot reach.
    """

    def __init__(self, epochs: Callable[[], EpochStore], clock: Callable[[], float] = time.monotonic) -> None:
        """`epochs` gives the store, and is asked when a key is needed; `clock` seconds that never go back."""
        self._epochs = epochs
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[_Slot, _Entry] = {}
        # Who unwraps a key; the others wait for it, so that an order's eight parallel reads ask once.
        self._turns: WeakValueDictionary[_Slot, threading.Lock] = WeakValueDictionary()
        self._forgotten = 0

    @contextmanager
    def opened(
        self, wrapped: bytes, *, order_id: UUID, role: Role, epoch: int, not_after: datetime, generation: int
    ) -> Iterator[bytearray]:
        """The clear key for the length of a `with` block; it is the caller's own copy, wiped at the end.

        Raises what `open_order_key` does. The caller has checked that the order is live.
        """
        slot = (order_id, role, generation)
        row = (wrapped, epoch, not_after)
        with self._lock:
            turn = self._turns.setdefault(slot, threading.Lock())
        with turn:
            key = self._cached(slot, row)
            if key is None:
                seen = self._forgotten
                clear = open_order_key(
                    self._epochs(), wrapped, order_id=order_id, role=role, epoch=epoch, not_after=not_after
                )
                key = bytearray(clear)
                self._keep(slot, row, key, seen)
        try:
            yield key
        finally:
            _wipe(key)

    def forget(self, order_id: UUID) -> None:
        """Drop the order's keys; also one that another thread is unwrapping right now will not be kept."""
        with self._lock:
            self._forgotten += 1
            self._drop([slot for slot in self._entries if slot[0] == order_id])

    def drop_expired(self) -> None:
        """Drop keys older than a minute. Every use does so; an idle process calls this now and then."""
        with self._lock:
            self._drop_expired()

    def _cached(self, slot: _Slot, row: _Row) -> bytearray | None:
        with self._lock:
            self._drop_expired()
            entry = self._entries.get(slot)
            # A copy: forgetting wipes the entry, and a writer must not find zeros in the middle of sealing.
            return bytearray(entry.key) if entry is not None and entry.row == row else None

    def _keep(self, slot: _Slot, row: _Row, key: bytearray, seen: int) -> None:
        with self._lock:
            if self._forgotten == seen:
                self._drop([slot] if slot in self._entries else [])
                stale_at = self._clock() + MAX_AGE.total_seconds()
                self._entries[slot] = _Entry(bytearray(key), row, stale_at)

    def _drop_expired(self) -> None:
        now = self._clock()
        self._drop([slot for slot, entry in self._entries.items() if entry.stale_at <= now])

    def _drop(self, slots: list[_Slot]) -> None:
        for slot in slots:
            _wipe(self._entries.pop(slot).key)


def _wipe(key: bytearray) -> None:
    key[:] = bytes(len(key))
