"""The service as its users run it: real processes, a real broker folder, real HTTP."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headshots.env import ROOT
from pipelines.sample import sample_selfie
from tests.e2e.service import PATIENCE_SECONDS, resident_megabytes, running, wait_for

pytestmark = pytest.mark.slow

SIGNATURES = (b"\xff\xd8\xff\xe0\x00\x10JFIF", b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"RIFF")

DELIVERED = "select count(*), count(distinct headshot_id) from headshots_shot where state = 'done'"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder for processes of their own."""
    (tmp_path / "data").mkdir(mode=0o700)
    return tmp_path / "data"


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(folder / "headshots.sqlite3", timeout=20)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def demo(folder: Path, *options: str) -> list[dict[str, object]]:
    """The events of one run of the demo."""
    finished = subprocess.run(
        [sys.executable, ROOT / "manage.py", "demo", "--json", "--out", folder.parent / "out", *options],
        env={**os.environ, "HEADSHOTS_DATA": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in finished.stdout.splitlines()]


def test_the_demo_ends_with_three_pictures_a_contact_sheet_and_nothing_left(folder: Path) -> None:
    events = demo(folder)

    assert [event["event"] for event in events] == [
        "placed",
        *["saved"] * 3,
        "sheet",
        "ready",
        "deleted",
        "gone",
        "receipt",
    ]
    assert [(e["width"], e["height"]) for e in events if e["event"] == "saved"] == [(896, 1152)] * 3
    assert events[-1]["objects_left"] == 0
    assert sorted(path.name for path in (folder.parent / "out").iterdir()) == [
        "contact-sheet.jpg",
        "headshot-01-corporate.jpg",
        "headshot-02-corporate.jpg",
        "headshot-03-corporate.jpg",
    ]


def test_nothing_the_service_wrote_holds_a_picture_a_token_or_a_file_name(folder: Path) -> None:
    photo = folder.parent / "my-very-own-face.jpg"
    photo.write_bytes(sample_selfie())

    events = demo(folder, str(photo), "--keep")

    written = files_of(folder)
    assert sum(name.startswith("blobs/o/") for name in written) == 7
    selfie = photo.read_bytes()
    for name, content in written.items():
        for planted in (*SIGNATURES, selfie[5000:5032], b"my-very-own-face", b"hso_"):
            assert planted not in content, f"{planted!r} in {name}"
    assert events[-1]["event"] == "kept"


def test_a_killed_worker_loses_nothing(folder: Path) -> None:
    with running(folder, LEASE_SECONDS="4", WORKER_PROCESSES="1") as service:
        order = service.client.place(sample_selfie(), tier="free")
        wait_for(lambda: service.client.order(order)["done"] >= 1)

        service.kill("--queues gpu")

        final = [*service.client.watch(order, timeout_seconds=PATIENCE_SECONDS)][-1]

    assert (final["state"], final["done"], final["failed"]) == ("ready", 3, 0)
    assert rows(folder, DELIVERED) == [(3, 3)]


def test_orders_wait_for_a_worker_and_each_shot_is_made_once(folder: Path) -> None:
    """The acceptance run at a small size; tests/bench/load.py runs it at 200 orders."""
    selfie = sample_selfie()
    with running(folder, "--no-worker") as service:
        web = service.children("headshots.wsgi")[-1]
        with ThreadPoolExecutor(10) as pool:
            first = list(pool.map(lambda _: service.client.place(selfie, tier="free"), range(5)))
            before = resident_megabytes(web)
            placed = first + list(pool.map(lambda _: service.client.place(selfie, tier="free"), range(5)))
            after = resident_megabytes(web)
        assert {order["state"] for order in placed} == {"assessing"}
        assert after - before < 30

        with running(folder, "--no-web"):
            for order in placed:
                final = [*service.client.watch(order, timeout_seconds=PATIENCE_SECONDS)][-1]
                assert (final["state"], final["done"]) == ("ready", 3)

    assert rows(folder, DELIVERED) == [(30, 30)]
    attempts = Counter(rows(folder, "select attempts from headshots_shot"))
    assert attempts == {(1,): 30}


def servers(broker: str) -> dict[str, str]:
    """Settings for a real Postgres and a real broker; skips the test where one of them is missing."""
    missing = [name for name in ("TEST_DATABASE_URL", broker) if not os.environ.get(name)]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}, which infra/dev test provides")
    return {
        "DATABASE_URL": os.environ["TEST_DATABASE_URL"],
        "BROKER_URL": os.environ[broker],
        "LEASE_SECONDS": "4",
    }


@pytest.mark.servers
@pytest.mark.parametrize("broker", ["TEST_REDIS_URL", "TEST_AMQP_URL"])
def test_a_killed_worker_loses_nothing_on_postgres_with_redis_or_rabbitmq(folder: Path, broker: str) -> None:
    with running(folder, WORKER_PROCESSES="1", **servers(broker)) as service:
        order = service.client.place(sample_selfie(), tier="free")
        wait_for(lambda: service.client.order(order)["done"] >= 1)
        service.kill("--queues gpu")
        final = [*service.client.watch(order, timeout_seconds=PATIENCE_SECONDS)][-1]
        assert (final["state"], final["done"], final["failed"]) == ("ready", 3, 0)
        receipt_id = service.client.delete(order)
        wait_for(lambda: service.client.receipt(receipt_id)["state"] == "purged")

    assert not list((folder / "blobs").rglob("o/*/*"))
    assert not (folder / "headshots.sqlite3").exists()


def test_a_worker_that_stops_politely_gives_its_shots_back(folder: Path) -> None:
    with running(folder, WORKER_PROCESSES="1") as service:
        order = service.client.place(sample_selfie(), tier="free")
        wait_for(lambda: service.client.order(order)["done"] >= 1)
        os.kill(service.children("--queues gpu")[0], signal.SIGTERM)

        final = [*service.client.watch(order, timeout_seconds=PATIENCE_SECONDS)][-1]

    assert (final["state"], final["done"]) == ("ready", 3)


def test_the_supervisor_stops_all_its_processes(folder: Path) -> None:
    with running(folder) as service:
        alive = service.children("")
        assert len(alive) >= 5

    assert [pid for pid in alive if Path(f"/proc/{pid}").exists()] == []
