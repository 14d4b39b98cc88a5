"""The inspection compares everything that is held with what may be held: each of its findings."""

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.db import connection
from django.db.models import F
from django.utils import timezone

from headshots.models import AuditEntry, Heartbeat, MailAddress, Order, OrderKey, Receipt, Shot, StoredObject
from headshots.services import (
    audit,
    claiming,
    guarantee,
    incarnation,
    objects,
    orders,
    purge,
    tombstones,
    verification,
)
from headshots.services.orders import Placed
from headshots.services.verification_types import CHECKS
from headshots.states import OrderState, ShotState
from headshots.vault.envelope import Kind
from headshots.vault.errors import StoreAway
from headshots.vault.keys import epoch_of
from tests.services.verification.conftest import found, plant

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

PICTURE = b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(100)


@pytest.mark.parametrize("is_known", [False, True])
def test_1_objects_of_purged_and_unknown_orders(
    healthy: Order, purge_all: Callable[[], None], is_known: bool, now: datetime
) -> None:
    owner = healthy.pk if is_known else uuid.uuid4()
    purge.request(healthy, actor="customer", now=now)
    purge_all()
    name = plant(f"o/{owner.hex}/{uuid.uuid4().hex}")
    later = timezone.now()

    assert found(later) == {"object_of_ended_order": 1}
    assert found(later, is_fixing=True) == {}
    assert name not in objects.blobs().list("o/")


def test_1_a_photo_whose_key_was_destroyed(healthy: Order, now: datetime) -> None:
    StoredObject.objects.update(state=StoredObject.State.DELETED)

    assert found(now) == {"object_of_ended_order": 1}
    assert found(now, is_fixing=True) == {}
    assert purge.objects_left() == 0


def test_2_objects_without_a_row(healthy: Order, now: datetime) -> None:
    name = plant(f"o/{healthy.pk.hex}/{uuid.uuid4().hex}")

    assert found(now) == {"object_without_row": 1}
    assert found(now, is_fixing=True) == {}
    assert name not in objects.blobs().list("o/")
    assert purge.objects_left() == 1  # the photo


def test_2_an_object_under_another_orders_name(
    place: Callable[..., Placed], healthy: Order, now: datetime
) -> None:
    other = place().order
    stored = StoredObject.objects.get(order=healthy)
    sealed = objects.blobs().get(objects.name_of(stored).blob_name)
    objects.blobs().delete(objects.name_of(stored).blob_name)
    plant(f"o/{other.pk.hex}/{stored.pk.hex}", sealed)

    assert found(now)["object_without_row"] == 1


def test_3_rows_without_their_object(healthy: Order, now: datetime) -> None:
    stored = StoredObject.objects.get()
    objects.blobs().delete(objects.name_of(stored).blob_name)

    assert found(now) == {"row_without_object": 1}
    assert found(now, is_fixing=True) == {"row_without_object": 1}  # what is lost cannot be made up


def test_3_a_picture_that_nobody_wants_may_go_before_its_row_says_so(
    healthy: Order, render_all: Callable[[], None], now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store deletes it and fails to say so: the next sweep asks again, and nothing is lost meanwhile."""
    render_all()
    shot = Shot.objects.filter(order=healthy, index=3)
    shot.update(state=ShotState.SURPLUS)
    real_delete = objects.blobs().delete

    def delete(name: str) -> None:
        real_delete(name)
        raise StoreAway

    with monkeypatch.context() as patch:
        patch.setattr(objects.blobs(), "delete", delete)
        guarantee.erase_surplus()

    stored = StoredObject.objects.get(pk=shot.values_list("headshot", flat=True).get())
    assert stored.state == StoredObject.State.STORED
    assert objects.name_of(stored).blob_name not in objects.blobs().list("o/")
    assert found(now) == {}


@pytest.mark.parametrize("content", [PICTURE, b"HSE1\x01\x01\x00\x07", b"HSE1\x01\x10\x00\x00", b""])
def test_4_objects_that_are_not_sealed(healthy: Order, now: datetime, content: bytes) -> None:
    """A picture in clear, a reserved byte that is set, another kind than the row's, nothing at all."""
    name = objects.name_of(StoredObject.objects.get()).blob_name
    objects.blobs().delete(name)
    plant(name, content)

    assert found(now) == {"object_not_sealed": 1}
    assert found(now, is_fixing=True) == {}
    assert purge.objects_left() == 0


def test_4_old_objects_are_read_in_a_sample(healthy: Order, now: datetime) -> None:
    name = objects.name_of(StoredObject.objects.get()).blob_name
    objects.blobs().delete(name)
    plant(name, PICTURE)
    StoredObject.objects.update(created_at=now - timedelta(hours=3))

    report = verification.inspect(now)

    assert [finding.code for finding in report.findings] == ["object_not_sealed"]


def test_5_objects_older_than_a_day(healthy: Order, now: datetime) -> None:
    StoredObject.objects.update(created_at=now - timedelta(hours=24))

    assert found(now) == {"object_older_than_a_day": 1}
    assert found(now, is_fixing=True) == {}
    assert purge.objects_left() == 0
    assert Order.objects.get().state == OrderState.PURGING


def test_6_and_7_what_a_bucket_keeps_out_of_sight(
    healthy: Order, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects.blobs(), "hidden", lambda prefix: (3, 2))

    assert found(now) == {"hidden_version": 3, "unfinished_upload": 2}


def test_8_keys_past_their_end(healthy: Order, now: datetime) -> None:
    Order.objects.update(
        created_at=F("created_at") - timedelta(hours=26),
        expires_at=F("expires_at") - timedelta(hours=26),
        not_after=F("not_after") - timedelta(hours=26),
    )

    assert found(now)["key_past_its_end"] == 2
    assert found(now, is_fixing=True) == {}
    assert not OrderKey.objects.exists()


def test_8_addresses_past_their_keys_end(healthy: Order, now: datetime) -> None:
    MailAddress.objects.create(order=healthy, sealed=b"HSE1")
    assert found(now) == {}
    Order.objects.update(shredded_at=now)

    assert found(now)["address_past_its_end"] == 1
    assert "address_past_its_end" not in found(now, is_fixing=True)
    assert not MailAddress.objects.exists()


def test_9_epoch_keys_past_their_end(healthy: Order) -> None:
    after = healthy.not_after
    Order.objects.update(state=OrderState.PURGING, purge_not_before=after, absent_at=after)
    OrderKey.objects.all().delete()
    Heartbeat.objects.update(at=after)
    AuditEntry.objects.update(at=after)

    codes = found(after)

    assert codes["epoch_key_past_its_end"] == 1
    assert "epoch_key_past_its_end" not in found(after, is_fixing=True)
    assert objects.epochs().epochs() == []


def test_9_a_living_order_whose_hour_has_no_key(healthy: Order, now: datetime) -> None:
    objects.epochs().destroy(epoch_of(healthy.created_at))

    assert found(now) == {"epoch_key_missing": 1}


def test_10_and_15_receipts_that_are_missing_or_were_altered(
    healthy: Order, purge_all: Callable[[], None], now: datetime
) -> None:
    purge.request(healthy, actor="customer", now=now)
    purge_all()
    later = timezone.now()
    text = Receipt.objects.get().text

    Receipt.objects.update(text=text.replace("selfies=1", "selfies=0"))
    assert found(later) == {"receipt_unsigned": 1}
    Receipt.objects.all().delete()
    assert found(later) == {"receipt_missing": 1}


def test_10_a_receipt_without_its_deletion(healthy: Order, now: datetime) -> None:
    Receipt.objects.create(id=healthy.receipt_id, order=healthy, text="gone, believe us", issued_at=now)

    assert found(now) == {"receipt_early": 1, "receipt_unsigned": 1}


def test_11_an_altered_log(healthy: Order, now: datetime) -> None:
    AuditEntry.objects.filter(seq=1).update(reference="nobody")

    assert found(now) == {"audit_broken": 1}


def test_11_a_log_that_is_behind_its_checkpoint_closes_the_service(healthy: Order, now: datetime) -> None:
    audit.checkpoint(now)
    connection.cursor().execute(
        "DELETE FROM headshots_auditentry WHERE seq = (SELECT max(seq) FROM headshots_auditentry)"
    )

    assert found(now) == {"audit_behind": 1}
    assert incarnation.is_restored()


def test_12_remains_of_broken_writes(healthy: Order, data: Path, now: datetime) -> None:
    part = data / "blobs" / "o" / healthy.pk.hex / f"{uuid.uuid4().hex}.{'a' * 16}.part"
    part.write_bytes(b"HSE1 half")
    key_part = data / "keys" / "root.keys.aaaa.part"
    key_part.write_bytes(b"half")
    later = now + timedelta(minutes=16)
    Heartbeat.objects.update(at=later)

    assert found(later)["unfinished_file"] == 2
    assert "unfinished_file" not in found(later, is_fixing=True)
    assert not part.exists()
    assert not key_part.exists()


def test_12_a_write_under_way_is_left_alone(healthy: Order, data: Path, now: datetime) -> None:
    intended = objects.intend(healthy, Kind.HEADSHOT, 1, now)
    part = data / "blobs" / "o" / healthy.pk.hex / f"{intended.pk.hex}.{'a' * 16}.part"
    part.write_bytes(b"HSE1 half")

    assert found(now, is_fixing=True) == {}
    assert part.exists()


def test_13_leases_past_due(healthy: Order, now: datetime) -> None:
    orders.accept(healthy, now)
    claiming.claim("worker", 2, now)
    Shot.objects.filter(state="leased").update(lease_until=now - timedelta(minutes=6))

    assert found(now) == {"lease_past_due": 2}
    assert found(now, is_fixing=True) == {}
    assert set(Shot.objects.values_list("state", flat=True)) == {"pending"}


def test_14_photos_nobody_looked_at(healthy: Order, now: datetime) -> None:
    Order.objects.update(created_at=now - timedelta(minutes=11))

    assert found(now) == {"order_nobody_looked_at": 1}


def test_16_a_tombstone_of_a_living_order_closes_the_service(healthy: Order, now: datetime) -> None:
    tombstones.write(healthy, now)

    assert found(now) == {"tombstone_of_living_order": 1}
    assert incarnation.is_restored()


def test_17_a_purge_that_is_silent(healthy: Order, now: datetime) -> None:
    Heartbeat.objects.filter(name=purge.HEARTBEAT).update(at=now - timedelta(minutes=11))

    assert found(now) == {"purge_silent": 1}
    assert found(now, is_fixing=True) == {}


def test_18_a_deletion_that_is_late(healthy: Order) -> None:
    late = healthy.expires_at + timedelta(minutes=11)
    Heartbeat.objects.update(at=late)

    assert found(late)["deletion_late"] == 1
    assert "deletion_late" not in found(late, is_fixing=True)
    assert purge.objects_left() == 0


def test_every_finding_has_its_check() -> None:
    assert set(CHECKS.values()) == set(range(1, 19))
    assert set(audit.FINDINGS) <= set(CHECKS)
