"""The key hierarchy: hours, the root ring, and the seam behind which an hour's key wraps order keys."""

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol, Self
from uuid import UUID

from headshots.vault import files
from headshots.vault.envelope import KEY_BYTES, Role, unwrap_epoch_key, wrap_epoch_key
from headshots.vault.errors import BadKeyFile, KeyGone, Unreadable

EPOCH: Final = timedelta(hours=1)
EPOCH_LIFE: Final = timedelta(hours=24)

_UNIX: Final = datetime(1970, 1, 1, tzinfo=UTC)


def epoch_of(at: datetime) -> int:
    """The number of the UTC hour that `at` (an aware datetime) lies in, counted from 1970."""
    return (at - _UNIX) // EPOCH


def not_after_of(epoch: int) -> datetime:
    """When the epoch's key dies: 24 hours after the hour began, so within 24 hours of any photo in it."""
    return _UNIX + epoch * EPOCH + EPOCH_LIFE


def require_current(epoch: int, now: datetime) -> None:
    """Raises KeyGone for an epoch whose life has ended, ValueError for an hour that has not begun."""
    if now >= not_after_of(epoch):
        raise KeyGone(epoch)
    if epoch > epoch_of(now):
        raise ValueError(f"epoch {epoch} has not begun; its key would outlive its 24 hours")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderKeyName:
    """Everything a wrapped order key is bound to; taken from the order's row."""

    order_id: UUID
    role: Role
    epoch: int
    not_after: datetime


class EpochStore(Protocol):
    """Where the keys of the hours live, and nowhere else: never in the main database, never in a backup.

    An hour's key is never given out; some stores do not have it themselves. Every method raises StoreAway
    when the store cannot be asked.
    """

    def wrap(self, order_key: bytes, name: OrderKeyName, now: datetime) -> bytes:
        """The order key under its hour's key, which the first call makes, once for all who ask together.

        Raises KeyGone when the hour's key was destroyed or its life has ended; ValueError for an hour not
        yet begun.
        """

    def unwrap(self, wrapped: bytes, name: OrderKeyName) -> bytes:
        """The clear order key, 32 bytes.

        Raises KeyGone when the hour's key was destroyed, has expired or was never made, else Unreadable.
        """

    def destroy(self, epoch: int) -> None:
        """Destroy the hour's key for ever; it cannot be made again. Doing it twice is harmless."""

    def destroy_due(self, now: datetime) -> list[int]:
        """Destroy every key whose life has ended; gives their epochs, oldest first."""

    def epochs(self) -> list[int]:
        """The epochs that have a key, oldest first."""


def new_order_key(epochs: EpochStore, *, order_id: UUID, role: Role, epoch: int, now: datetime) -> bytes:
    """A fresh order key, wrapped for its row; the clear key is given to nobody.

    120 bytes, or some 200 from KMS. Raises KeyGone when the epoch has ended, and StoreAway.
    """
    name = OrderKeyName(order_id=order_id, role=role, epoch=epoch, not_after=not_after_of(epoch))
    return epochs.wrap(secrets.token_bytes(KEY_BYTES), name, now)


def open_order_key(
    epochs: EpochStore, wrapped: bytes, *, order_id: UUID, role: Role, epoch: int, not_after: datetime
) -> bytes:
    """The clear order key. Raises KeyGone when the epoch key is destroyed, else Unreadable, and StoreAway."""
    name = OrderKeyName(order_id=order_id, role=role, epoch=epoch, not_after=not_after)
    return epochs.unwrap(wrapped, name)
