"""The file of epoch keys alone: private, shared by processes, and without a trace of what was deleted."""

import os
import sqlite3
import stat
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from headshots.vault.envelope import Role
from headshots.vault.epochs_file import FileShelf
from headshots.vault.epochs_ring import RingEpochs
from headshots.vault.errors import BadKeyFile, KeyGone, StoreAway, Unreadable
from headshots.vault.keys import OrderKeyName, RootRing, not_after_of
from tests.vault.conftest import RING
from tests.vault.processes import in_processes

HOUR = timedelta(hours=1)
EPOCH = 487000
KEY = bytes(range(1, 33))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "epochs.sqlite3"


@pytest.fixture
def shelf(path: Path) -> FileShelf:
    return FileShelf(path)


def name_in(epoch: int) -> OrderKeyName:
    return OrderKeyName(order_id=UUID(int=5), role=Role.SELFIES, epoch=epoch, not_after=not_after_of(epoch))


def wrapped_keys(path: Path) -> dict[int, bytes]:
    connection = sqlite3.connect(path)
    rows = dict(connection.execute("SELECT epoch, wrapped FROM epoch_key"))
    connection.close()
    return rows


def test_epoch_key_lies_wrapped_in_a_private_file(path: Path, epochs: RingEpochs, now: datetime) -> None:
    epochs.wrap(KEY, name_in(EPOCH), now)

    key = RING.unwrap(wrapped_keys(path)[EPOCH], EPOCH)
    assert len(key) == 32
    assert key not in path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_epoch_key_does_not_open_under_another_ring(path: Path, epochs: RingEpochs, now: datetime) -> None:
    wrapped = epochs.wrap(KEY, name_in(EPOCH), now)
    stranger = RingEpochs(FileShelf(path), RootRing((b"o" * 32,)))

    for attempt in (
        lambda: stranger.unwrap(wrapped, name_in(EPOCH)),
        lambda: stranger.wrap(KEY, name_in(EPOCH), now),
    ):
        with pytest.raises(Unreadable) as caught:
            attempt()
        assert not isinstance(caught.value, KeyGone)


def test_root_key_may_be_rotated_while_orders_live(path: Path, epochs: RingEpochs, now: datetime) -> None:
    wrapped = epochs.wrap(KEY, name_in(EPOCH), now)
    rotated = RingEpochs(FileShelf(path), RootRing((b"n" * 32, *RING.keys)))

    assert rotated.unwrap(wrapped, name_in(EPOCH)) == KEY
    assert rotated.unwrap(rotated.wrap(KEY, name_in(EPOCH), now), name_in(EPOCH)) == KEY


def test_existing_store_open_to_others_is_refused(path: Path, shelf: FileShelf) -> None:
    path.chmod(0o640)

    with pytest.raises(BadKeyFile, match="mode 0640"):
        FileShelf(path)


def test_nothing_of_a_destroyed_key_is_left_in_the_files(path: Path, shelf: FileShelf) -> None:
    """Two weeks of hours, with purges that come days late and some keys destroyed before their time."""
    epochs = RingEpochs(shelf, RING)
    ever: dict[int, bytes] = {}
    for epoch in range(EPOCH, EPOCH + 400):
        began = not_after_of(epoch) - 24 * HOUR
        epochs.wrap(KEY, name_in(epoch), began)
        if epoch % 7 == 0:
            epochs.destroy(epoch - 3)
        if epoch % 60 == 0:
            ever |= wrapped_keys(path)
            present = path.read_bytes()
            assert all(wrapped in present for wrapped in wrapped_keys(path).values())
            epochs.destroy_due(began)
    ever |= wrapped_keys(path)

    epochs.destroy_due(not_after_of(EPOCH + 400))

    left = path.read_bytes()
    pieces = [wrapped[start : start + 16] for wrapped in ever.values() for start in range(16, 105, 8)]
    assert len(ever) > 340
    assert [piece for piece in pieces if piece in left] == []
    assert list(path.parent.iterdir()) == [path]


def test_store_uses_the_pragmas_that_erase(shelf: FileShelf) -> None:
    with shelf._connected() as connection:
        read = [
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("secure_delete", "journal_mode", "synchronous")
        ]

    assert read == [1, "delete", 2]


def test_processes_that_ask_together_get_the_same_key(path: Path, now: datetime) -> None:
    script = (
        "import sys, pathlib, datetime, uuid; from headshots.vault.epochs_file import FileShelf\n"
        "from headshots.vault.epochs_ring import RingEpochs\n"
        "from headshots.vault.keys import OrderKeyName, RootRing, not_after_of\n"
        "print('ready', flush=True); input()\n"
        "store = RingEpochs(FileShelf(pathlib.Path(sys.argv[1])), RootRing((b'r' * 32,)))\n"
        "now = datetime.datetime.fromisoformat(sys.argv[2])\n"
        "def name(epoch): return OrderKeyName("
        "order_id=uuid.UUID(int=5), role=1, epoch=epoch, not_after=not_after_of(epoch))\n"
        "key = bytes(range(1, 33))\n"
        "print(*(store.wrap(key, name(487000 - back), now).hex() for back in range(8)))"
    )

    answers = in_processes(6, script, path, now.isoformat())

    store = RingEpochs(FileShelf(path), RING)
    wrapped = [[bytes.fromhex(each) for each in answer.split()] for answer in answers]
    for back, of_one_hour in enumerate(zip(*wrapped, strict=True)):
        assert {store.unwrap(each, name_in(EPOCH - back)) for each in of_one_hour} == {KEY}
    assert len({each[8:16] for of_one_process in wrapped for each in of_one_process}) == 8


def test_key_is_not_made_when_its_epoch_is_destroyed_at_the_same_moment(
    epochs: RingEpochs, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrap = RootRing.wrap

    def destroyed_meanwhile(ring: RootRing, key: bytes, epoch: int) -> bytes:
        epochs.destroy(epoch)
        return wrap(ring, key, epoch)

    monkeypatch.setattr(RootRing, "wrap", destroyed_meanwhile)

    with pytest.raises(KeyGone):
        epochs.wrap(KEY, name_in(EPOCH), now)
    assert epochs.epochs() == []


def test_failed_write_leaves_the_store_as_it_was(path: Path, shelf: FileShelf) -> None:
    shelf.keep(EPOCH, b"wrapped")

    def fail_half_way() -> None:
        with shelf._writing() as connection:
            connection.execute("DELETE FROM epoch_key")
            connection.execute("INSERT INTO epoch_key VALUES (1, NULL)")

    with pytest.raises(sqlite3.IntegrityError):
        fail_half_way()

    assert wrapped_keys(path) == {EPOCH: b"wrapped"}


def test_store_whose_file_was_lost_is_away_and_is_not_made_anew(
    path: Path, epochs: RingEpochs, now: datetime
) -> None:
    wrapped = epochs.wrap(KEY, name_in(EPOCH), now)
    path.unlink()

    for operation in (
        lambda: epochs.wrap(KEY, name_in(EPOCH), now),
        lambda: epochs.unwrap(wrapped, name_in(EPOCH)),
        lambda: epochs.destroy(EPOCH),
        lambda: epochs.destroy_due(now),
        epochs.epochs,
    ):
        with pytest.raises(StoreAway, match="unable to open"):
            operation()

    assert list(path.parent.iterdir()) == []


def test_folder_of_the_store_is_made_private(tmp_path: Path) -> None:
    FileShelf(tmp_path / "keys" / "epochs.sqlite3")

    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert os.listdir(tmp_path / "keys") == ["epochs.sqlite3"]
