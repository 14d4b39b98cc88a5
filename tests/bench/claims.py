"""python -m tests.bench.claims: how many shots a second workers can claim from a deep queue.

On SQLite in a folder of its own, and on Postgres where TEST_DATABASE_URL names a server: there in a database
that is made for this and dropped. Several worker processes claim eight at a time, as one GPU's worker with
empty slots does, until nothing is left. Checked is that each shot was claimed exactly once. The seconds of
CPU tell what a call costs also on a machine that is busy with other things. The JSON is kept beside this
file.
"""

import argparse
import json
import multiprocessing
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

PACKS: Final = {"premium": 8, "free": 40}  # orders: 520 shots
LIMIT: Final = 8
WORKERS: Final = (1, 4)


def main() -> None:
    """Run, print, keep."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    result: dict[str, object] = {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count()}
    result["sqlite"] = [_measured_apart("", workers) for workers in WORKERS]
    if server := os.environ.get("TEST_DATABASE_URL"):
        result["postgres"] = []
        for workers in WORKERS:
            with _scratch_database(server) as url:
                result["postgres"] = [*result["postgres"], _measured_apart(url, workers)]
    text = json.dumps(result, indent=1)
    (Path(__file__).parent / "results" / "claims.json").write_text(text + "\n")
    sys.stdout.write(text + "\n")


@contextmanager
def _scratch_database(server: str) -> Iterator[str]:
    import psycopg

    name = f"headshots_claims_{secrets.token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _measured_apart(url: str, workers: int) -> dict[str, float]:
    """One measurement, in processes of their own: Django's settings are read once in a process."""
    with tempfile.TemporaryDirectory(prefix="headshots-claims-") as folder:
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "headshots.settings",
            "HEADSHOTS_DATA": folder,
            "DATABASE_URL": url,
        }
        spawn = multiprocessing.get_context("spawn")
        with spawn.Pool(1) as host:
            shot_count = host.apply(_fill)
        with spawn.Pool(workers) as pool:
            pool.map(_wake, range(workers), chunksize=1)
            started = time.perf_counter()
            calls = [each for one in pool.map(_drain, range(workers), chunksize=1) for each in one]
            wall_seconds = time.perf_counter() - started
        with spawn.Pool(1) as host:
            host.apply(_check)
    return {
        "workers": workers,
        "shots": shot_count,
        "claims_per_second": round(shot_count / wall_seconds),
        "claims_per_processor_second": round(shot_count / sum(cpu for _, cpu in calls)),
        "call_p50_milliseconds": round(1000 * statistics.median(wall for wall, _ in calls), 1),
        "call_p50_cpu_milliseconds": round(1000 * statistics.median(cpu for _, cpu in calls), 1),
        "load_average": round(os.getloadavg()[0], 1),
    }


def _fill() -> int:
    """A fresh database with orders in the queue; how many shots wait."""
    import django

    django.setup()
    from django.core.management import call_command
    from django.utils import timezone

    from headshots.models import Order, Shot
    from headshots.services import orders, queue_clock, styles
    from headshots.states import OrderState
    from headshots.tiers import TIERS
    from headshots.vault.tokens import new_token

    call_command("migrate", verbosity=0)
    now = timezone.now()
    styles.seed_builtin(now=now)
    versions = [style.current for style in styles.published_everywhere() if style.current]
    for slug, count in PACKS.items():
        for _ in range(count):
            order = orders._new_order(TIERS[slug], None, new_token(), now)
            order.state = OrderState.QUEUED
            Order.objects.bulk_create([order])
            Shot.objects.bulk_create(orders._plan(order, versions, now))
            queue_clock.enter(order, now)
    return Shot.objects.count()


def _wake(_: int) -> None:
    import django

    django.setup()
    from django.db import connection

    connection.ensure_connection()
    time.sleep(0.5)  # so that each process of the pool gets one of these


def _drain(number: int) -> list[tuple[float, float]]:
    """Claim until nothing is left; the seconds of each call, by the wall and of this process's CPU.

    What was claimed counts as done at once.
    """
    from django.db import connection
    from django.utils import timezone

    from headshots.services import claiming

    calls = []
    while True:
        started, cpu_started = time.perf_counter(), time.process_time()
        claims = claiming.claim(f"worker-{number}", LIMIT, timezone.now(), slots=LIMIT)
        calls.append((time.perf_counter() - started, time.process_time() - cpu_started))
        if not claims:
            return calls
        with connection.cursor() as cursor:  # as cheap as can be: it is no part of what is measured
            shots = ", ".join(str(claimed.shot.pk) for claimed in claims)
            cursor.execute(
                f"UPDATE headshots_shot SET state = 'done', lease_owner = '' WHERE id IN ({shots})"
            )


def _check() -> None:
    import django

    django.setup()
    from headshots.models import Shot

    assert set(Shot.objects.values_list("state", "attempts", "lease_token")) == {("done", 1, 1)}


if __name__ == "__main__":
    main()
