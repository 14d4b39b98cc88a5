"""Tombstones: blobs outside the database that say an order's purge has begun.

A tombstone is 20 bytes: `HST1`, then the order's end of life and the time of its fence, each in seconds since
1970 as 8 bytes, big-endian. It names nobody.

Until the store has an order's tombstone, the machine that deleted the order keeps it beside its marks.
"""

import logging
import re
import struct
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from headshots.exceptions import NotFound
from headshots.faults import faultpoint
from headshots.models import Order
from headshots.services import incarnation, marks, objects, storage
from headshots.states import LIVE_STATES
from headshots.vault import files
from headshots.vault.errors import BlobExists, BlobMissing, StoreAway
from pipelines.errors import Retryable

log = logging.getLogger(__name__)

# A copy of the database is worth restoring for as long as a key in it could be opened: until `not_after`. The
# day after it is for copies with a clock of their own, the hour for whoever puts them back.
KEPT_AFTER_END: Final = timedelta(hours=25)

_NEVER: Final = datetime(9000, 1, 1, tzinfo=UTC)
_MAGIC: Final = b"HST1"
_NAME: Final = re.compile(r"t/[0-9a-f]{32}")
_BATCH: Final = 500
ItemT = TypeVar("ItemT")


def write(order: Order, now: datetime) -> None:
    """Set the order's tombstone; a second one changes nothing. The fence has been committed before."""
    with suppress(BlobExists):
        objects.blobs().put(name_of(order.pk), _content(order, now))


def remember(order: Order, now: datetime) -> None:
    """Keep the order's tombstone on this machine, until `hand_over`. The keys' rows have been deleted before.

    Not that of an order past its end, which is unreadable in every copy of the database. A folder that takes
    no file is logged: no deletion waits for it.
    """
    if order.expires_at <= now:
        return
    try:
        if not _folder().exists():
            _folder().mkdir(mode=0o700, parents=True, exist_ok=True)
            files.sync_folder(_folder().parent)
        with suppress(FileExistsError):
            files.write_new(_folder() / order.pk.hex, _content(order, now))
    except OSError as error:
        log.error("no tombstone of order %s beside the keys: %s", order.pk, type(error).__name__)


def hand_over() -> None:
    """Set in the store what only this machine knows, whatever the database says of it by now.

    Raises what the store raises; the rest is for the next pass.
    """
    for order_id in _remembered():
        path = _folder() / order_id.hex
        with suppress(FileNotFoundError, BlobExists):  # another process was first
            objects.blobs().put(name_of(order_id), path.read_bytes())
        faultpoint("tombstone.handed_over")
        path.unlink(missing_ok=True)


def name_of(order_id: uuid.UUID) -> str:
    """The tombstone's name in the blob store."""
    return f"t/{order_id.hex}"


def exists(order_id: uuid.UUID) -> bool:
    """Whether the order has a tombstone, here or in the store."""
    return (_folder() / order_id.hex).exists() or storage.exists(name_of(order_id))


def require_none(order: Order) -> None:
    """Raises NotFound for an order that was purged once, and lets nothing be served from then on.

    What every read of a photo or picture asks: another machine may have purged it and this database not
    know. Raises Retryable("store_away") when the store cannot say.
    """
    try:
        is_entombed = exists(order.pk)
    except StoreAway as error:
        raise Retryable("store_away", str(error)) from error
    if is_entombed:
        # The fence is committed before the tombstone is set: still alive after the store was asked means an
        # older copy; not alive any more means that a purge began since the caller looked.
        if Order.objects.filter(pk=order.pk, state__in=LIVE_STATES).exists():
            incarnation.distrust()
        raise NotFound


def end_of(name: str) -> datetime:
    """When the keys of the order under this tombstone end. Raises BlobMissing.

    A tombstone with other content never ends: somebody should look at it.
    """
    content = objects.blobs().get(name)
    if len(content) != 20 or not content.startswith(_MAGIC):
        log.error("%s is not a tombstone", name)
        return _NEVER
    return datetime.fromtimestamp(struct.unpack(">Q", content[4:12])[0], UTC)


def batches() -> Iterator[list[uuid.UUID]]:
    """The orders that have a tombstone, some hundred at a time; remains of broken writes are left out.

    Those that this machine alone may know of come first, while the store need not answer.
    """
    yield from _batched(_remembered())
    for names in _batched(objects.blobs().list("t/")):
        yield [uuid.UUID(hex=name[2:]) for name in names if _NAME.fullmatch(name)]


def alive() -> Iterator[uuid.UUID]:
    """Orders that have a tombstone and that the database takes for alive: it is an older copy.

    The fence is committed before the tombstone is set, and the store is asked before the database.
    """
    for ids in batches():
        yield from Order.objects.filter(pk__in=ids, state__in=LIVE_STATES).values_list("pk", flat=True)


def prune(now: datetime) -> int:
    """Remove the tombstones whose orders' keys ended a day and an hour ago; gives how many.

    Remains of broken writes go too: whoever was writing one sets it again at the next pass.
    """
    removed = 0
    for names in _batched(objects.blobs().list("t/")):
        ids = [uuid.UUID(hex=name[2:]) for name in names if _NAME.fullmatch(name)]
        known = dict(Order.objects.filter(pk__in=ids).values_list("pk", "not_after"))
        for name in names:
            if not _NAME.fullmatch(name):
                objects.blobs().delete(name)
                continue
            with suppress(BlobMissing):  # another pass was first
                if (known.get(uuid.UUID(hex=name[2:])) or end_of(name)) + KEPT_AFTER_END <= now:
                    removed += objects.blobs().delete(name)
    return removed


def _content(order: Order, now: datetime) -> bytes:
    times = (int(order.not_after.timestamp()), int((order.fenced_at or now).timestamp()))
    return _MAGIC + struct.pack(">QQ", *times)


def _folder() -> Path:
    return marks.path_of("tombstones").with_suffix("")


def _remembered() -> list[uuid.UUID]:
    names = [path.name for path in _folder().iterdir()] if _folder().is_dir() else []
    return [uuid.UUID(hex=name) for name in names if _NAME.fullmatch(f"t/{name}")]


def _batched(items: Iterable[ItemT]) -> Iterator[list[ItemT]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
