"""A day of the service in simulated time, with a copy of every file made each five minutes.

    python -m tests.e2e.backups_driver FOLDER day|silence

lives in FOLDER/data. A copy is FOLDER/copies/<minutes>.json, {path: SHA-256}; the contents, each once, are in
FOLDER/contents. In `day` the purge and the sweeps run all the while; in `silence` no process runs between the
first minutes and the day after, and then one starts as every process does.
"""

import hashlib
import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Final

import django

STEP: Final = timedelta(minutes=5)
DAY: Final = timedelta(hours=25)  # T0 is in the middle of its hour, whose key lives for 24


def copy(folder: Path, minutes: int) -> None:
    """Copy every file of the data folder, as a backup without any cleverness would."""
    named = {}
    for path in sorted((folder / "data").rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            (folder / "contents" / digest).write_bytes(content)
            named[str(path.relative_to(folder / "data"))] = digest
    (folder / "copies" / f"{minutes:05}.json").write_text(json.dumps(named))


def day(folder: Path) -> None:
    """One order is left until its end, one is deleted after two hours, one arrives late in the first hour."""
    from headshots import tasks
    from headshots.models import Order
    from headshots.services import clock, purge
    from tests.e2e import small_service as service

    left, deleted = _two_orders(folder)
    for step in range(1, DAY // STEP + 1):
        service.advance(STEP)
        tasks.sweep()
        service.work()
        tasks.purge_due()
        if step == 24:
            purge.request(Order.objects.get(pk=deleted), actor="customer", now=clock.now())
        copy(folder, step * 5)
    assert Order.objects.get(pk=left).state == "purged"


def silence(folder: Path) -> None:
    """Copies go on, of a disk on which nothing happens; then a process starts and makes its first pass."""
    from headshots.services import clock, maintenance
    from tests.e2e import small_service as service

    _two_orders(folder)
    for step in range(1, DAY // STEP + 1):
        service.advance(STEP)
        copy(folder, step * 5)
    maintenance.run_pass(clock.now())
    copy(folder, 5 * (DAY // STEP + 1))


def _two_orders(folder: Path) -> tuple[object, object]:
    from headshots.models import Order
    from headshots.services import clock
    from tests.e2e import small_service as service

    orders = [service.place("free"), service.place("free")]
    copy(folder, 0)
    service.work()
    service.advance(timedelta(seconds=10))
    from headshots import tasks

    tasks.sweep()
    service.work()
    assert Order.objects.filter(state="ready").count() == 2
    facts = {"t0": clock.now().isoformat(), "orders": [order.pk.hex for order in orders]}
    (folder / "facts.json").write_text(json.dumps(facts))
    copy(folder, 1)
    return orders[0].pk, orders[1].pk


def main() -> None:
    folder = Path(sys.argv[1])
    for part in ("contents", "copies"):
        (folder / part).mkdir(parents=True)
    os.environ["HEADSHOTS_DATA"] = str(folder / "data")
    os.environ["PURGE_SETTLE_SECONDS"] = "30"
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "headshots.settings")
    django.setup()
    from tests.e2e import small_service as service

    service.prepare(folder / "data")
    service.furnish(folder / "diary")
    {"day": day, "silence": silence}[sys.argv[2]](folder)


if __name__ == "__main__":
    main()
