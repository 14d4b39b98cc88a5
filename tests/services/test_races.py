"""What the state machine of the purge once found, each in the fewest steps."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection
from pytest_django import Settings

from headshots.exceptions import NotFound, Refusal
from headshots.models import Order, OrderKey, Receipt, Selfie, StoredObject
from headshots.services import clock, incarnation, objects, orders, purge
from headshots.services.orders import Placed
from headshots.states import OrderState
from headshots.vault.envelope import Kind
from tests.services.restore.conftest import back_up, put_back
from tests.services.unreliable import UnreliableStore

on_sqlite = pytest.mark.skipif(connection.vendor != "sqlite", reason="copies the database's file")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> UnreliableStore:
    """The disk store, which can be raced and can fail."""
    unreliable = UnreliableStore(objects.blobs())
    monkeypatch.setattr(objects, "blobs", lambda: unreliable)
    return unreliable


@pytest.mark.django_db
@pytest.mark.parametrize("is_receipted", [False, True])
def test_an_upload_whose_order_is_deleted_meanwhile_leaves_nothing(
    store: UnreliableStore, place: Callable[..., Placed], is_receipted: bool
) -> None:
    def delete() -> None:
        purge.request(Order.objects.get(), actor="customer", now=clock.now())
        if is_receipted:
            purge.run(clock.now() + timedelta(seconds=1))

    store.races.append(delete)

    with pytest.raises(NotFound):
        place()

    assert Order.objects.get().state == (OrderState.PURGED if is_receipted else OrderState.PURGING)
    assert not Selfie.objects.exists()
    assert list(store.list("o/")) == []
    assert StoredObject.objects.count() == 0


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[timedelta], None]]:
    """Sets this machine's clock ahead of the right time, or with zero right again."""
    right = clock.system_time
    yield lambda by: monkeypatch.setattr(clock, "system_time", lambda: right() + by)
    clock._seen.clear()


@pytest.mark.skipif(
    connection.vendor != "sqlite", reason="a database with a clock of its own takes no such order"
)
@pytest.mark.django_db
def test_an_order_placed_by_a_clock_that_was_ahead_does_not_live_longer_for_it(
    place: Callable[..., Placed], ahead: Callable[[timedelta], None], capsys: pytest.CaptureFixture[str]
) -> None:
    ahead(timedelta(hours=30))
    of_the_future = place(now=clock.now()).order
    ahead(timedelta(0))

    call_command("purge", "--reset-clock")

    assert Order.objects.get(pk=of_the_future.pk).state == OrderState.PURGING
    assert not OrderKey.objects.exists()
    assert "1 orders placed ahead of it ended" in capsys.readouterr().out
    assert clock.now() < of_the_future.created_at


@pytest.mark.django_db
def test_a_deletion_begun_by_a_clock_that_was_ahead_ends_by_the_right_one(
    place: Callable[..., Placed], ahead: Callable[[timedelta], None], settings: Settings
) -> None:
    settings.PURGE_SETTLE_SECONDS = 600.0
    begun = place(now=clock.now()).order
    ahead(timedelta(hours=30))
    call_command("purge")
    ahead(timedelta(0))
    assert Order.objects.get(pk=begun.pk).state == OrderState.PURGING

    call_command("purge", "--reset-clock")
    for minutes in (31, 42):  # one look each
        ahead(timedelta(minutes=minutes))
        call_command("purge")

    ended = Order.objects.get(pk=begun.pk)
    assert ended.state == OrderState.PURGED
    assert ended.shredded_at < ended.absent_at < ended.absent_again_at < clock.now() + timedelta(seconds=1)
    assert not list(objects.blobs().list("o/"))


@pytest.mark.django_db
def test_an_order_whose_key_is_lost_takes_no_picture_as_one_that_has_ended(
    place: Callable[..., Placed],
) -> None:
    order = place(now=clock.now()).order
    stored = objects.intend(order, Kind.HEADSHOT, 1, clock.now())
    kept = list(objects.blobs().list("o/"))
    objects.epochs().destroy_due(order.not_after)
    objects.forget_keys(order)

    with pytest.raises(NotFound):
        objects.put(stored, b"a picture", clock.now())

    assert list(objects.blobs().list("o/")) == kept


@pytest.mark.django_db
def test_a_photo_is_refused_while_its_hour_has_no_key_any_more(
    place: Callable[..., Placed], ahead: Callable[[timedelta], None]
) -> None:
    now = clock.now()
    place(now=now)
    ahead(timedelta(hours=30))
    call_command("purge")
    ahead(timedelta(0))
    call_command("purge", "--reset-clock")

    with pytest.raises(Refusal, match="clock_skew"):
        place(now=now)

    assert Order.objects.count() == 1


@on_sqlite
@pytest.mark.django_db(transaction=True)
def test_a_copy_of_before_is_known_also_when_the_store_took_no_tombstone(
    store: UnreliableStore, placed: Placed, tmp_path: Path
) -> None:
    back_up(tmp_path / "copy.sqlite3")
    store.faults.failing = {"put"}
    purge.request(placed.order, actor="customer", now=clock.now())

    put_back(tmp_path / "copy.sqlite3")

    assert incarnation.is_restored()
    with pytest.raises(Refusal, match="restored"):
        orders.find(placed.order.pk, placed.token, clock.now())


@on_sqlite
@pytest.mark.django_db(transaction=True)
def test_a_copy_does_not_become_current_by_what_is_logged_in_it(
    place: Callable[..., Placed], tmp_path: Path
) -> None:
    """Two orders live in the copy; one was purged since. The other's end is logged in the copy, too."""
    one, other = place(), place()
    back_up(tmp_path / "copy.sqlite3")
    purge.request(one.order, actor="customer", now=clock.now())
    put_back(tmp_path / "copy.sqlite3")
    assert incarnation.is_restored()
    after = other.order.expires_at

    purge.run(after)
    purge.run(after + timedelta(minutes=5))

    assert incarnation.is_restored()
    assert not Receipt.objects.exists()
