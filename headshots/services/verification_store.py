"""Checks 1 to 7: what the store holds against what the rows say it may hold.

The store is listed first and the rows are read after it. A row is written before its object and deleted after
it, so an object without a row at that moment is nobody's, however young it is.
"""

import random
import re
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Final, TypeVar

from django.db.models import F, Q

from headshots.models import Order, Shot, StoredObject
from headshots.services import objects, purge, storage
from headshots.services.verification_types import PATIENCE, Finding, Look
from headshots.states import LIVE_STATES, OrderState, ShotState
from headshots.vault.envelope import Kind, ObjectName
from headshots.vault.errors import BlobMissing

BATCH: Final = 1000  # rows and names held at a time
SAMPLE: Final = 50  # older objects whose head is read again at each look; new ones are all read
NEW: Final = 2 * PATIENCE  # two looks see each new object
DAY: Final = timedelta(hours=24)

_OBJECT: Final = re.compile(r"o/([0-9a-f]{32})/([0-9a-f]{32})")
_PART: Final = re.compile(r"o/[0-9a-f]{32}/([0-9a-f]{32})\.[0-9a-f]{16}\.part")
_STORED: Final = StoredObject.State.STORED
ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A StoredObject and its order's state, as they were read."""

    id: uuid.UUID
    order_id: uuid.UUID
    state: str
    kind: int
    index: int
    generation: int
    created_at: datetime
    order_state: str

    @property
    def name(self) -> ObjectName:
        return ObjectName(
            order_id=self.order_id,
            object_id=self.id,
            kind=Kind(self.kind),
            index=self.index,
            generation=self.generation,
        )


@dataclass(slots=True)
class _Sample:
    """A random choice of rows out of a stream of unknown length."""

    rows: list[_Row] = field(default_factory=list)
    seen: int = 0

    def offer(self, row: _Row) -> None:
        self.seen += 1
        if len(self.rows) < SAMPLE:
            self.rows.append(row)
        elif (place := random.randrange(self.seen)) < SAMPLE:
            self.rows[place] = row


def compare(look: Look) -> Iterator[Finding]:
    """Checks 1 to 5 and 12: every object against its row, and every row against its object."""
    # A scratch database without a name: SQLite keeps it in a file of its own that is gone with the
    # connection, and a few hundred kilobytes of it in memory. It holds random ids.
    with closing(sqlite3.connect("", isolation_level=None)) as scratch:
        odd = _list_into(scratch, look)
        sample = _Sample()
        orphans: list[tuple[uuid.UUID, uuid.UUID]] = []
        for object_id, listed_order, row in _merged(_listed(scratch), _rows()):
            if row is None or (listed_order is not None and listed_order != row.order_id):
                assert listed_order is not None
                orphans.append((listed_order, object_id))
                if len(orphans) == BATCH:
                    yield from _judge_orphans(orphans, look)
                    orphans.clear()
            elif listed_order is None:
                yield from _judge_missing(row)
            else:
                yield from _judge_pair(row, sample, look)
        yield from _judge_orphans(orphans, look)
        for row in sample.rows:
            yield from _judge_head(row, look)
        for batch in _batched(odd):
            yield from _judge_odd(batch, look)


def hidden_versions_and_uploads(look: Look) -> Iterator[Finding]:
    """Checks 6 and 7: what a bucket keeps out of sight, where the store has such things."""
    versions, uploads = objects.blobs().hidden("o/")
    for code, count in (("hidden_version", versions), ("unfinished_upload", uploads)):
        if count:
            yield Finding(code=code, count=count)


# --- the two listings -------------------------------------------------------------------------------------


def _list_into(scratch: sqlite3.Connection, look: Look) -> Iterator[str]:
    """Write the store's listing to the scratch table.

    Gives the names that are no object's, from the table too.
    """
    scratch.execute("CREATE TABLE listed (object BLOB PRIMARY KEY, owner BLOB) WITHOUT ROWID")
    scratch.execute("CREATE TABLE odd (name TEXT)")
    for names in _batched(objects.blobs().list("o/")):
        look.objects_seen += len(names)
        matched = [(name, _OBJECT.fullmatch(name)) for name in names]
        scratch.execute("BEGIN")
        scratch.executemany(
            "INSERT OR REPLACE INTO listed (object, owner) VALUES (?, ?)",
            [(bytes.fromhex(found[2]), bytes.fromhex(found[1])) for _, found in matched if found],
        )
        scratch.executemany(
            "INSERT INTO odd (name) VALUES (?)", [(name,) for name, found in matched if not found]
        )
        scratch.execute("COMMIT")
    return (name for (name,) in scratch.execute("SELECT name FROM odd"))


def _listed(scratch: sqlite3.Connection) -> Iterator[tuple[uuid.UUID, uuid.UUID]]:
    """(object, order) of every listed object, by object."""
    for object_id, order_id in scratch.execute("SELECT object, owner FROM listed ORDER BY object"):
        yield uuid.UUID(bytes=object_id), uuid.UUID(bytes=order_id)


def _rows() -> Iterator[_Row]:
    """Every StoredObject, by id; each batch is a query of its own, so no snapshot is held open."""
    fields = ("id", "order_id", "state", "kind", "index", "generation", "created_at")
    after = uuid.UUID(int=0)
    while True:
        batch = list(
            StoredObject.objects.filter(pk__gt=after)
            .order_by("pk")
            .values(*fields, order_state=F("order__state"))[:BATCH]
        )
        for values in batch:
            yield _Row(**values)
        if len(batch) < BATCH:
            return
        after = batch[-1]["id"]


def _merged(
    listed: Iterator[tuple[uuid.UUID, uuid.UUID]], rows: Iterator[_Row]
) -> Iterator[tuple[uuid.UUID, uuid.UUID | None, _Row | None]]:
    """Both sorted listings side by side.

    (object, its order as listed, its row), either of which may be missing.
    """
    name, row = next(listed, None), next(rows, None)
    while name is not None or row is not None:
        if row is None or (name is not None and name[0] < row.id):
            assert name is not None
            yield *name, None
            name = next(listed, None)
        elif name is None or row.id < name[0]:
            yield row.id, None, row
            row = next(rows, None)
        else:
            yield *name, row
            name, row = next(listed, None), next(rows, None)


def _batched(items: Iterable[ItemT]) -> Iterator[list[ItemT]]:
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH)):
        yield batch


# --- judgements -------------------------------------------------------------------------------------------


def _judge_orphans(orphans: Sequence[tuple[uuid.UUID, uuid.UUID]], look: Look) -> Iterator[Finding]:
    states = dict(Order.objects.filter(pk__in={order for order, _ in orphans}).values_list("pk", "state"))
    for order_id, object_id in orphans:
        state = states.get(order_id)
        if state == OrderState.PURGING:
            continue  # the purge is at it: what stays there shows as a late deletion
        name = f"o/{order_id.hex}/{object_id.hex}"
        if not storage.exists(name):
            continue  # deleted while we were looking
        if look.is_fixing:
            objects.blobs().delete(name)
        is_living = state in LIVE_STATES
        yield Finding(code="object_without_row" if is_living else "object_of_ended_order", examples=(name,))


def _judge_missing(row: _Row) -> Iterator[Finding]:
    """A row whose object was not listed; asked once more, since it may have been written meanwhile.

    The object of a surplus shot goes before its row says so; the sweep sees to the row.
    """
    if row.state != _STORED or row.order_state not in LIVE_STATES:
        return
    is_still_stored = StoredObject.objects.filter(pk=row.id, state=_STORED, order__state__in=LIVE_STATES)
    surplus = Shot.objects.filter(Q(headshot=row.id) | Q(preview=row.id), state=ShotState.SURPLUS)
    if not storage.exists(row.name.blob_name) and is_still_stored.exists() and not surplus.exists():
        yield Finding(code="row_without_object", examples=(row.name.blob_name,))


def _judge_pair(row: _Row, sample: _Sample, look: Look) -> Iterator[Finding]:
    if row.order_state == OrderState.PURGING:
        return
    if row.state == StoredObject.State.DELETED:
        if look.is_fixing:
            objects.blobs().delete(row.name.blob_name)
        yield Finding(code="object_of_ended_order", examples=(row.name.blob_name,))
        return
    if row.created_at <= look.now - DAY:
        if look.is_fixing:
            purge.request(Order.objects.get(pk=row.order_id), actor="expired", now=look.now)
        yield Finding(code="object_older_than_a_day", examples=(row.name.blob_name,))
        return
    if look.is_full or row.created_at > look.now - NEW:
        yield from _judge_head(row, look)
    else:
        sample.offer(row)


def _judge_head(row: _Row, look: Look) -> Iterator[Finding]:
    """A sealed object begins with its magic, suite, kind and two zero bytes.

    A picture in clear never does.
    """
    expected = row.name.header
    try:
        head = objects.blobs().get(row.name.blob_name)[: len(expected)]
    except BlobMissing:
        return
    if head != expected:
        if look.is_fixing:
            objects.blobs().delete(row.name.blob_name)
            StoredObject.objects.filter(pk=row.id).delete()
        yield Finding(code="object_not_sealed", examples=(row.name.blob_name,))


def _judge_odd(names: Sequence[str], look: Look) -> Iterator[Finding]:
    """Remains of broken writes. One that is still being written has a young row that says so."""
    parts = {name: uuid.UUID(hex=found[1]) for name in names if (found := _PART.fullmatch(name))}
    under_way = set(
        StoredObject.objects.filter(
            pk__in=parts.values(),
            state=StoredObject.State.INTENDED,
            created_at__gt=look.now - PATIENCE,
        ).values_list("pk", flat=True)
    )
    for name in names:
        if parts.get(name) in under_way:
            continue
        if look.is_fixing:
            objects.blobs().delete(name)
        yield Finding(code="unfinished_file", examples=(name,))
