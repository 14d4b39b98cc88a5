"""What every epoch store promises: a key made once, found by all, never given out, and gone for ever."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from headshots.vault.envelope import Role
from headshots.vault.errors import KeyGone, StoreAway, Unreadable
from headshots.vault.keys import EpochStore, OrderKeyName, epoch_of, not_after_of
from tests.vault.conftest import Opened

pytestmark = pytest.mark.slow

KEY = bytes(range(1, 33))
MOMENT = timedelta(microseconds=1)


@pytest.fixture
def now() -> datetime:
    """The real time: Redis and KMS go by their own clocks."""
    return datetime.now(UTC)


@pytest.fixture
def epoch(now: datetime) -> int:
    return epoch_of(now)


@pytest.fixture(params=["file", "memory", "redis", "kms"])
def opened(request: pytest.FixtureRequest) -> Opened:
    found: Opened = request.getfixturevalue(f"{request.param}_epochs")
    return found


@pytest.fixture
def store(opened: Opened) -> EpochStore:
    return opened.store


def name_in(epoch: int, order_id: UUID | None = None, role: Role = Role.SELFIES) -> OrderKeyName:
    return OrderKeyName(order_id=order_id or uuid4(), role=role, epoch=epoch, not_after=not_after_of(epoch))


def test_wrapped_key_opens_again_in_every_process(opened: Opened, epoch: int, now: datetime) -> None:
    name = name_in(epoch)

    wrapped = opened.store.wrap(KEY, name, now)

    assert opened.store.unwrap(wrapped, name) == KEY
    assert opened.again().unwrap(wrapped, name) == KEY
    assert KEY not in wrapped
    assert opened.store.wrap(KEY, name, now) != wrapped


def test_header_of_a_wrapped_key_names_role_and_epoch_key(
    store: EpochStore, epoch: int, now: datetime
) -> None:
    first, second, results, earlier = (
        store.wrap(KEY, name, now)
        for name in (
            name_in(epoch),
            name_in(epoch),
            name_in(epoch, role=Role.RESULTS),
            name_in(epoch - 1),
        )
    )

    assert first[:4] == b"HSW1"
    assert first[4] in (1, 2)
    assert (first[5:8], results[5:8]) == (b"\x01\0\0", b"\x02\0\0")
    assert first[8:16] == second[8:16] == results[8:16] != earlier[8:16]


def test_keys_are_listed_by_their_hour(opened: Opened, epoch: int, now: datetime) -> None:
    for number in (epoch, epoch - 3, epoch, epoch - 1):
        opened.store.wrap(KEY, name_in(number), now)

    assert opened.store.epochs() == opened.again().epochs() == [epoch - 3, epoch - 1, epoch]


@pytest.mark.parametrize(
    "change",
    [
        {"order_id": UUID(int=7)},
        {"role": Role.RESULTS},
        {"not_after": timedelta(seconds=1)},
        {"not_after": timedelta(hours=1)},
        {"not_after": MOMENT},
        {"epoch": -1},
    ],
    ids=str,
)
def test_edited_row_does_not_open(
    store: EpochStore, epoch: int, now: datetime, change: dict[str, Any]
) -> None:
    name = name_in(epoch)
    wrapped = store.wrap(KEY, name, now)
    store.wrap(KEY, name_in(epoch - 1), now)
    relative = {
        field: getattr(name, field) + by for field, by in change.items() if field in ("not_after", "epoch")
    }

    with pytest.raises(Unreadable) as caught:
        store.unwrap(wrapped, replace(name, **{**change, **relative}))

    assert not isinstance(caught.value, KeyGone)
    assert store.unwrap(wrapped, name) == KEY


def test_altered_bytes_do_not_open(store: EpochStore, epoch: int, now: datetime) -> None:
    name = name_in(epoch)
    wrapped = store.wrap(KEY, name, now)
    flipped = [
        wrapped[:at] + bytes([wrapped[at] ^ 1]) + wrapped[at + 1 :] for at in (0, 4, 5, 6, 7, 8, 15, -1)
    ]
    cut = [b"", wrapped[:7], wrapped[:16], wrapped[:-1], wrapped + b"\0"]

    for altered in (*flipped, *cut):
        with pytest.raises(Unreadable):
            store.unwrap(altered, name)


def test_epoch_never_made_has_no_key(store: EpochStore, epoch: int, now: datetime) -> None:
    wrapped = store.wrap(KEY, name_in(epoch), now)

    with pytest.raises(KeyGone) as caught:
        store.unwrap(wrapped, name_in(epoch - 1))

    assert caught.value.epoch == epoch - 1


def test_destroyed_epoch_stays_destroyed(opened: Opened, epoch: int, now: datetime) -> None:
    name = name_in(epoch)
    wrapped = opened.store.wrap(KEY, name, now)
    kept = opened.again()
    assert kept.unwrap(wrapped, name) == KEY

    opened.store.destroy(epoch)
    opened.store.destroy(epoch)

    for store in (opened.store, kept, opened.again()):
        with pytest.raises(KeyGone):
            store.unwrap(wrapped, name)
        with pytest.raises(KeyGone):
            store.wrap(KEY, name, now)
        assert store.epochs() == []


def test_epoch_destroyed_before_it_was_made_is_never_made(opened: Opened, epoch: int, now: datetime) -> None:
    opened.store.destroy(epoch)

    for store in (opened.store, opened.again()):
        with pytest.raises(KeyGone):
            store.wrap(KEY, name_in(epoch), now)
    assert opened.store.epochs() == []


def test_keys_are_wrapped_until_the_epoch_ends_and_not_at_its_end(
    store: EpochStore, epoch: int, now: datetime
) -> None:
    name, end = name_in(epoch), not_after_of(epoch)
    store.wrap(KEY, name, now)

    assert store.unwrap(store.wrap(KEY, name, end - MOMENT), name) == KEY
    with pytest.raises(KeyGone):
        store.wrap(KEY, name, end)
    with pytest.raises(KeyGone):
        store.wrap(KEY, name_in(epoch - 1000), now)
    assert store.epochs() == [epoch]


def test_epoch_that_has_not_begun_is_refused(store: EpochStore, epoch: int, now: datetime) -> None:
    with pytest.raises(ValueError, match=f"{epoch + 1} has not begun"):
        store.wrap(KEY, name_in(epoch + 1), now)

    assert store.epochs() == []


def test_exactly_the_due_epochs_are_destroyed(opened: Opened, epoch: int, now: datetime) -> None:
    store = opened.store
    for number in (epoch - 2, epoch - 1, epoch):
        store.wrap(KEY, name_in(number), now)

    assert store.destroy_due(not_after_of(epoch - 2) - MOMENT) == []
    assert store.destroy_due(not_after_of(epoch - 1)) == [epoch - 2, epoch - 1]
    assert store.destroy_due(not_after_of(epoch - 1)) == []
    assert opened.again().destroy_due(not_after_of(epoch - 1)) == []
    assert store.epochs() == [epoch]


def test_epoch_destroyed_early_is_not_destroyed_again_when_it_is_due(
    store: EpochStore, epoch: int, now: datetime
) -> None:
    store.wrap(KEY, name_in(epoch), now)
    store.destroy(epoch)

    assert store.destroy_due(not_after_of(epoch)) == []


def test_clock_that_jumps_back_revives_nothing(opened: Opened, epoch: int, now: datetime) -> None:
    name = name_in(epoch)
    wrapped = opened.store.wrap(KEY, name, now)
    opened.store.destroy_due(not_after_of(epoch))

    for store in (opened.store, opened.again()):
        with pytest.raises(KeyGone):
            store.wrap(KEY, name, now)
        with pytest.raises(KeyGone):
            store.unwrap(wrapped, name)


@pytest.mark.parametrize("kind", ["redis", "kms"])
def test_clock_of_ours_that_is_days_late_makes_no_key_of_a_past_hour(
    request: pytest.FixtureRequest, epoch: int, now: datetime, kind: str
) -> None:
    """These stores have a clock of their own, so an hour that is over is over."""
    store: EpochStore = request.getfixturevalue(f"{kind}_epochs").store
    late = timedelta(days=3)

    with pytest.raises((KeyGone, StoreAway)):
        store.wrap(KEY, name_in(epoch - 72), now - late)

    assert store.epochs() == []


def test_all_copies_of_an_order_key_die_with_the_epoch(opened: Opened, epoch: int, now: datetime) -> None:
    """The backup that kept the row and the root key opens nothing."""
    name = name_in(epoch)
    wrapped = opened.store.wrap(KEY, name, now)
    opened.store.destroy_due(not_after_of(epoch))

    with pytest.raises(KeyGone):
        opened.again().unwrap(wrapped, name)


def test_threads_that_ask_together_get_the_same_key(opened: Opened, epoch: int, now: datetime) -> None:
    barrier = threading.Barrier(8)
    stores = [opened.again() for _ in range(8)]
    name = name_in(epoch)

    def ask(store: EpochStore) -> bytes:
        barrier.wait()
        return store.wrap(KEY, name, now)

    with ThreadPoolExecutor(8) as pool:
        wrapped = list(pool.map(ask, stores))

    assert len({each[8:16] for each in wrapped}) == 1
    assert [opened.again().unwrap(each, name) for each in wrapped] == [KEY] * 8
    assert opened.store.epochs() == [epoch]
