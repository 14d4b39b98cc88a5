"""Epoch keys wrapped by the root ring: what the file, memory and Redis stores have in common."""

import secrets
import threading
from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

from headshots.vault.envelope import KEY_BYTES, unwrap_order_key, wrap_order_key
from headshots.vault.errors import KeyGone
from headshots.vault.keys import OrderKeyName, RootRing, not_after_of, require_current


class Shelf(Protocol):
    """Where wrapped epoch keys lie. Every method raises StoreAway when the place cannot be asked."""

    def find(self, epoch: int) -> bytes | None:
        """The wrapped key; None when it was destroyed or never kept."""

    def keep(self, epoch: int, wrapped: bytes) -> None:
        """Keep the key, unless the epoch has one or was ever destroyed; then nothing changes."""

    def destroy(self, epochs: Iterable[int]) -> None:
        """Erase these keys, and remember that they were destroyed, also those never kept."""

    def epochs(self) -> list[int]:
        """The epochs with a key, oldest first."""


class RingEpochs:
    """An epoch store over a shelf: the shelf holds wrapped keys, the root ring opens them."""

    def __init__(self, shelf: Shelf, ring: RootRing) -> None:
        self._shelf = shelf
        self._ring = ring

    def wrap(self, order_key: bytes, name: OrderKeyName, now: datetime) -> bytes:
        require_current(name.epoch, now)
        if self._shelf.find(name.epoch) is None:
            self._shelf.keep(name.epoch, self._ring.wrap(secrets.token_bytes(KEY_BYTES), name.epoch))
        return wrap_order_key(
            self._epoch_key(name.epoch),  # asked again: another process may have been first
            order_key,
            order_id=name.order_id,
            role=name.role,
            epoch=name.epoch,
            not_after=name.not_after,
        )

    def unwrap(self, wrapped: bytes, name: OrderKeyName) -> bytes:
        return unwrap_order_key(
            self._epoch_key(name.epoch),
            wrapped,
            order_id=name.order_id,
            role=name.role,
            epoch=name.epoch,
            not_after=name.not_after,
        )

    def destroy(self, epoch: int) -> None:
        self._shelf.destroy([epoch])

    def destroy_due(self, now: datetime) -> list[int]:
        due = [epoch for epoch in self._shelf.epochs() if not_after_of(epoch) <= now]
        if due:
            self._shelf.destroy(due)
        return due

    def epochs(self) -> list[int]:
        return self._shelf.epochs()

    def _epoch_key(self, epoch: int) -> bytes:
        wrapped = self._shelf.find(epoch)
        if wrapped is None:
            raise KeyGone(epoch)
        return self._ring.unwrap(wrapped, epoch)


class MemoryShelf:
    """A dictionary: the keys end with this process, and no other process can open what they sealed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: dict[int, bytes] = {}
        self._destroyed: set[int] = set()

    def find(self, epoch: int) -> bytes | None:
        return self._keys.get(epoch)

    def keep(self, epoch: int, wrapped: bytes) -> None:
        with self._lock:
            if epoch not in self._destroyed:
                self._keys.setdefault(epoch, wrapped)

    def destroy(self, epochs: Iterable[int]) -> None:
        with self._lock:
            for epoch in epochs:
                self._destroyed.add(epoch)
                self._keys.pop(epoch, None)

    def epochs(self) -> list[int]:
        with self._lock:
            return sorted(self._keys)
