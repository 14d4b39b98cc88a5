"""Stores that lie, fail, hide or are written to late: no receipt before nothing is left."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from headshots.models import AuditEntry, Order, OrderKey, Receipt
from headshots.services import objects, purge, receipts
from headshots.services.orders import Placed
from headshots.states import OrderState
from tests.services.purge.conftest import stored_names

pytestmark = pytest.mark.django_db


def test_what_a_late_writer_left_is_removed_and_looked_for_again(placed: Placed, now: datetime) -> None:
    purge.request(placed.order, actor="customer", now=now)
    objects.blobs().put(f"o/{placed.order.pk.hex}/{'0' * 32}", b"HSE1 late")

    first = purge.run(now + timedelta(seconds=1))
    second = purge.run(now + timedelta(seconds=2))

    assert (first.purged, second.purged) == (0, 1)
    assert stored_names() == []


def test_one_order_that_cannot_be_deleted_does_not_hold_up_the_others(
    place: Callable[..., Placed], monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, other = place().order, place().order
    at = stuck.expires_at
    real_delete_all = objects.blobs().delete_all

    def delete_all(prefix: str) -> int:
        if stuck.pk.hex in prefix:
            raise OSError("store is away")
        return real_delete_all(prefix)

    monkeypatch.setattr(objects.blobs(), "delete_all", delete_all)
    tally = purge.run(at)
    purge.run(at + timedelta(seconds=1))

    assert tally.failed == 1
    assert Order.objects.get(pk=other.pk).state == OrderState.PURGED
    stuck.refresh_from_db()
    assert (stuck.state, stuck.purge_attempts) == (OrderState.PURGING, 1)
    assert not OrderKey.objects.exists()  # unreadable all the same
    assert not Receipt.objects.filter(order=stuck).exists()

    monkeypatch.setattr(objects.blobs(), "delete_all", real_delete_all)
    purge.run(at + timedelta(seconds=10))
    purge.run(at + timedelta(seconds=20))
    assert Receipt.objects.filter(order=stuck).exists()


def test_a_store_that_only_says_it_deleted_gets_no_receipt(
    placed: Placed, monkeypatch: pytest.MonkeyPatch, now: datetime
) -> None:
    monkeypatch.setattr(objects.blobs(), "delete_all", lambda prefix: 1)

    purge.request(placed.order, actor="customer", now=now)
    for seconds in (1, 10, 100):
        purge.run(now + timedelta(seconds=seconds))

    assert not Receipt.objects.exists()
    assert Order.objects.get().state == OrderState.PURGING


def test_a_store_that_takes_no_tombstone_keeps_nothing_readable(
    placed: Placed, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(name: str, data: bytes) -> None:
        raise OSError("store is away")

    monkeypatch.setattr(objects.blobs(), "put", away)
    purge.request(placed.order, actor="customer", now=now)

    order = Order.objects.get()
    assert not OrderKey.objects.exists()
    assert (order.tombstoned_at, order.swept_at, order.purge_attempts) == (None, None, 1)

    monkeypatch.undo()
    purge.run(now + timedelta(seconds=10))
    purge.run(now + timedelta(seconds=20))
    assert Order.objects.get().state == OrderState.PURGED


def test_late_writes_are_counted(placed: Placed, now: datetime) -> None:
    purge.request(placed.order, actor="customer", now=now)
    for digit in "01":
        objects.blobs().put(f"o/{placed.order.pk.hex}/{digit * 32}", b"HSE1 late")

    purge.run(now + timedelta(seconds=1))
    purge.run(now + timedelta(seconds=2))

    order = Order.objects.get()
    assert (order.state, order.late_writes) == (OrderState.PURGED, 2)
    entry = AuditEntry.objects.get(event="purge.late_writes")
    assert entry.detail == {"objects": 2}


def test_versions_and_uploads_of_a_bucket_are_counted_for_the_receipt(
    placed: Placed, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects.blobs(), "hidden", lambda prefix: (3, 2))

    purge.request(placed.order, actor="customer", now=now)
    purge.run(now + timedelta(seconds=1))

    said = receipts.read(Receipt.objects.get().text)[0]
    assert (said.versions, said.uploads) == (3, 2)


def test_an_object_that_is_only_hidden_from_the_listing_gets_no_receipt(
    placed: Placed, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects.blobs(), "list", lambda prefix: iter(()))

    purge.request(placed.order, actor="customer", now=now)
    purge.run(now + timedelta(seconds=10))

    assert Order.objects.get().state == OrderState.PURGING
    assert Order.objects.get().absent_at is None
