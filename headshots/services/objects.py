"""Where rows and sealed blobs meet: the row that says "this object may exist" always comes first."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.db import transaction

from headshots.exceptions import NotFound, Refusal
from headshots.faults import faultpoint
from headshots.models import Order, OrderKey, StoredObject
from headshots.services import clock, incarnation
from headshots.states import LIVE_STATES
from headshots.vault.blobs import BlobStore, DiskBlobStore
from headshots.vault.cache import OrderKeys
from headshots.vault.envelope import Kind, ObjectName, Role, open_object, role_of, seal_object
from headshots.vault.epochs_ring import MemoryShelf, RingEpochs, Shelf
from headshots.vault.errors import BlobMissing, KeyGone, StoreAway, Unreadable
from headshots.vault.keys import EpochStore, RootRing, new_order_key, not_after_of, open_order_key
from pipelines.errors import Retryable


def epochs() -> EpochStore:
    """The epoch store that EPOCH_STORE names, the same for the whole process.

    The first call raises StoreAway when it does not answer, and UnsafeStore when it is not fit for keys.
    """
    return _epochs(*_epoch_settings())


def blobs() -> BlobStore:
    """The blob store that BLOB_STORE names, the same for the whole process; raises as `epochs` does."""
    return _blobs(settings.BLOB_STORE, settings.S3_ENDPOINT_URL, settings.DATA / "blobs")


def prefix_of(order: Order) -> str:
    """What the names of all the order's objects begin with in the blob store."""
    return f"o/{order.pk.hex}/"


def forget_keys(order: Order) -> None:
    """Drop the order's clear keys from this process; other processes drop theirs within a minute."""
    _order_keys(*_epoch_settings()).forget(order.pk)


def drop_expired_keys() -> None:
    """Wipe clear keys that this process has held for a minute, also when nobody asks for them again."""
    _order_keys(*_epoch_settings()).drop_expired()


def _epoch_settings() -> tuple[str, Path, Path | None]:
    return settings.EPOCH_STORE, settings.DATA / "keys", settings.ROOT_KEYS


@cache
def _order_keys(address: str, folder: Path, root_keys: Path | None) -> OrderKeys:
    # Not the store itself: keys can be forgotten also while it cannot be reached.
    return OrderKeys(lambda: _epochs(address, folder, root_keys))


@cache
def _epochs(address: str, folder: Path, root_keys: Path | None) -> EpochStore:
    if address == "kms":
        from headshots.vault import aws
        from headshots.vault.epochs_kms import KmsEpochs

        return KmsEpochs(aws.client("kms"))
    ring = RootRing.load(root_keys) if root_keys else RootRing.load_or_create(folder / "root.keys")
    return RingEpochs(_shelf(address, folder / "epochs.sqlite3"), ring)


def _shelf(address: str, path: Path) -> Shelf:
    if address == "memory":
        return MemoryShelf()
    if address == "file":
        from headshots.vault.epochs_file import FileShelf

        return FileShelf(path)
    from headshots.vault.epochs_redis import RedisShelf

    return RedisShelf(address)


@cache
def _blobs(address: str, endpoint_url: str | None, root: Path) -> BlobStore:
    if address == "disk":
        return DiskBlobStore(root)
    from headshots.vault.blobs_s3 import S3BlobStore

    return S3BlobStore.connect(address, endpoint_url)


@contextmanager
def _retried() -> Iterator[None]:
    """A store that is away is nobody's fault: a customer is asked to come again, a worker tries again."""
    try:
        yield
    except StoreAway as error:
        raise Retryable("store_away", str(error)) from error


def create_keys(order: Order, now: datetime) -> None:
    """Give a new order its two wrapped keys, in the caller's transaction.

    Raises Retryable("store_away"), or Refusal("clock_skew") when this hour's key was destroyed already, by a
    clock that was ahead: then no photo can be taken before the next hour.
    """
    for role in Role:
        try:
            with _retried():
                wrapped = new_order_key(epochs(), order_id=order.id, role=role, epoch=order.epoch, now=now)
        except KeyGone as error:
            raise Refusal("clock_skew") from error
        OrderKey.objects.create(order=order, role=role, wrapped=wrapped)


def wrap_salt(holder: UUID, epoch: int, now: datetime) -> bytes:
    """A new random salt that nobody sees, wrapped in the place of the photos' key of an order `holder`.

    Raises as `create_keys` does.
    """
    try:
        with _retried():
            return new_order_key(epochs(), order_id=holder, role=Role.SELFIES, epoch=epoch, now=now)
    except KeyGone as error:
        raise Refusal("clock_skew") from error


def open_salt(wrapped: bytes, holder: UUID, epoch: int) -> bytes:
    """The 32 bytes of a salt. Raises Unreadable when its hour's key is destroyed, Retryable("store_away")."""
    with _retried():
        return bytes(
            open_order_key(
                epochs(),
                wrapped,
                order_id=holder,
                role=Role.SELFIES,
                epoch=epoch,
                not_after=not_after_of(epoch),
            )
        )


def intend(order: Order, kind: Kind, index: int, now: datetime) -> StoredObject:
    """Write the row that lets `put` write the object. Raises NotFound once the order was fenced."""
    with transaction.atomic():
        require_unfenced(order)
        return StoredObject.objects.create(
            order=order, kind=kind, index=index, generation=order.generation, created_at=now
        )


def require_unfenced(order: Order) -> None:
    """Keep the fence away until the caller's transaction ends. Raises NotFound when it was set before."""
    live = Order.objects.select_for_update().filter(
        pk=order.pk, generation=order.generation, state__in=LIVE_STATES
    )
    if not live.exists():
        raise NotFound


def put(stored: StoredObject, plaintext: bytes, now: datetime) -> None:
    """Seal and write the object of an intended row, which is given its size and hash before that.

    So a receipt can count what was written by who died before `mark_stored`. Raises NotFound when the order
    is not live, its key is lost or the row is gone, Retryable("store_away"), or what the blob store raises.
    """
    sealed = _sealed(stored.order, name_of(stored), plaintext, now)
    sha256 = hashlib.sha256(sealed).hexdigest()
    if not StoredObject.objects.filter(pk=stored.pk).update(size_bytes=len(sealed), sha256=sha256):
        raise NotFound
    with _retried():
        blobs().put(name_of(stored).blob_name, sealed)


def mark_stored(stored: StoredObject) -> None:
    """Record, in the caller's transaction, that the object was written."""
    StoredObject.objects.filter(pk=stored.pk).update(state=StoredObject.State.STORED)


def read(stored: StoredObject, now: datetime) -> bytes:
    """The plaintext of a stored object.

    Raises NotFound when the order is not live, or it is unreadable; Retryable("store_away").
    """
    try:
        with _retried():
            sealed = blobs().get(name_of(stored).blob_name)
            with _order_key(stored.order, role_of(Kind(stored.kind)), now) as key:
                return open_object(key, name_of(stored), sealed)
    except (BlobMissing, Unreadable) as error:
        raise NotFound from error


def seal_for_row(order: Order, name: ObjectName, plaintext: bytes, now: datetime) -> bytes:
    """What a row may hold of an order instead of the store: sealed under the key of the name's kind.

    Raises NotFound when the order is not live or its key is lost, Retryable("store_away").
    """
    return bytes(_sealed(order, name, plaintext, now))


def _sealed(order: Order, name: ObjectName, plaintext: bytes, now: datetime) -> bytearray:
    try:
        with _retried(), _order_key(order, role_of(name.kind), now) as key:
            return seal_object(key, name, plaintext)
    except Unreadable as error:
        raise NotFound from error


def open_from_row(order: Order, name: ObjectName, sealed: bytes, now: datetime) -> bytes:
    """The plaintext of what `seal_for_row` gave; raises as `read` does."""
    try:
        with _retried(), _order_key(order, role_of(name.kind), now) as key:
            return open_object(key, name, sealed)
    except Unreadable as error:
        raise NotFound from error


def open_at_the_end(order: Order, name: ObjectName, sealed: bytes) -> bytes:
    """The same for an order that has ended, until its key is shredded; the clear key is kept nowhere.

    Only for what must be known after the deletion has begun: where its last mail goes. Raises NotFound,
    StoreAway.
    """
    try:
        row = OrderKey.objects.get(order=order, role=role_of(name.kind))
        key = open_order_key(
            epochs(),
            bytes(row.wrapped),
            order_id=order.pk,
            role=role_of(name.kind),
            epoch=order.epoch,
            not_after=order.not_after,
        )
        return open_object(key, name, sealed)
    except (OrderKey.DoesNotExist, Unreadable) as error:
        raise NotFound from error


def discard(stored: StoredObject) -> None:
    """Remove an object that came too late or was never wanted, and its row."""
    faultpoint("work.discarding")
    blobs().delete(name_of(stored).blob_name)
    faultpoint("work.discarded")
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

    The rows are asked even when the cache could answer: a fenced or expired order is unreadable at once. So
    is one whose end came since the caller looked at the clock, and all of a database put back from a copy.
    """
    now = max(now, clock.now())
    if incarnation.is_restored():
        raise NotFound
    row = (
        OrderKey.objects.filter(order__in=Order.objects.live(now).filter(pk=order.pk), role=role)
        .select_related("order")
        .first()
    )
    if row is None:
        forget_keys(order)
        raise NotFound
    with _order_keys(*_epoch_settings()).opened(
        bytes(row.wrapped),
        order_id=order.pk,
        role=role,
        epoch=row.order.epoch,
        not_after=row.order.not_after,
        generation=row.order.generation,
    ) as key:
        yield key
