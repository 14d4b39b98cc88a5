"""A deletion from its first step to its receipt: what becomes unreadable when, and what is left."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from headshots.exceptions import NotFound, Refusal
from headshots.models import (
    AuditEntry,
    Heartbeat,
    Immutable,
    Order,
    OrderKey,
    Receipt,
    Selfie,
    Shot,
    StoredObject,
)
from headshots.services import (
    claiming,
    delivery,
    fencing,
    objects,
    orders,
    purge,
    receipts,
    shredding,
    uploads,
)
from headshots.services.orders import Placed
from headshots.states import OrderState
from headshots.vault.envelope import Kind, Role
from headshots.vault.errors import KeyGone
from headshots.vault.keys import open_order_key
from tests.services.purge.conftest import finish, stored_names

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


def test_delete_now_shreds_keys_and_objects_before_it_answers(placed: Placed, now: datetime) -> None:
    purge.request(placed.order, actor="customer", now=now)

    assert not OrderKey.objects.exists()
    assert stored_names() == []
    with pytest.raises(NotFound):
        orders.find(placed.order.pk, placed.token, now)


def test_the_receipt_follows_the_second_look(placed: Placed, now: datetime) -> None:
    receipt_id = purge.request(placed.order, actor="customer", now=now)
    assert purge.find_deletion(receipt_id, now)[1] is None

    purge.run(now + timedelta(seconds=1))

    order, receipt = purge.find_deletion(receipt_id, now)
    assert order.state == OrderState.PURGED
    assert receipt is not None
    read = receipts.read(receipt.text)[0]
    assert (read.receipt_id, read.reason) == (receipt_id, "customer-request")
    assert (read.selfies, read.headshots, read.previews) == (1, 0, 0)
    assert read.first_photo == placed.order.created_at.replace(microsecond=0)
    assert (
        read.absent_verified[1] > read.absent_verified[0]
        or read.absent_verified[1] >= read.absent_verified[0]
    )


def test_a_purged_row_keeps_numbers_and_times_only(
    placed: Placed, now: datetime, purge_all: Callable[[], None]
) -> None:
    purge.request(placed.order, actor="customer", now=now)
    purge_all()

    order = Order.objects.get()
    assert (order.token_sha256, order.upload_id, order.seed_root) == (None, None, None)
    assert not StoredObject.objects.exists()
    assert not Selfie.objects.exists()
    assert set(Shot.objects.values_list("seed", "headshot", "preview")) == {(0, None, None)}


def test_an_expired_order_is_purged_by_the_next_pass(placed: Placed) -> None:
    at = placed.order.expires_at

    assert purge.run(at - timedelta(seconds=1)).begun == 0
    first = purge.run(at)
    second = purge.run(at + timedelta(seconds=1))

    assert (first.begun, first.purged, first.waiting) == (1, 0, 1)
    assert (second.begun, second.purged, second.waiting) == (0, 1, 0)
    assert receipts.read(Receipt.objects.get().text)[0].reason == "expiry"


def test_the_epoch_key_dies_with_its_day(placed: Placed) -> None:
    end = placed.order.not_after

    assert purge.run(end - timedelta(seconds=1)).epoch_keys_destroyed == 0
    assert purge.run(end).epoch_keys_destroyed == 1

    assert objects.epochs().epochs() == []


def test_a_purge_waits_for_the_leases_it_found(placed: Placed, now: datetime) -> None:
    orders.accept(placed.order, now)
    claiming.claim("worker", 1, now)

    purge.request(placed.order, actor="customer", now=now)
    early = purge.run(now + timedelta(seconds=59))
    late = purge.run(now + timedelta(seconds=61))

    assert (early.purged, late.purged) == (0, 1)


def test_who_watches_the_receipt_sees_the_second_look_once_due(placed: Placed, now: datetime) -> None:
    receipt_id = purge.request(placed.order, actor="customer", now=now)

    order, receipt = purge.find_deletion(receipt_id, now + timedelta(seconds=1))

    assert order.state == OrderState.PURGED
    assert receipt is not None


def test_deleting_twice_is_one_deletion(placed: Placed, now: datetime, purge_all: Callable[[], None]) -> None:
    first = purge.request(placed.order, actor="customer", now=now)
    second = purge.request(placed.order, actor="customer", now=now)
    purge_all()

    assert first == second
    assert Receipt.objects.count() == 1
    assert AuditEntry.objects.filter(event="purge.begun").count() == 1


def test_the_command_needs_no_broker(placed: Placed, capsys: pytest.CaptureFixture[str]) -> None:
    Order.objects.update(
        created_at=timezone.now() - timedelta(hours=30),
        expires_at=timezone.now() - timedelta(hours=1),
    )

    call_command("purge", "--json")

    assert '"begun": 1' in capsys.readouterr().out
    assert Heartbeat.objects.filter(name="purge").exists()


def test_a_finished_order_leaves_no_picture_behind(
    placed: Placed, render_all: Callable[[], None], purge_all: Callable[[], None], data: Path
) -> None:
    render_all()
    assert len(stored_names()) == 1 + 2 * 3
    now = timezone.now()
    jpeg = delivery.open_headshot(placed.order, 1, Kind.HEADSHOT, now)

    purge.request(placed.order, actor="customer", now=now)
    purge_all()

    assert purge.objects_left() == 0
    read = receipts.read(Receipt.objects.get().text)[0]
    assert (read.selfies, read.headshots, read.previews) == (1, 3, 3)
    for path in data.rglob("*"):
        if path.is_file():
            assert jpeg[20:200] not in path.read_bytes()


def test_an_unknown_receipt_and_a_live_order_have_none(placed: Placed) -> None:
    for receipt_id in ("0000-0000-0000-0000", placed.order.receipt_id):
        with pytest.raises(Refusal, match="receipt_not_found"):
            purge.find_deletion(receipt_id, timezone.now())


def test_the_audit_log_is_append_only(placed: Placed) -> None:
    entry = AuditEntry.objects.first()
    assert entry is not None

    with pytest.raises(Immutable):
        entry.save()
    with pytest.raises(Immutable):
        entry.delete()


@pytest.mark.django_db(transaction=True)
def test_destroyed_keys_are_gone_from_the_database_files(place: Callable[..., Placed], now: datetime) -> None:
    order = place().order
    wrapped = [bytes(key.wrapped) for key in order.keys.all()]

    purge.request(order, actor="customer", now=now)

    assert not OrderKey.objects.exists()
    if connection.vendor == "sqlite":  # Postgres keeps deleted rows for a while: there the epoch key erases
        files = list(Path(str(connection.settings_dict["NAME"])).parent.glob("*.sqlite3*"))
        assert files
        for path in files:
            assert not any(key[-64:] in path.read_bytes() for key in wrapped)


def test_a_copy_of_a_wrapped_key_opens_nothing_once_its_day_is_over(placed: Placed) -> None:
    order = placed.order
    key = order.keys.get(role=Role.SELFIES)
    names = {"order_id": order.pk, "role": Role.SELFIES, "epoch": order.epoch, "not_after": order.not_after}
    assert len(open_order_key(objects.epochs(), bytes(key.wrapped), **names)) == 32

    purge.run(order.not_after)

    with pytest.raises(KeyGone):
        open_order_key(objects.epochs(), bytes(key.wrapped), **names)


def test_a_selfie_cannot_be_opened_once_the_deletion_began(placed: Placed, now: datetime) -> None:
    fencing.begin(placed.order, reason="customer", now=now)

    with pytest.raises(NotFound):
        uploads.open_selfie(placed.order, now)


def test_the_tombstone_is_outside_the_database(placed: Placed, now: datetime) -> None:
    purge.request(placed.order, actor="customer", now=now)

    assert list(objects.blobs().list("t/")) == [f"t/{placed.order.pk.hex}"]
    assert Order.objects.get().tombstoned_at == now


def test_the_second_look_waits_for_an_assessment_under_way(placed: Placed, now: datetime) -> None:
    orders.begin_assessment(placed.order.pk, now)

    purge.request(placed.order, actor="customer", now=now)

    assert purge.run(now + timedelta(seconds=59)).purged == 0
    assert purge.run(now + timedelta(seconds=61)).purged == 1


def test_the_destruction_of_keys_is_in_the_log(placed: Placed, now: datetime) -> None:
    finish(placed, now)
    purge.run(now + shredding.SELFIE_KEY_GRACE)
    purge.request(placed.order, actor="customer", now=now + timedelta(hours=2))

    entries = AuditEntry.objects.filter(event="key.destroyed").order_by("seq")
    assert [entry.detail for entry in entries] == [{"is_selfie": True}, {}]
