"""The minute's cache of clear order keys: when it spares an unwrapping, and when it must not."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from headshots.vault.cache import OrderKeys
from headshots.vault.envelope import Kind, ObjectName, Role, open_object, seal_object
from headshots.vault.epochs_file import FileShelf
from headshots.vault.epochs_ring import RingEpochs
from headshots.vault.errors import KeyGone, StoreAway, Unreadable
from headshots.vault.keys import OrderKeyName, new_order_key, not_after_of, open_order_key
from tests.vault.conftest import RING

EPOCH = 487000
END = not_after_of(EPOCH)


class WatchedEpochs(RingEpochs):
    """A real store that counts how often a key is unwrapped, and can be made to do something just then."""

    asked = 0
    meanwhile: Callable[[], None] | None = None

    def unwrap(self, wrapped: bytes, name: OrderKeyName) -> bytes:
        self.asked += 1
        if self.meanwhile is not None:
            self.meanwhile()
        return super().unwrap(wrapped, name)


class Bench:
    """An order with one wrapped selfie key, and a clock we turn by hand."""

    def __init__(self, epochs: WatchedEpochs, order_id: UUID, now: datetime) -> None:
        self.order_id = order_id
        self.seconds = 1000.0
        self.wrapped = new_order_key(epochs, order_id=order_id, role=Role.SELFIES, epoch=EPOCH, now=now)
        self.clear = open_order_key(
            epochs, self.wrapped, order_id=order_id, role=Role.SELFIES, epoch=EPOCH, not_after=END
        )
        self.order_keys = OrderKeys(lambda: epochs, clock=lambda: self.seconds)
        self.epochs = epochs
        epochs.asked = 0

    def opened(
        self, *, role: Role = Role.SELFIES, not_after: datetime = END, generation: int = 1
    ) -> AbstractContextManager[bytearray]:
        return self.order_keys.opened(
            self.wrapped,
            order_id=self.order_id,
            role=role,
            epoch=EPOCH,
            not_after=not_after,
            generation=generation,
        )

    def read(self) -> bytes:
        with self.opened() as key:
            return bytes(key)


@pytest.fixture
def bench(tmp_path: Path, order_id: UUID, now: datetime) -> Bench:
    return Bench(WatchedEpochs(FileShelf(tmp_path / "epochs.sqlite3"), RING), order_id, now)


def test_second_use_within_a_minute_asks_no_epoch_store(bench: Bench) -> None:
    first = bench.read()
    bench.seconds += 59.9
    second = bench.read()

    assert first == second == bench.clear
    assert bench.epochs.asked == 1


def test_key_is_unwrapped_anew_after_a_minute(bench: Bench) -> None:
    bench.read()
    bench.seconds += 60
    bench.read()

    assert bench.epochs.asked == 2


def test_using_a_key_does_not_prolong_its_minute(bench: Bench) -> None:
    for seconds in (0, 40, 19, 1):
        bench.seconds += seconds
        bench.read()

    assert bench.epochs.asked == 2


def test_key_of_a_destroyed_epoch_is_gone_within_a_minute(bench: Bench) -> None:
    bench.read()
    bench.epochs.destroy(EPOCH)
    bench.seconds += 60

    with pytest.raises(KeyGone):
        bench.read()


def test_forgotten_order_is_asked_for_again(bench: Bench) -> None:
    bench.read()
    bench.epochs.destroy(EPOCH)

    bench.order_keys.forget(bench.order_id)

    with pytest.raises(KeyGone):
        bench.read()


def test_forgetting_one_order_keeps_the_others(bench: Bench) -> None:
    bench.read()
    bench.order_keys.forget(uuid4())
    bench.read()

    assert bench.epochs.asked == 1


def test_key_unwrapped_while_its_order_is_forgotten_is_not_kept(bench: Bench) -> None:
    bench.epochs.meanwhile = lambda: bench.order_keys.forget(bench.order_id)

    assert bench.read() == bench.clear
    bench.epochs.meanwhile = None
    bench.read()

    assert bench.epochs.asked == 2


def test_other_generation_is_unwrapped_for_itself(bench: Bench) -> None:
    for generation in (1, 2, 1, 2):
        with bench.opened(generation=generation) as key:
            assert key == bench.clear

    assert bench.epochs.asked == 2


@pytest.mark.parametrize("change", [{"not_after": END + timedelta(hours=1)}, {"role": Role.RESULTS}], ids=str)
def test_edited_row_does_not_open_through_the_cache(bench: Bench, change: dict[str, object]) -> None:
    bench.read()

    with pytest.raises(Unreadable), bench.opened(**change):  # type: ignore[arg-type]
        pass

    assert bench.read() == bench.clear
    assert bench.epochs.asked == 2


def test_entry_of_an_edited_row_is_replaced(bench: Bench, now: datetime) -> None:
    bench.read()
    bench.wrapped = new_order_key(
        bench.epochs, order_id=bench.order_id, role=Role.SELFIES, epoch=EPOCH, now=now
    )
    bench.epochs.asked = 0

    assert bench.read() == bench.read() != bench.clear
    assert bench.epochs.asked == 1


def test_key_is_wiped_when_its_block_ends_also_by_an_error(bench: Bench) -> None:
    with bench.opened() as key:
        kept = key
    with pytest.raises(RuntimeError), bench.opened() as key:
        raise RuntimeError
    assert kept == key == bytes(32)

    assert bench.read() == bench.clear


def test_forgetting_does_not_pull_the_key_from_under_a_writer(bench: Bench) -> None:
    name = ObjectName(order_id=bench.order_id, object_id=uuid4(), kind=Kind.SELFIE, index=0, generation=1)
    bench.read()

    with bench.opened() as key:
        bench.order_keys.forget(bench.order_id)
        sealed = seal_object(key, name, b"pixels")

    assert open_object(bench.clear, name, sealed) == b"pixels"


def test_forgotten_and_expired_keys_are_wiped_in_memory(bench: Bench) -> None:
    def held() -> list[bytearray]:
        return [entry.key for entry in bench.order_keys._entries.values()]

    bench.read()
    forgotten = held()
    bench.order_keys.forget(bench.order_id)
    bench.read()
    expired = held()
    bench.seconds += 60
    bench.order_keys.drop_expired()

    assert forgotten == expired == [bytearray(32)]
    assert held() == []


def test_readers_that_come_together_unwrap_once(bench: Bench) -> None:
    barrier = threading.Barrier(8)
    bench.epochs.meanwhile = lambda: time.sleep(0.02)  # long enough for the other seven to arrive

    def read(_: int) -> bytes:
        barrier.wait()
        return bench.read()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(read, range(8))) == {bench.clear}

    assert bench.epochs.asked == 1


def test_reader_that_waited_for_one_who_failed_asks_for_itself(bench: Bench) -> None:
    barrier = threading.Barrier(2)

    def fail_once() -> None:
        bench.epochs.meanwhile = None
        time.sleep(0.02)
        raise StoreAway("once")

    bench.epochs.meanwhile = fail_once

    def read(_: int) -> bytes | None:
        barrier.wait()
        try:
            return bench.read()
        except StoreAway:
            return None

    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(read, range(2))) == {None, bench.clear}

    assert bench.epochs.asked == 2


def test_keys_can_be_forgotten_while_the_store_cannot_be_reached(order_id: UUID) -> None:
    def away() -> RingEpochs:
        raise StoreAway("not there")

    keys = OrderKeys(away)

    keys.forget(order_id)
    keys.drop_expired()
    with (
        pytest.raises(StoreAway),
        keys.opened(b"", order_id=order_id, role=Role.SELFIES, epoch=EPOCH, not_after=END, generation=1),
    ):
        pass
