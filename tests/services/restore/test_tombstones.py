"""Deletions are remembered outside the database: beside the keys, and in the store."""

import stat
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import NoReturn

import pytest
from django.db import connection

from headshots.exceptions import NotFound
from headshots.models import Order, OrderKey
from headshots.services import (
    clock,
    delivery,
    incarnation,
    maintenance,
    marks,
    objects,
    orders,
    payments,
    purge,
    restore,
    tombstones,
    uploads,
)
from headshots.services.orders import Placed
from headshots.states import OrderState
from headshots.vault.envelope import Kind
from tests.services.restore.conftest import back_up, put_back
from tests.services.unreliable import OPERATIONS, UnreliableStore

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "sqlite", reason="copies the database's file"),
]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> UnreliableStore:
    """A store that can be taken away."""
    store = UnreliableStore(objects.blobs())
    monkeypatch.setattr(objects, "blobs", lambda: store)
    return store


@pytest.fixture
def deleted_while_away(placed: Placed, tmp_path: Path, store: UnreliableStore) -> Placed:
    """An order whose customer deleted it while the store was away; then the database of before."""
    incarnation.observe()
    back_up(tmp_path / "copy.sqlite3")
    store.faults.failing = set(OPERATIONS)
    purge.request(placed.order, actor="customer", now=clock.now())
    assert not OrderKey.objects.exists()
    store.faults.failing = set()
    put_back(tmp_path / "copy.sqlite3")
    assert OrderKey.objects.count() == 2
    return placed


def test_a_deletion_that_the_store_never_heard_of_is_done_again(deleted_while_away: Placed) -> None:
    assert restore.reconcile(clock.now()).purged_again == 1

    with pytest.raises(NotFound):
        orders.find_by_token(deleted_while_away.token, clock.now())
    with pytest.raises(NotFound):
        uploads.open_selfie(deleted_while_away.order, clock.now())
    assert Order.objects.get().purge_reason == "restored"
    assert not OrderKey.objects.exists()


def test_it_is_unreadable_also_when_another_machine_has_reconciled(deleted_while_away: Placed) -> None:
    """That one has no trace of the deletion; this one's marks were overtaken."""
    incarnation.renew(clock.now())
    assert not incarnation.is_restored()

    with pytest.raises(NotFound):
        uploads.open_selfie(deleted_while_away.order, clock.now())

    assert incarnation.is_restored()


def test_what_this_machine_alone_knows_is_told_to_the_store_by_the_next_pass(
    deleted_while_away: Placed, data: Path
) -> None:
    beside = data / "keys" / "tombstones" / deleted_while_away.order.pk.hex
    content = beside.read_bytes()
    assert stat.S_IMODE(beside.stat().st_mode) == 0o600

    purge.run(clock.now())

    assert not beside.exists()
    assert objects.blobs().get(tombstones.name_of(deleted_while_away.order.pk)) == content


def test_a_tombstone_stays_beside_the_keys_until_the_store_has_it(
    deleted_while_away: Placed, data: Path, store: UnreliableStore
) -> None:
    store.faults.failing = {"put"}
    purge.run(clock.now())

    assert [path.name for path in (data / "keys" / "tombstones").iterdir()] == [
        deleted_while_away.order.pk.hex
    ]


def test_a_folder_that_takes_no_tombstone_holds_up_no_deletion(
    placed: Placed, data: Path, purge_all: Callable[[], None]
) -> None:
    (data / "keys" / "tombstones").write_text("a file in its place")

    purge.request(placed.order, actor="customer", now=clock.now())
    purge_all()

    assert Order.objects.get().state == OrderState.PURGED
    assert tombstones.exists(placed.order.pk)


def test_an_expired_order_needs_no_tombstone_beside_the_keys(placed: Placed, data: Path) -> None:
    """No copy of the database shows it to anybody."""
    tombstones.remember(placed.order, placed.order.expires_at)
    assert not (data / "keys" / "tombstones").exists()

    tombstones.remember(placed.order, placed.order.expires_at - timedelta(seconds=1))
    assert (data / "keys" / "tombstones" / placed.order.pk.hex).exists()


def test_the_tombstone_does_not_wait_for_money(placed: Placed, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> NoReturn:
        raise OSError("no refund")

    monkeypatch.setattr(payments, "refund_missing", broken)
    purge.request(placed.order, actor="customer", now=clock.now())

    assert tombstones.exists(placed.order.pk)
    assert Order.objects.get().tombstoned_at is None

    monkeypatch.undo()
    purge.run(clock.now() + timedelta(minutes=1))
    assert Order.objects.get().tombstoned_at


def test_another_machine_knows_by_the_tombstone(put_back_after_purge: Placed) -> None:
    """It has no mark of its own: its process started after the restore, or never looked."""
    marks.path_of("incarnation").unlink()
    assert not incarnation.is_restored()

    with pytest.raises(NotFound):
        delivery.open_headshot(put_back_after_purge.order, 1, Kind.PREVIEW, clock.now())

    assert incarnation.is_restored()  # from the first attempt on, for everything


def test_the_first_pass_of_a_new_process_looks_at_the_tombstones(put_back_after_purge: Placed) -> None:
    marks.path_of("incarnation").unlink()
    boot = maintenance._Boot(clock.system_time())

    maintenance._round(boot)

    assert incarnation.is_restored()


def test_a_tombstone_outlives_the_keys_by_a_day_and_an_hour(
    placed: Placed, purge_all: Callable[[], None]
) -> None:
    purge.request(placed.order, actor="customer", now=clock.now())
    purge_all()
    end = placed.order.not_after + tombstones.KEPT_AFTER_END

    purge.run(end - timedelta(hours=1, seconds=1))
    assert tombstones.exists(placed.order.pk)
    purge.run(end)

    assert not tombstones.exists(placed.order.pk)


def test_a_tombstone_of_an_order_no_row_knows_tells_its_own_end(placed: Placed) -> None:
    tombstones.write(placed.order, clock.now())
    placed.order.pk = uuid.uuid4()
    tombstones.write(placed.order, clock.now())
    end = placed.order.not_after + tombstones.KEPT_AFTER_END

    assert tombstones.prune(end - timedelta(seconds=1)) == 0
    assert tombstones.prune(end) == 2


def test_a_tombstone_names_nobody_and_holds_two_times(placed: Placed, now: datetime) -> None:
    tombstones.write(placed.order, now)

    content = objects.blobs().get(tombstones.name_of(placed.order.pk))

    assert (len(content), content[:4]) == (20, b"HST1")
    assert int.from_bytes(content[4:12]) == int(placed.order.not_after.timestamp())
    assert int.from_bytes(content[12:]) == int(now.timestamp())
