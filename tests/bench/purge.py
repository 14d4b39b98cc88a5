"""python -m tests.bench.purge: how long a thousand deletions that are due at once wait for each other.

All orders end at the same moment, on the disk store, with SQLite and, where TEST_DATABASE_URL names a
server, with Postgres. "Shred" is the time until an order's keys are gone and nothing of it can be read;
"purge" is the time until the store was seen to list and to have none of its objects. Both are counted from
the start of the pass that finds the orders due; a pass comes each half minute, so up to 30 s come before it.
The same number of files is then removed by a bare loop of unlink, in the same run, for comparison.

The inspection (`manage.py purge --verify`) is timed over living orders. Rows and objects are synthetic: an
object is a sealed object's header and random bytes. The JSON is kept beside this file.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tests.bench.installation import forget_peak, installed, machine, peak_mib, resident_mib, spread

OBJECTS_PER_ORDER: Final = 60
OBJECT_BYTES: Final = 2048
TARGETS: Final = {"shred_p99_seconds": 2, "purge_max_seconds": 600}


@dataclass(frozen=True, slots=True)
class Size:
    """How much is purged and inspected."""

    due_orders: int
    inspected_orders: int


FULL: Final = Size(due_orders=1000, inspected_orders=1667)
QUICK: Final = Size(due_orders=8, inspected_orders=4)


def main() -> None:
    """Run on each database in a process of its own, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few orders; nothing is kept")
    parser.add_argument("--here", action="store_true", help="in this process, on DATABASE_URL")
    options = parser.parse_args()
    if options.here:
        with installed(database_url=os.environ.get("DATABASE_URL", "")) as folder:
            sys.stdout.write(json.dumps(measure(folder, QUICK if options.quick else FULL)))
        return
    result: dict[str, Any] = {
        **machine(),
        "targets": TARGETS,
        "databases": {name: _run_on(url, options.quick) for name, url in _databases()},
    }
    text = json.dumps(result, indent=1)
    if not options.quick:
        (Path(__file__).parent / "results" / "purge.json").write_text(text + "\n")
    sys.stdout.write(text + "\n")


def _databases() -> Iterator[tuple[str, str]]:
    yield "sqlite", ""
    if url := os.environ.get("TEST_DATABASE_URL"):
        with _postgres_of_our_own(url) as own:
            yield "postgresql", own


@contextmanager
def _postgres_of_our_own(url: str) -> Iterator[str]:
    import psycopg
    from psycopg import sql

    name = f"bench_{uuid.uuid4().hex}"
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield urlsplit(url)._replace(path=f"/{name}").geturl()
        finally:
            server.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))


def _run_on(url: str, is_quick: bool) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.purge", "--here", *(["--quick"] if is_quick else [])]
    done = subprocess.run(command, env=os.environ | {"DATABASE_URL": url}, check=True, stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout))


def measure(folder: Path, size: Size) -> dict[str, Any]:
    """The figures of one database. Raises AssertionError when an order was not purged."""
    from django.db import connection

    from headshots.services import clock

    now = clock.now()
    inspected = measure_inspection(folder, size.inspected_orders, now)
    purged = measure_purge(folder, size.due_orders, now)
    with connection.cursor() as cursor:
        vendor = connection.vendor
        cursor.execute("SELECT sqlite_version()" if vendor == "sqlite" else "SHOW server_version")
        version = cursor.fetchone()[0]
    return {"version": version, "purge": purged, "inspection": inspected}


def measure_purge(folder: Path, count: int, now: datetime) -> dict[str, Any]:
    """One pass over `count` orders that are due, and the next one, which looks again and writes receipts."""
    from headshots.models import Order, OrderKey, Receipt
    from headshots.services import purge

    make_orders(folder, count, ends_at=now)
    with _timed() as reached:
        started = time.perf_counter()
        tally = purge.run(now)
        pass_seconds = time.perf_counter() - started
    assert (tally.begun, tally.waiting, tally.failed) == (count, count, 0), tally
    ended = Order.objects.filter(expires_at=now)
    assert not OrderKey.objects.filter(order__in=ended).exists()
    started = time.perf_counter()
    tally = purge.run(now + timedelta(minutes=30))
    receipts_seconds = time.perf_counter() - started
    assert tally.purged == Receipt.objects.count() == count, tally
    bare_seconds = unlink_as_many(folder, count)
    return {
        "orders": count,
        "objects": count * OBJECTS_PER_ORDER,
        "shred_seconds": spread([at for what, at in reached if what == "shredded"]),
        "purge_seconds": spread([at for what, at in reached if what == "absent"]),
        "pass_seconds": round(pass_seconds, 2),
        "second_look_and_receipts_seconds": round(receipts_seconds, 2),
        "bare_unlink_seconds": round(bare_seconds, 2),
        "pass_over_bare_unlink": round(pass_seconds / bare_seconds, 1),
    }


@contextmanager
def _timed() -> Iterator[list[tuple[str, float]]]:
    """Notes when each order's keys were gone, from the journal too, and when its objects were seen absent."""
    from headshots.services import purge, shredding

    reached: list[tuple[str, float]] = []
    in_journal = 0
    started = time.perf_counter()
    delete_key_rows, truncate_journal, advance = (
        shredding.delete_key_rows,
        shredding.truncate_journal,
        purge.advance,
    )

    def delete_and_count(orders: Sequence[Any], now: datetime) -> None:
        nonlocal in_journal
        delete_key_rows(orders, now)
        in_journal += len(orders)

    def truncate_and_note() -> None:
        nonlocal in_journal
        truncate_journal()
        reached.extend([("shredded", time.perf_counter() - started)] * in_journal)
        in_journal = 0

    def advance_and_note(*args: Any, **options: Any) -> str:
        state = advance(*args, **options)
        reached.append(("absent", time.perf_counter() - started))
        return state

    shredding.delete_key_rows, shredding.truncate_journal = delete_and_count, truncate_and_note
    purge.advance = advance_and_note
    try:
        yield reached
    finally:
        shredding.delete_key_rows, shredding.truncate_journal = delete_key_rows, truncate_journal
        purge.advance = advance


def measure_inspection(folder: Path, count: int, now: datetime) -> dict[str, Any]:
    """One full inspection of `count` living orders."""
    from headshots.services import purge, verification

    make_orders(folder, count, ends_at=now + timedelta(hours=5))
    purge.run(now)
    before = resident_mib()
    forget_peak()
    report = verification.inspect(now, is_full=True)
    assert report.is_clean, str(report)
    assert report.objects_seen == count * OBJECTS_PER_ORDER
    return {
        "objects": report.objects_seen,
        "seconds": round(report.seconds, 2),
        "objects_per_second": round(report.objects_seen / report.seconds),
        "peak_mib": round(peak_mib(), 1),
        "growth_mib": round(peak_mib() - before, 1),
    }


def make_orders(folder: Path, count: int, *, ends_at: datetime) -> None:
    """Orders with all their rows, and their objects in the disk store; they expire at `ends_at`."""
    from headshots.models import Order, OrderKey, StoredObject
    from headshots.services import objects
    from headshots.vault.envelope import Kind, Role
    from headshots.vault.keys import epoch_of, new_order_key, not_after_of
    from headshots.vault.receipts import new_receipt_id

    epoch = epoch_of(ends_at - timedelta(hours=23))
    made = [
        Order(
            receipt_id=new_receipt_id(),
            token_sha256=os.urandom(32).hex(),
            state="ready",
            engine="preview",
            tier="premium",
            headshots=50,
            long_edge=3840,
            is_watermarked=False,
            price_cents=0,
            seed_root=os.urandom(32),
            epoch=epoch,
            created_at=ends_at - timedelta(hours=23),
            expires_at=ends_at,
            not_after=max(not_after_of(epoch), ends_at + timedelta(minutes=1)),
        )
        for _ in range(count)
    ]
    Order.objects.bulk_create(made, batch_size=500)
    wrapped = new_order_key(
        objects.epochs(),
        order_id=made[0].pk,
        role=Role.RESULTS,
        epoch=epoch,
        now=ends_at - timedelta(hours=23),
    )
    OrderKey.objects.bulk_create(
        [OrderKey(order=order, role=role, wrapped=wrapped) for order in made for role in Role], batch_size=500
    )
    for order in made:
        stored = [
            StoredObject(
                order=order,
                kind=Kind.HEADSHOT if place % 2 else Kind.PREVIEW,
                index=1 + place // 2,
                generation=1,
                state="stored",
                size_bytes=OBJECT_BYTES,
                sha256=os.urandom(32).hex(),
                created_at=ends_at - timedelta(hours=23),
            )
            for place in range(OBJECTS_PER_ORDER)
        ]
        StoredObject.objects.bulk_create(stored)
        place = folder / "blobs" / "o" / order.pk.hex
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        for each in stored:
            header = objects.name_of(each).header
            (place / each.pk.hex).write_bytes(header + os.urandom(OBJECT_BYTES - len(header)))


def unlink_as_many(folder: Path, count: int) -> float:
    """Seconds that a loop of unlink and rmdir takes for as many files, without any of the promises."""
    root = folder / "bare"
    for number in range(count):
        place = root / f"{number}"
        place.mkdir(parents=True)
        for file in range(OBJECTS_PER_ORDER):
            (place / f"{file}").write_bytes(os.urandom(OBJECT_BYTES))
    started = time.perf_counter()
    for place in root.iterdir():
        for path in place.iterdir():
            path.unlink()
        place.rmdir()
    seconds = time.perf_counter() - started
    shutil.rmtree(root)
    return seconds


if __name__ == "__main__":
    main()
