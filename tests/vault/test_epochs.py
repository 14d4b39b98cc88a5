"""The epoch store: keys that are made once, found by all, and gone for ever."""

import os
import sqlite3
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from headshots.vault.errors import BadKeyFile, KeyGone, Unreadable
from headshots.vault.keys import FileEpochStore, RootRing, not_after_of
from tests.vault.processes import in_processes

HOUR = timedelta(hours=1)
OLD = b"o" * 32


def wrapped_keys(path: Path) -> dict[int, bytes]:
    connection = sqlite3.connect(path)
    rows = dict(connection.execute("SELECT epoch, wrapped FROM epoch_key"))
    connection.close()
    return rows


def test_epoch_key_is_made_once_and_found_again(
    tmp_path: Path, epochs: FileEpochStore, now: datetime
) -> None:
    key = epochs.get_or_create(487000, now)

    assert len(key) == 32
    assert epochs.get_or_create(487000, now + HOUR) == epochs.get(487000) == key
    assert FileEpochStore(tmp_path / "epochs.sqlite3", RootRing((b"r" * 32,))).get(487000) == key
    assert epochs.get_or_create(486999, now) != key
    assert epochs.epochs() == [486999, 487000]


def test_epoch_key_lies_wrapped_in_a_private_file(
    tmp_path: Path, epochs: FileEpochStore, now: datetime
) -> None:
    key = epochs.get_or_create(487000, now)
    path = tmp_path / "epochs.sqlite3"

    assert key not in path.read_bytes()
    assert RootRing((b"r" * 32,)).unwrap(wrapped_keys(path)[487000], 487000) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_epoch_key_does_not_open_under_another_ring(
    tmp_path: Path, epochs: FileEpochStore, now: datetime
) -> None:
    epochs.get_or_create(487000, now)
    stranger = FileEpochStore(tmp_path / "epochs.sqlite3", RootRing((OLD,)))

    with pytest.raises(Unreadable) as caught:
        stranger.get_or_create(487000, now)

    assert not isinstance(caught.value, KeyGone)


def test_epoch_never_made_has_no_key(epochs: FileEpochStore) -> None:
    with pytest.raises(KeyGone) as caught:
        epochs.get(487000)

    assert caught.value.epoch == 487000


def test_destroyed_epoch_stays_destroyed(epochs: FileEpochStore, now: datetime) -> None:
    epochs.get_or_create(487000, now)

    epochs.destroy(487000)
    epochs.destroy(487000)

    with pytest.raises(KeyGone):
        epochs.get(487000)
    with pytest.raises(KeyGone):
        epochs.get_or_create(487000, now)
    assert epochs.epochs() == []


def test_epoch_destroyed_before_it_was_made_is_never_made(epochs: FileEpochStore, now: datetime) -> None:
    epochs.destroy(487000)

    with pytest.raises(KeyGone):
        epochs.get_or_create(487000, now)


def test_epoch_is_given_until_its_end_and_not_at_it(epochs: FileEpochStore, now: datetime) -> None:
    key = epochs.get_or_create(487000, now)
    end = not_after_of(487000)

    assert epochs.get_or_create(487000, end - timedelta(microseconds=1)) == key
    with pytest.raises(KeyGone):
        epochs.get_or_create(487000, end)
    with pytest.raises(KeyGone):
        epochs.get_or_create(486000, now)
    assert epochs.epochs() == [487000]


def test_epoch_that_has_not_begun_is_refused(epochs: FileEpochStore, now: datetime) -> None:
    with pytest.raises(ValueError, match="487001 has not begun"):
        epochs.get_or_create(487001, now)

    assert epochs.epochs() == []


def test_exactly_the_due_epochs_are_destroyed(epochs: FileEpochStore, now: datetime) -> None:
    for epoch in (486998, 486999, 487000):
        epochs.get_or_create(epoch, now)

    assert epochs.destroy_due(not_after_of(486998) - timedelta(microseconds=1)) == []
    assert epochs.destroy_due(not_after_of(486999)) == [486998, 486999]
    assert epochs.destroy_due(not_after_of(486999)) == []
    assert epochs.epochs() == [487000]


def test_clock_that_jumps_back_revives_nothing(epochs: FileEpochStore, now: datetime) -> None:
    epochs.get_or_create(487000, now)
    epochs.destroy_due(not_after_of(487000))

    with pytest.raises(KeyGone):
        epochs.get_or_create(487000, now)


def test_existing_store_open_to_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "epochs.sqlite3"
    FileEpochStore(path, RootRing((OLD,)))
    path.chmod(0o640)

    with pytest.raises(BadKeyFile, match="mode 0640"):
        FileEpochStore(path, RootRing((OLD,)))


def test_nothing_of_a_destroyed_key_is_left_in_the_files(tmp_path: Path, epochs: FileEpochStore) -> None:
    """Two weeks of hours, with purges that come days late and some keys destroyed before their time."""
    path = tmp_path / "epochs.sqlite3"
    ever: dict[int, bytes] = {}
    for epoch in range(487000, 487000 + 400):
        began = not_after_of(epoch) - 24 * HOUR
        epochs.get_or_create(epoch, began)
        if epoch % 7 == 0:
            epochs.destroy(epoch - 3)
        if epoch % 60 == 0:
            ever |= wrapped_keys(path)
            present = path.read_bytes()
            assert all(wrapped in present for wrapped in wrapped_keys(path).values())
            epochs.destroy_due(began)
    ever |= wrapped_keys(path)

    epochs.destroy_due(not_after_of(487400))

    left = path.read_bytes()
    pieces = [wrapped[start : start + 16] for wrapped in ever.values() for start in range(16, 105, 8)]
    assert len(ever) > 340
    assert [piece for piece in pieces if piece in left] == []
    assert list(tmp_path.iterdir()) == [path]


def test_store_uses_the_pragmas_that_erase(epochs: FileEpochStore) -> None:
    with epochs._connected() as connection:
        read = [
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("secure_delete", "journal_mode", "synchronous")
        ]

    assert read == [1, "delete", 2]


def test_processes_that_ask_together_get_the_same_key(tmp_path: Path, now: datetime) -> None:
    script = (
        "import sys, pathlib, datetime; from headshots.vault.keys import FileEpochStore, RootRing\n"
        "print('ready', flush=True); input()\n"
        "store = FileEpochStore(pathlib.Path(sys.argv[1]), RootRing((b'r' * 32,)))\n"
        "now = datetime.datetime.fromisoformat(sys.argv[2])\n"
        "print(*(store.get_or_create(487000 - back, now).hex() for back in range(8)))"
    )

    answers = in_processes(6, script, tmp_path / "epochs.sqlite3", now.isoformat())

    store = FileEpochStore(tmp_path / "epochs.sqlite3", RootRing((b"r" * 32,)))
    keys = [store.get(487000 - back).hex() for back in range(8)]
    assert [answer.split() for answer in answers] == [keys] * 6
    assert len(set(keys)) == 8


def test_threads_that_ask_together_get_the_same_key(epochs: FileEpochStore, now: datetime) -> None:
    barrier = threading.Barrier(8)

    def ask(_: int) -> bytes:
        barrier.wait()
        return epochs.get_or_create(487000, now)

    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(ask, range(8)))

    assert keys == {epochs.get(487000)}


def test_key_is_not_made_when_its_epoch_is_destroyed_at_the_same_moment(
    epochs: FileEpochStore, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrap = RootRing.wrap

    def destroyed_meanwhile(ring: RootRing, key: bytes, epoch: int) -> bytes:
        epochs.destroy(epoch)
        return wrap(ring, key, epoch)

    monkeypatch.setattr(RootRing, "wrap", destroyed_meanwhile)

    with pytest.raises(KeyGone):
        epochs.get_or_create(487000, now)
    assert epochs.epochs() == []


def test_failed_write_leaves_the_store_as_it_was(epochs: FileEpochStore, now: datetime) -> None:
    key = epochs.get_or_create(487000, now)

    def fail_half_way() -> None:
        with epochs._writing() as connection:
            connection.execute("DELETE FROM epoch_key")
            connection.execute("INSERT INTO epoch_key VALUES (1, NULL)")

    with pytest.raises(sqlite3.IntegrityError):
        fail_half_way()

    assert epochs.get(487000) == key


def test_store_whose_file_was_lost_is_an_error_and_is_not_made_anew(
    tmp_path: Path, epochs: FileEpochStore, now: datetime
) -> None:
    (tmp_path / "epochs.sqlite3").unlink()

    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        epochs.get_or_create(487000, now)

    assert list(tmp_path.iterdir()) == []


def test_folder_of_the_store_is_made_private(tmp_path: Path) -> None:
    FileEpochStore(tmp_path / "keys" / "epochs.sqlite3", RootRing((OLD,)))

    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert os.listdir(tmp_path / "keys") == ["epochs.sqlite3"]
