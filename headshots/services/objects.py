"""Where rows and sealed blobs meet: the row that says "this object may exist" always comes first."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path

from django.conf import settings
from django.db import transaction

from headshots.exceptions import NotFound
from headshots.models import Order, OrderKey, StoredObject
from headshots.states import LIVE_STATES
from headshots.vault.blobs import BlobStore, DiskBlobStore
from headshots.vault.cache import OrderKeys
from headshots.vault.envelope import Kind, ObjectName, Role, open_object, role_of, seal_object
from headshots.vault.errors import BlobMissing, Unreadable
from headshots.vault.keys import FileEpochStore, RootRing, new_order_key


def epochs() -> FileEpochStore:
    """The epoch store the settings name."""
    return _file_epochs(settings.DATA / "keys" / "epochs.sqlite3", settings.ROOT_KEYS)


def blobs() -> BlobStore:
    """The blob store the settings name."""
    return _disk_blobs(settings.DATA / "blobs")


def forget_keys(order: Order) -> None:
    """Drop the order's clear keys from this process; other processes drop theirs within a minute."""
    _order_keys(epochs()).forget(order.pk)


def drop_expired_keys() -> None:
    """Wipe clear keys that this process has held for a minute, also when nobody asks for them again."""
    _order_keys(epochs()).drop_expired()


@cache
def _order_keys(store: FileEpochStore) -> OrderKeys:
    return OrderKeys(store)


@cache
def _file_epochs(path: Path, root_keys: Path | None) -> FileEpochStore:
    ring = RootRing.load(root_keys) if root_keys else RootRing.load_or_create(path.with_name("root.keys"))
    return FileEpochStore(path, ring)


@cache
def _disk_blobs(root: Path) -> DiskBlobStore:
    return DiskBlobStore(root)


def create_keys(order: Order, now: datetime) -> None:
    """Give a new order its two wrapped keys, in the caller's transaction."""
    for role in Role:
        wrapped = new_order_key(epochs(), order_id=order.id, role=role, epoch=order.epoch, now=now)
        OrderKey.objects.create(order=order, role=role, wrapped=wrapped)


def intend(order: Order, kind: Kind, index: int, now: datetime) -> StoredObject:
    """Write the row that lets `put` write the object. Raises NotFound once the order was fenced."""
    with transaction.atomic():
        live = Order.objects.select_for_update().filter(
            pk=order.pk, generation=order.generation, state__in=LIVE_STATES
        )
        if not live.exists():
            raise NotFound
        return StoredObject.objects.create(
            order=order, kind=kind, index=index, generation=order.generation, created_at=now
        )


def put(stored: StoredObject, plaintext: bytes, now: datetime) -> None:
    """Seal and write the object of an intended row; fills its size and hash, which the caller saves."""
    with _order_key(stored.order, role_of(Kind(stored.kind)), now) as key:
        sealed = seal_object(key, name_of(stored), plaintext)
    blobs().put(name_of(stored).blob_name, sealed)
    stored.size_bytes = len(sealed)
    stored.sha256 = hashlib.sha256(sealed).hexdigest()


def mark_stored(stored: StoredObject) -> None:
    """Record, in the caller's transaction, that the object was written."""
    StoredObject.objects.filter(pk=stored.pk).update(
        state=StoredObject.State.STORED, size_bytes=stored.size_bytes, sha256=stored.sha256
    )


def read(stored: StoredObject, now: datetime) -> bytes:
    """The plaintext of a stored object. Raises NotFound when the order is not live, or it is unreadable."""
    try:
        sealed = blobs().get(name_of(stored).blob_name)
        with _order_key(stored.order, role_of(Kind(stored.kind)), now) as key:
            return open_object(key, name_of(stored), sealed)
    except (BlobMissing, Unreadable) as error:
        raise NotFound from error


def discard(stored: StoredObject) -> None:
    """Remove an object that came too late or was never wanted, and its row."""
    blobs().delete(name_of(stored).blob_name)
    StoredObject.objects.filter(pk=stored.pk).delete()


def name_of(stored: StoredObject) -> ObjectName:
    """The object's name, which is also the context it is sealed under."""
    return ObjectName(
        order_id=stored.order_id,
        object_id=stored.pk,
        kind=Kind(stored.kind),
        index=stored.index,
        generation=stored.generation,
    )


@contextmanager
def _order_key(order: Order, role: Role, now: datetime) -> Iterator[bytearray]:
    """The clear order key while the body runs. Raises NotFound as soon as the order is not live.

    The rows are asked even when the cache could answer: a fenced or expired order is unreadable at once.
    """
    row = (
        OrderKey.objects.filter(order__in=Order.objects.live(now).filter(pk=order.pk), role=role)
        .select_related("order")
        .first()
    )
    if row is None:
        forget_keys(order)
        raise NotFound
    with _order_keys(epochs()).opened(
        bytes(row.wrapped),
        order_id=order.pk,
        role=role,
        epoch=row.order.epoch,
        not_after=row.order.not_after,
        generation=row.order.generation,
    ) as key:
        yield key
