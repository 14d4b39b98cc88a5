"""The selfie ends an hour after the pictures are there, with a key of its own."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from headshots.exceptions import NotFound, Refusal
from headshots.models import Order, OrderKey, Receipt, Shot, StoredObject
from headshots.services import delivery, objects, orders, purge, receipts, shredding, uploads
from headshots.services.orders import Placed
from headshots.states import OrderState
from headshots.vault.envelope import Kind, Role
from tests.services.purge.conftest import finish, stored_names

pytestmark = pytest.mark.django_db


def selfie_name() -> str:
    return objects.name_of(StoredObject.objects.get(kind=Kind.SELFIE)).blob_name


def test_the_selfie_ends_an_hour_after_the_pictures_are_there(placed: Placed, now: datetime) -> None:
    finish(placed, now)
    name = selfie_name()

    early = purge.run(now + shredding.SELFIE_KEY_GRACE - timedelta(seconds=1))
    assert (early.selfie_keys_destroyed, name in stored_names()) == (0, True)
    late = now + shredding.SELFIE_KEY_GRACE
    assert purge.run(late).selfie_keys_destroyed == 1

    assert name not in stored_names()
    assert list(OrderKey.objects.values_list("role", flat=True)) == [Role.RESULTS]
    order = Order.objects.get()
    assert (order.state, order.selfie_shredded_at, order.shredded_at) == (OrderState.READY, late, None)
    with pytest.raises(NotFound):
        uploads.open_selfie(order, late)
    assert delivery.open_headshot(order, 1, Kind.HEADSHOT, late) == b"a picture"
    assert purge.run(late).selfie_keys_destroyed == 0


def test_the_receipt_tells_the_selfies_end_from_the_results(
    placed: Placed, now: datetime, purge_all: Callable[[], None]
) -> None:
    finish(placed, now)
    early, late = now + timedelta(hours=1), now + timedelta(hours=2)
    purge.run(early)

    purge.request(placed.order, actor="customer", now=late)
    purge.run(late + timedelta(seconds=1))

    said = receipts.read(Receipt.objects.get().text)[0]
    assert said.selfie_key_destroyed == early.replace(microsecond=0)
    assert said.result_key_destroyed == late.replace(microsecond=0)
    assert (said.selfies, said.headshots, said.previews) == (1, 3, 3)


def test_a_photo_without_its_key_is_deleted_again_when_the_store_is_back(
    placed: Placed, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(placed, now)
    name, late = selfie_name(), now + shredding.SELFIE_KEY_GRACE

    def away(name: str) -> bool:
        raise OSError("store is away")

    monkeypatch.setattr(objects.blobs(), "delete", away)
    assert purge.run(late).selfie_keys_destroyed == 1
    assert name in stored_names()
    with pytest.raises(NotFound):
        uploads.open_selfie(placed.order, late)

    monkeypatch.undo()
    purge.run(late)
    assert name not in stored_names()


def test_a_redo_is_possible_within_the_hour_and_refused_after_it(placed: Placed, now: datetime) -> None:
    finish(placed, now, done=2)
    late = now + shredding.SELFIE_KEY_GRACE
    purge.run(late)

    with pytest.raises(Refusal, match="selfie_deleted"):
        orders.retry_failed(placed.order, actor="staff", now=late)

    assert Shot.objects.filter(state="failed").count() == 1
    assert Order.objects.get().state == OrderState.READY


def test_a_redo_within_the_hour_keeps_the_selfie(placed: Placed, now: datetime) -> None:
    finish(placed, now, done=2)

    assert orders.retry_failed(placed.order, actor="staff", now=now + timedelta(minutes=59)) == 1
    assert purge.run(now + shredding.SELFIE_KEY_GRACE).selfie_keys_destroyed == 0

    assert uploads.open_selfie(placed.order, now)


def test_an_order_without_any_picture_loses_its_selfie_too(placed: Placed, now: datetime) -> None:
    finish(placed, now, done=0)

    assert purge.run(now + shredding.SELFIE_KEY_GRACE).selfie_keys_destroyed == 1
