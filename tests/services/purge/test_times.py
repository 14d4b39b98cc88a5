"""The times that a receipt states: each after what it speaks of, and all of them in order."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from pytest_django import Settings

from headshots.models import AuditEntry, Order, Receipt
from headshots.services import clock, objects, purge, receipts
from headshots.services.orders import Placed
from headshots.states import OrderState
from tests.services.unreliable import UnreliableStore

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)


class SlowStore(UnreliableStore):
    """Takes 90 s to delete an order's objects and 20 s to list them, of a clock that it moves itself."""

    elapsed = timedelta(0)

    def delete_all(self, prefix: str) -> int:
        """As the protocol has it."""
        deleted = self.real.delete_all(prefix)
        self.elapsed += timedelta(seconds=90)
        return deleted

    def list(self, prefix: str) -> Iterator[str]:
        """As the protocol has it."""
        names: Sequence[str] = sorted(self.real.list(prefix))
        if prefix.startswith("o/"):
            self.elapsed += timedelta(seconds=20)
        return iter(names)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, now: datetime) -> SlowStore:
    """A slow store in the place of the real one, and a clock that counts what it takes."""
    store = SlowStore(objects.blobs())
    monkeypatch.setattr(objects, "blobs", lambda: store)
    monkeypatch.setattr(clock, "now", lambda: now + timedelta(days=1) + store.elapsed)
    return store


def to_the_second(at: datetime) -> datetime:
    return at.replace(microsecond=0)


def only_receipt() -> receipts.receipts.Receipt:
    return receipts.read(Receipt.objects.get().text)[0]


def test_each_step_has_the_time_at_which_it_was_through(
    placed: Placed, slow: SlowStore, now: datetime
) -> None:
    start = clock.now()

    purge.run(start)
    first = Order.objects.get()
    slow.elapsed = timedelta(minutes=10)
    purge.run(clock.now())

    assert first.shredded_at == start
    assert first.swept_at == start + timedelta(seconds=90)
    assert first.absent_at == start + timedelta(seconds=110)
    assert Order.objects.get().absent_again_at == start + timedelta(minutes=10, seconds=20)
    said = only_receipt()
    assert said.objects_deleted == to_the_second(start + timedelta(seconds=90))


def test_what_a_pass_fences_it_also_sweeps_though_time_went_on(
    placed: Placed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys of an order are said to end when they did, and not when the pass began."""
    began = placed.order.expires_at
    monkeypatch.setattr(clock, "now", lambda: began + MINUTE)

    purge.run(began)

    order = Order.objects.get()
    assert (order.shredded_at, order.absent_at) == (began + MINUTE, began + MINUTE)


def test_nothing_is_said_to_be_deleted_before_a_listing_has_shown_it(
    placed: Placed, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects.blobs(), "delete_all", lambda prefix: 1)
    purge.request(placed.order, actor="customer", now=now)
    assert Order.objects.get().swept_at is None

    monkeypatch.undo()
    late = now + timedelta(hours=3)
    purge.run(late)
    purge.run(late + MINUTE)

    said = only_receipt()
    assert said.result_key_destroyed == to_the_second(now)
    assert said.objects_deleted == to_the_second(late)
    assert said.absent_verified == (to_the_second(late), to_the_second(late + MINUTE))


def test_a_look_from_before_a_late_write_is_not_cited(
    placed: Placed, now: datetime, settings: Settings, tmp_path: Path
) -> None:
    """The second look found nothing, its receipt failed, and something came before the next try."""
    settings.RECEIPT_KEY = tmp_path / "not there"
    purge.request(placed.order, actor="customer", now=now)
    assert purge.run(now + MINUTE).failed == 1
    assert Order.objects.get().absent_again_at == now + MINUTE
    objects.blobs().put(f"o/{placed.order.pk.hex}/{'0' * 32}", b"HSE1 late")
    settings.RECEIPT_KEY = None

    late = now + timedelta(minutes=10)
    purge.run(late)
    assert Order.objects.get().absent_again_at is None
    purge.run(late + MINUTE)

    said = only_receipt()
    assert said.objects_deleted == to_the_second(late)
    assert said.absent_verified == (to_the_second(late), to_the_second(late + MINUTE))
    assert receipts.verify() == []


def test_a_receipt_that_failed_cites_the_look_before_the_next_try(
    placed: Placed, now: datetime, settings: Settings, tmp_path: Path
) -> None:
    settings.RECEIPT_KEY = tmp_path / "not there"
    purge.request(placed.order, actor="customer", now=now)
    purge.run(now + MINUTE)
    settings.RECEIPT_KEY = None

    purge.run(now + 10 * MINUTE)

    assert only_receipt().absent_verified[1] == to_the_second(now + 10 * MINUTE)


def test_a_look_by_a_clock_that_was_ahead_is_not_cited(
    placed: Placed, now: datetime, settings: Settings, tmp_path: Path
) -> None:
    settings.RECEIPT_KEY = tmp_path / "not there"
    purge.request(placed.order, actor="customer", now=now)
    purge.run(now + timedelta(hours=5))
    settings.RECEIPT_KEY = None

    right = clock.now()
    purge.end_orders_of_the_future(right)
    assert Order.objects.get().absent_again_at is None
    purge.run(right + MINUTE)

    assert only_receipt().absent_verified[1] == to_the_second(right + MINUTE)


def test_the_second_look_waits_for_a_pause_that_was_made_longer(
    placed: Placed, now: datetime, settings: Settings
) -> None:
    purge.request(placed.order, actor="customer", now=now)
    first = Order.objects.get().absent_at
    assert first
    settings.PURGE_SETTLE_SECONDS = 120.0

    assert purge.run(first + timedelta(seconds=119)).purged == 0
    assert purge.run(first + timedelta(seconds=120)).purged == 1


@pytest.mark.parametrize(
    ("field", "seconds"),
    [("shredded_at", 11), ("swept_at", 21), ("absent_at", 9), ("absent_at", 31), ("absent_again_at", 29)],
)
def test_no_receipt_is_signed_whose_times_are_out_of_order(
    placed: Placed, now: datetime, settings: Settings, field: str, seconds: int
) -> None:
    settings.PURGE_SETTLE_SECONDS = 10.0
    purge.request(placed.order, actor="customer", now=now)
    steps = {"shredded_at": 0, "swept_at": 10, "absent_at": 20, "absent_again_at": 30}
    changed = {**steps, field: seconds}
    Order.objects.update(**{name: now + timedelta(seconds=after) for name, after in changed.items()})
    logged = AuditEntry.objects.count()

    with pytest.raises(RuntimeError, match="out of order"):
        receipts.issue(Order.objects.get(), kinds=[], ciphertexts=[], now=now)

    assert (Receipt.objects.count(), AuditEntry.objects.count()) == (0, logged)
    assert Order.objects.get().state == OrderState.PURGING
