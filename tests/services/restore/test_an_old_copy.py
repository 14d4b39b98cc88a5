"""A database that is put back from a copy: nothing of it is readable, and it is brought up to date."""

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import NoReturn

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.utils import timezone

from headshots import tasks
from headshots.exceptions import NotFound, Refusal
from headshots.models import AuditEntry, Incarnation, Order, OrderKey, Receipt, Refund, Shot, StoredObject
from headshots.services import (
    audit,
    clock,
    delivery,
    incarnation,
    objects,
    orders,
    purge,
    receipts,
    restore,
    uploads,
    verification,
)
from headshots.services.orders import Placed
from headshots.states import OrderState
from headshots.vault.envelope import Kind
from headshots.vault.errors import StoreAway
from tests.paying import pay
from tests.services.restore.conftest import back_up, finish, put_back

pytestmark = [
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "sqlite", reason="copies the database's file"),
]


def _record_and_fail(now: datetime) -> None:
    from django.db import transaction

    with transaction.atomic():
        audit.record("order.placed", actor="test", reference=str(uuid.uuid4()), now=now)
        incarnation.observe()
        raise ZeroDivisionError


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


def test_the_audit_log_alone_makes_a_database_younger(placed: Placed) -> None:
    incarnation.observe()
    last = AuditEntry.objects.order_by("-seq")[0].seq

    assert incarnation.age() == (0, last)


@pytest.mark.django_db(transaction=True)
def test_a_read_that_a_purge_overtakes_finds_nothing_and_locks_nobody_out(
    placed: Placed, now: datetime
) -> None:
    looked_up = placed.order  # by a request that goes on after the purge began
    purge.request(placed.order, actor="customer", now=now)

    with pytest.raises(NotFound):
        uploads.open_selfie(looked_up, now)

    assert not incarnation.is_restored()
