"""python -m tests.bench.load: many customers at once on an embedded installation, first without a worker.

Posts orders from many clients while no worker runs, then starts the workers and waits until every order is
ready. Prints the memory of the web process after all orders over that after the first tenth (1.0 would be
flat), and checks that each shot was made exactly once. The JSON is kept beside this file.
"""

import argparse
import json
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from headshots.management.site_client import SiteClient, SiteError
from pipelines.sample import sample_selfie
from tests.e2e.service import resident_megabytes, running


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--clients", type=int, default=20)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="headshots-load-")) / "data"
    folder.mkdir(mode=0o700)
    result = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        **measure(folder, options.orders, options.clients),
    }
    text = json.dumps(result, indent=1)
    (Path(__file__).parent / "results" / "load.json").write_text(text + "\n")
    sys.stdout.write(text + "\n")


def measure(folder: Path, order_count: int, client_count: int) -> dict[str, object]:
    """What happened to `order_count` orders. Raises AssertionError when one was lost or made twice."""
    selfie = sample_selfie()
    errors: list[str] = []

    def place(client: SiteClient) -> tuple[dict[str, object] | None, float]:
        started = time.perf_counter()
        try:
            placed = client.place(selfie, tier="free")
        except (SiteError, OSError) as error:
            errors.append(str(getattr(error, "code", type(error).__name__)))
            placed = None
        return placed, time.perf_counter() - started

    with running(folder, "--no-worker", FREE_WORK="0", FREE_PER_HOUR="1000", FREE_PER_DAY="1000") as service:
        web = service.children("headshots.wsgi")[-1]
        tenth = order_count // 10
        started = time.perf_counter()
        with ThreadPoolExecutor(client_count) as pool:
            answers = list(pool.map(lambda _: place(service.client), range(tenth)))
            first_megabytes = resident_megabytes(web)
            answers += list(pool.map(lambda _: place(service.client), range(order_count - tenth)))
        posted_seconds = time.perf_counter() - started
        last_megabytes = resident_megabytes(web)
        orders = [placed for placed, _ in answers if placed]
        assert not errors, errors

        drain_started = time.perf_counter()
        with running(folder, "--no-web"):
            for order in orders:
                final = [*service.client.watch(order, timeout_seconds=3600)][-1]
                assert (final["state"], final["done"]) == ("ready", 3), final["state"]
        drained_seconds = time.perf_counter() - drain_started

    database = sqlite3.connect(folder / "headshots.sqlite3")
    shots, pictures, attempts = database.execute(
        "select count(*), count(distinct headshot_id), max(attempts) from headshots_shot where state = 'done'"
    ).fetchone()
    assert (shots, pictures, attempts) == (3 * order_count, 3 * order_count, 1)
    seconds = sorted(taken for _, taken in answers)
    return {
        "orders": order_count,
        "clients": client_count,
        "errors": len(errors),
        "orders_per_second": round(order_count / posted_seconds, 2),
        "post_p50_seconds": round(statistics.median(seconds), 2),
        "post_p95_seconds": round(seconds[int(0.95 * len(seconds))], 2),
        "web_megabytes_after_first_tenth": round(first_megabytes, 1),
        "web_megabytes_after_all": round(last_megabytes, 1),
        "memory_ratio": round(last_megabytes / first_megabytes, 3),
        "shots": shots,
        "most_attempts_of_a_shot": attempts,
        "pictures_per_second": round(shots / drained_seconds, 2),
    }


if __name__ == "__main__":
    main()
