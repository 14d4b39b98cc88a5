"""When the inspection looks, what it costs, and who reads what it found."""

import json
import tracemalloc
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from headshots.models import Heartbeat, Inspection, Order, StoredObject
from headshots.services import maintenance, objects, purge, verification, verification_store
from headshots.services.orders import Placed
from headshots.states import OrderState
from headshots.vault.envelope import Kind
from headshots.vault.keys import epoch_of
from tests.services.verification.conftest import found, plant

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


def test_a_healthy_system_has_no_violation(healthy: Order, now: datetime) -> None:
    report = verification.inspect(now)

    assert report.is_clean
    assert (report.objects_seen, report.orders_seen) == (1, 1)
    assert "nothing wrong" in str(report)


def test_the_whole_life_of_an_order_has_no_violation(
    placed: Placed, render_all: Callable[[], None], purge_all: Callable[[], None], now: datetime
) -> None:
    purge.run(now)
    for step in (
        render_all,
        lambda: purge.request(placed.order, actor="customer", now=timezone.now()),
        purge_all,
    ):
        assert found(timezone.now()) == {}
        step()

    assert found(timezone.now()) == {}
    assert Order.objects.get().state == OrderState.PURGED


def test_many_findings_of_a_kind_are_one_with_a_count_and_five_examples(
    healthy: Order, now: datetime
) -> None:
    for _ in range(7):
        plant(f"o/{healthy.pk.hex}/{uuid.uuid4().hex}")

    (finding,) = verification.inspect(now).findings

    assert finding.count == 7
    assert len(finding.examples) == 5


def test_a_check_that_cannot_look_says_so_and_the_others_go_on(
    healthy: Order, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(prefix: str) -> object:
        raise OSError("store is away")

    objects.epochs().destroy(epoch_of(healthy.created_at))
    monkeypatch.setattr(objects.blobs(), "list", away)

    report = verification.inspect(now)

    assert report.blind == ("store", "tombstones")
    assert [finding.code for finding in report.findings] == ["epoch_key_missing"]


def test_the_command_ends_with_0_1_or_2(
    healthy: Order, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    call_command("purge", "--verify", "--json")
    said = json.loads(capsys.readouterr().out)
    assert (said["is_clean"], said["objects_seen"]) == (True, 1)

    plant(f"o/{healthy.pk.hex}/{uuid.uuid4().hex}")
    with pytest.raises(CommandError) as violated:
        call_command("purge", "--verify")
    assert violated.value.returncode == 1
    assert "1 x object_without_row" in capsys.readouterr().out

    call_command("purge", "--verify", "--fix")
    assert "nothing wrong" in capsys.readouterr().out

    monkeypatch.setattr(verification_store, "_list_into", lambda *_: 1 / 0)
    with pytest.raises(CommandError) as blind:
        call_command("purge", "--verify")
    assert blind.value.returncode == 2


def test_looking_changes_nothing(healthy: Order, now: datetime) -> None:
    plant(f"o/{healthy.pk.hex}/{uuid.uuid4().hex}")
    Heartbeat.objects.update(at=now - timedelta(hours=1))
    before = sorted(objects.blobs().list("")), list(Heartbeat.objects.values()), list(Order.objects.values())

    verification.inspect(now)

    assert before == (
        sorted(objects.blobs().list("")),
        list(Heartbeat.objects.values()),
        list(Order.objects.values()),
    )


def test_every_caller_of_the_purge_inspects_each_quarter_of_an_hour(healthy: Order, now: datetime) -> None:
    maintenance.run_pass(now)
    maintenance.run_pass(now + timedelta(minutes=14))
    assert Inspection.objects.get().at == now

    maintenance.run_pass(now + timedelta(minutes=15))

    assert Inspection.objects.get().at == now + timedelta(minutes=15)


def test_the_public_page_shows_what_the_last_look_found(
    client: Client, healthy: Order, now: datetime
) -> None:
    assert "It has not looked yet." in client.get("/privacy").content.decode()

    verification.record(verification.inspect(now))
    clean = " ".join(client.get("/privacy").content.decode().split())
    plant(f"o/{healthy.pk.hex}/{uuid.uuid4().hex}")
    verification.record(verification.inspect(now))
    dirty = " ".join(client.get("/privacy").content.decode().split())

    assert "at 1 stored object and 1 order, and found nothing that should not be there." in clean
    assert "and found 1 × object_without_row." in dirty
    assert healthy.pk.hex not in dirty


@pytest.mark.slow
def test_thirty_thousand_objects_are_compared_in_bounded_memory(
    healthy: Order, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names and rows are real, the listing is made up: what is measured is the comparison."""
    count = 30_000
    stored = StoredObject.objects.get()
    ids = [uuid.uuid4() for _ in range(count)]
    for start in range(0, count, 1000):
        StoredObject.objects.bulk_create(
            StoredObject(
                id=object_id,
                order=healthy,
                kind=Kind.HEADSHOT,
                index=1,
                generation=1,
                state=StoredObject.State.STORED,
                sha256="0" * 64,
                created_at=now - timedelta(hours=1),
            )
            for object_id in ids[start : start + 1000]
        )
    missing = ids.pop()
    head = objects.blobs().get(objects.name_of(stored).blob_name)
    real_get = objects.blobs().get

    def get(name: str) -> bytes:
        object_id = uuid.UUID(hex=name.rpartition("/")[2])
        if object_id == missing:
            return real_get(name)
        return head if object_id == stored.pk else b"HSE1\x01\x10\x00\x00"

    monkeypatch.setattr(objects.blobs(), "get", get)
    monkeypatch.setattr(
        objects.blobs(),
        "list",
        lambda prefix: (
            f"o/{healthy.pk.hex}/{object_id.hex}"
            for object_id in ([stored.pk, *ids] if prefix == "o/" else [])
        ),
    )
    tracemalloc.start()
    try:
        report = verification.inspect(now)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert report.objects_seen == count
    assert [(finding.code, finding.count) for finding in report.findings] == [("row_without_object", 1)]
    assert peak_bytes < 3 * 2**20
    print(f"{count} objects: {report.seconds:.1f} s, peak {peak_bytes / 2**20:.1f} MiB")  # noqa: T201
