"""A database put back from a copy: it refuses to serve, nothing is readable, the way back is honest."""

import sqlite3
import stat
import uuid
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import NoReturn

import pytest
from django.core.management import call_command
from django.db import connection, connections
from django.test import Client
from django.utils import timezone

from headshots import tasks
from headshots.exceptions import NotFound, Refusal
from headshots.models import (
    AuditEntry,
    Incarnation,
    Order,
    OrderKey,
    Receipt,
    Refund,
    Shot,
    StoredObject,
)
from headshots.services import (
    audit,
    claiming,
    clock,
    delivery,
    incarnation,
    maintenance,
    marks,
    objects,
    orders,
    payments,
    purge,
    receipts,
    restore,
    shots,
    tombstones,
    uploads,
    verification,
)
from headshots.services.orders import Placed
from headshots.states import OrderState
from headshots.vault.envelope import Kind
from headshots.vault.errors import StoreAway
from pipelines.types import FinishedShot, QualityReport
from tests.paying import pay
from tests.services.unreliable import OPERATIONS, UnreliableStore

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "sqlite", reason="copies the database's file"),
]


def finish(placed: Placed) -> None:
    """Three pictures, without an engine."""
    at = clock.now()
    orders.accept(placed.order, at)
    for claimed in claiming.claim("worker", 3, at):
        finished = FinishedShot(
            shot_id=str(claimed.shot.pk),
            seed=claimed.seeds[0],
            jpeg=b"a picture",
            preview_jpeg=b"a small one",
            width=896,
            height=1152,
            report=QualityReport(measures={}),
            seconds=1.0,
        )
        assert shots.commit(claimed, finished, at)


def back_up(to: Path) -> None:
    """A consistent copy of the database, as an operator's backup makes it."""
    with closing(sqlite3.connect(to)) as copy:
        assert connection.connection is not None or connection.ensure_connection() is None
        connection.connection.backup(copy)


def put_back(copy: Path) -> None:
    """The old copy in the place of the database, under a service that goes on running."""
    with closing(sqlite3.connect(copy)) as source:
        source.backup(connection.connection)
    connections.close_all()


@pytest.fixture
def put_back_after_purge(placed: Placed, tmp_path: Path, purge_all: Callable[[], None]) -> Placed:
    """An order with pictures, purged and receipted; then the database of before."""
    finish(placed)
    incarnation.observe()
    back_up(tmp_path / "copy.sqlite3")
    purge.request(placed.order, actor="customer", now=clock.now())
    purge_all()
    assert Receipt.objects.count() == 1
    put_back(tmp_path / "copy.sqlite3")
    assert Order.objects.get().state == OrderState.READY
    assert OrderKey.objects.count() == 2
    return placed


def test_the_service_says_why_it_is_not_ready(client: Client, put_back_after_purge: Placed) -> None:
    response = client.get("/readyz")

    assert response.status_code == 503
    assert response.json()["reasons"] == [incarnation.PROBLEM]


def test_nothing_of_it_is_readable(client: Client, put_back_after_purge: Placed) -> None:
    placed = put_back_after_purge
    now = clock.now()
    order = Order.objects.get()

    bearer = {"Authorization": f"Bearer {placed.token}"}
    page = client.get(f"/api/v1/orders/{order.pk}", headers=bearer)
    assert (page.status_code, page.json()["code"]) == (503, "restored")
    with pytest.raises(Refusal, match="restored"):
        orders.find_by_token(placed.token, now)
    for read in (
        lambda: delivery.open_headshot(order, 1, Kind.PREVIEW, now),
        lambda: delivery.stream_archive(order, now),
        lambda: uploads.open_selfie(order, now),
        lambda: objects.read(StoredObject.objects.filter(order=order)[0], now),
    ):
        with pytest.raises(NotFound):
            read()


def test_nothing_is_taken_and_no_worker_works(
    put_back_after_purge: Placed, place: Callable[..., Placed]
) -> None:
    before = list(Order.objects.values())

    with pytest.raises(Refusal, match="restored"):
        place()
    tasks.sweep()
    tasks.assess(str(put_back_after_purge.order.pk))
    tasks.render()

    assert list(Order.objects.values()) == before


def test_a_purge_before_the_reconciliation_issues_no_receipt(put_back_after_purge: Placed) -> None:
    after = put_back_after_purge.order.expires_at

    purge.run(after)
    purge.run(after + timedelta(minutes=5))

    assert Order.objects.get().state == OrderState.PURGING
    assert not OrderKey.objects.exists()
    assert not Receipt.objects.exists()


def test_at_its_end_its_keys_are_destroyed_though_the_store_is_away(
    put_back_after_purge: Placed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the store would say decides how the order is fenced, and not whether its keys go."""

    def list_nothing(prefix: str) -> NoReturn:
        raise StoreAway

    incarnation.observe()
    monkeypatch.setattr(objects.blobs(), "list", list_nothing)

    purge.run(put_back_after_purge.order.not_after)

    assert not OrderKey.objects.exists()
    order = Order.objects.get()
    assert (order.state, order.shredded_at) == (OrderState.READY, order.not_after)


def test_reconciling_purges_again_and_says_nothing_false(
    client: Client,
    put_back_after_purge: Placed,
    purge_all: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    at = timezone.now().replace(microsecond=0)
    call_command("restore_reconcile")
    purge_all()

    assert "1 orders purged again" in capsys.readouterr().out
    assert Order.objects.get().state == OrderState.PURGED
    said = receipts.read(Receipt.objects.get().text)[0]
    assert said.reason == "restored"
    assert (said.selfies, said.headshots, said.previews) == (
        0,
        0,
        0,
    )  # they were deleted, and receipted, before
    assert said.result_key_destroyed >= at
    assert client.get("/readyz").status_code == 200
    report = verification.inspect(timezone.now(), is_full=True)
    assert report.is_clean, str(report)


def test_a_copy_from_before_the_pictures_gives_no_money_back(
    place: Callable[..., Placed], tmp_path: Path, purge_all: Callable[[], None]
) -> None:
    """They were delivered, as far as anybody knows; the copy does not."""
    placed = place(tier_slug="premium")
    pay(placed.order, clock.now())
    incarnation.observe()
    back_up(tmp_path / "copy.sqlite3")
    Shot.objects.update(state="done")
    purge.request(placed.order, actor="customer", now=clock.now())
    put_back(tmp_path / "copy.sqlite3")

    assert restore.reconcile(clock.now()).purged_again == 1

    assert not Refund.objects.exists()


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


def test_it_can_serve_again_afterwards(put_back_after_purge: Placed, place: Callable[..., Placed]) -> None:
    restore.reconcile(clock.now())

    fresh = place()
    finish(fresh)

    assert delivery.open_headshot(fresh.order, 1, Kind.HEADSHOT, clock.now()) == b"a picture"


def test_orders_the_copy_never_knew_lose_their_objects(
    placed: Placed, place: Callable[..., Placed], tmp_path: Path
) -> None:
    back_up(tmp_path / "copy.sqlite3")
    unknown = place()
    assert purge.objects_left() == 2
    put_back(tmp_path / "copy.sqlite3")

    done = restore.reconcile(clock.now())

    assert (done.purged_again, done.objects_deleted) == (0, 1)
    assert [name.split("/")[1] for name in objects.blobs().list("o/")] == [placed.order.pk.hex]
    assert not Order.objects.filter(pk=unknown.order.pk).exists()


def test_an_order_that_lived_on_in_both_is_kept(
    placed: Placed, place: Callable[..., Placed], tmp_path: Path
) -> None:
    back_up(tmp_path / "copy.sqlite3")
    place()
    incarnation.observe()  # each pass of the purge does
    put_back(tmp_path / "copy.sqlite3")
    assert incarnation.is_restored()

    restore.reconcile(clock.now())

    assert uploads.open_selfie(placed.order, clock.now())


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


def test_an_older_copy_is_noticed_after_a_reconciliation_too(
    put_back_after_purge: Placed, tmp_path: Path
) -> None:
    back_up(tmp_path / "older.sqlite3")
    restore.reconcile(clock.now())
    restore.reconcile(clock.now())
    assert Incarnation.objects.count() == 2
    assert not incarnation.is_restored()

    put_back(tmp_path / "older.sqlite3")

    assert incarnation.is_restored()


def test_checkpoints_of_the_lost_stretch_are_put_on_record(
    placed: Placed, place: Callable[..., Placed], tmp_path: Path
) -> None:
    back_up(tmp_path / "copy.sqlite3")
    place()
    audit.checkpoint(clock.now())
    put_back(tmp_path / "copy.sqlite3")

    done = restore.reconcile(clock.now())

    assert done.checkpoints_lost == 1
    assert audit.checkpoint_numbers() == [1]  # it stays, and the log says that it was lost
    assert AuditEntry.objects.get(event="audit.restored").detail == {"first": 1, "last": 1}
    assert audit.verify(clock.now()) == []


def test_rows_of_a_transaction_that_is_taken_back_are_not_remembered(placed: Placed, now: datetime) -> None:
    incarnation.observe()

    with pytest.raises(ZeroDivisionError):
        _record_and_fail(now)

    assert not incarnation.is_restored()


def _record_and_fail(now: datetime) -> None:
    from django.db import transaction

    with transaction.atomic():
        audit.record("order.placed", actor="test", reference=str(uuid.uuid4()), now=now)
        incarnation.observe()
        raise ZeroDivisionError


def test_the_audit_log_alone_makes_a_database_younger(placed: Placed) -> None:
    incarnation.observe()
    last = AuditEntry.objects.order_by("-seq")[0].seq

    assert incarnation.age() == (0, last)


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


@pytest.mark.django_db(transaction=True)
def test_a_read_that_a_purge_overtakes_finds_nothing_and_locks_nobody_out(
    placed: Placed, now: datetime
) -> None:
    looked_up = placed.order  # by a request that goes on after the purge began
    purge.request(placed.order, actor="customer", now=now)

    with pytest.raises(NotFound):
        uploads.open_selfie(looked_up, now)

    assert not incarnation.is_restored()
