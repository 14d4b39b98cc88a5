"""python -m tests.bench.archive: what a gibibyte of ZIP costs the web process that streams it.

One order with sealed pictures, read through `services.delivery` as the web process does it; the pieces are
thrown away. Once with pictures of 4 MiB, which is what a 4K headshot has, and once with 20 MiB, more than any
that the pipeline makes. The growth of memory is the peak while streaming over what the process held after a
first small archive. The rate is compared with reading the same files and doing nothing with them, in the same
run. The JSON is kept beside this file.
"""

import argparse
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tests.bench.installation import MIB, forget_peak, installed, machine, peak_mib, resident_mib

ARCHIVE_MIB: Final = 1024
PICTURES_MIB: Final = (4, 20)
TARGET_GROWTH_MIB: Final = 64
MEMORY: Final = Path("/dev/shm")  # so that no disk is measured, where there is one


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few pictures; nothing is kept")
    options = parser.parse_args()
    size_mib = 24 if options.quick else ARCHIVE_MIB
    with installed(parent=MEMORY if MEMORY.is_dir() else None) as folder:
        result = {
            **machine(),
            "target_growth_mib": TARGET_GROWTH_MIB,
            "archives": [measure(folder, size_mib, picture_mib) for picture_mib in PICTURES_MIB],
        }
    text = json.dumps(result, indent=1)
    if not options.quick:
        (Path(__file__).parent / "results" / "archive.json").write_text(text + "\n")
    sys.stdout.write(text + "\n")


def measure(folder: Path, archive_mib: int, picture_mib: int) -> dict[str, Any]:
    """Growth and rate for one size of picture. Raises AssertionError when the archive is not complete."""
    from headshots.models import StoredObject
    from headshots.services import clock, delivery, purge
    from headshots.vault.blobs import DiskBlobStore

    now = clock.now()
    count = -(-archive_mib // picture_mib)
    warm, order = make_order(1, MIB // 8, now), make_order(count, picture_mib * MIB, now)
    sum(map(len, delivery.stream_archive(warm, now)))
    before = resident_mib()
    forget_peak()
    started = time.perf_counter()
    total = sum(map(len, delivery.stream_archive(order, now)))
    seconds = time.perf_counter() - started
    growth = peak_mib() - before
    assert total > count * picture_mib * MIB
    store = DiskBlobStore(folder / "blobs")
    names = [f"o/{order.pk.hex}/{pk.hex}" for pk in _ids(order, StoredObject)]
    started = time.perf_counter()
    assert sum(len(store.get(name)) for name in names) > count * picture_mib * MIB
    bare_seconds = time.perf_counter() - started
    for each in (warm, order):
        purge.request(each, actor="customer", now=now)
    return {
        "archive_mib": round(total / MIB),
        "pictures": count,
        "picture_mib": picture_mib,
        "before_mib": round(before, 1),
        "growth_mib": round(growth, 1),
        "seconds": round(seconds, 2),
        "mib_per_second": round(total / MIB / seconds),
        "seconds_over_bare_read": round(seconds / bare_seconds, 1),
    }


def _ids(order: Any, table: Any) -> Iterator[Any]:
    return iter(table.objects.filter(order=order).values_list("pk", flat=True))


def make_order(count: int, picture_bytes: int, now: datetime) -> Any:
    """A finished premium order with so many sealed pictures of random bytes."""
    from headshots.models import Order, Shot, StyleVersion
    from headshots.services import objects
    from headshots.services.orders import SERVICE_MARGIN
    from headshots.vault.envelope import Kind
    from headshots.vault.keys import epoch_of, not_after_of
    from headshots.vault.receipts import new_receipt_id

    epoch = epoch_of(now)
    order = Order.objects.create(
        receipt_id=new_receipt_id(),
        token_sha256=secrets.token_hex(32),
        state="ready",
        engine="preview",
        tier="premium",
        headshots=count,
        long_edge=3840,
        is_watermarked=False,
        price_cents=0,
        seed_root=secrets.token_bytes(32),
        epoch=epoch,
        created_at=now,
        expires_at=not_after_of(epoch) - SERVICE_MARGIN,
        not_after=not_after_of(epoch),
    )
    objects.create_keys(order, now)
    style = StyleVersion.objects.all()[0]
    for index in range(1, count + 1):
        stored = objects.intend(order, Kind.HEADSHOT, index, now)
        objects.put(stored, os.urandom(picture_bytes), now)
        objects.mark_stored(stored)
        Shot.objects.create(
            order=order,
            index=index,
            style_version=style,
            seed=1,
            state="done",
            not_before=now,
            headshot=stored,
        )
    return order


if __name__ == "__main__":
    main()
