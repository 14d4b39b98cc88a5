"""Backups: whoever copies everything every five minutes holds nothing readable a day after the first photo.

The attacker has every copy of database, journal and store, and the root key. What keeps the pictures from
them is one small file, the hours' keys, which the documentation says to leave out of backups, and whose keys
are destroyed on time.
"""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from headshots.env import ROOT
from headshots.vault.envelope import Kind, ObjectName, Role, open_object, role_of
from headshots.vault.epochs_file import FileShelf
from headshots.vault.epochs_ring import RingEpochs
from headshots.vault.errors import Unreadable
from headshots.vault.keys import RootRing, open_order_key

pytestmark = pytest.mark.slow

EPOCHS = "keys/epochs.sqlite3"
EVERYTHING = 2 * (1 + 2 * 2)  # of each order the photo, and two pictures with their previews
END = 25 * 60  # minutes


class Copies:
    """All copies that were made of a data folder, by minute."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.minutes = sorted(int(path.stem) for path in (folder / "copies").iterdir())

    def files(self, minute: int) -> dict[str, bytes]:
        """What the copy of that minute holds, by path."""
        named = json.loads((self.folder / "copies" / f"{minute:05}.json").read_text())
        return {name: (self.folder / "contents" / digest).read_bytes() for name, digest in named.items()}

    def sames(self) -> Iterator[tuple[int, dict[str, bytes]]]:
        """The copies that differ from the one before in database, journal or store."""
        before = None
        for minute in self.minutes:
            named = json.loads((self.folder / "copies" / f"{minute:05}.json").read_text())
            kept = {
                name: digest for name, digest in named.items() if name.startswith(("headshots.", "blobs/"))
            }
            if kept != before:
                yield minute, self.files(minute)
            before = kept


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Copies]:
    """A day with the purge running, and one with nothing running at all."""
    base = tmp_path_factory.mktemp("backups")
    lives = {
        how: subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.backups_driver", str(base / how), how],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for how in ("day", "silence")
    }
    for life in lives.values():
        _, said = life.communicate()
        assert life.returncode == 0, said[-3000:]
    return {how: Copies(base / how) for how in lives}


def stolen(files: dict[str, bytes], epochs: bytes | None, scratch: Path) -> int:
    """How many pictures the attacker opens, with a copy, its root key, and a file of hours' keys or none.

    They respect neither clocks nor states: whatever key row and whatever blob is there is tried.
    """
    scratch.mkdir()
    for name in ("headshots.sqlite3", "headshots.sqlite3-wal"):
        if name in files:
            (scratch / name).write_bytes(files[name])
    for name, content in (("root.keys", files["keys/root.keys"]), ("epochs.sqlite3", epochs)):
        if content is not None:
            (scratch / name).write_bytes(content)
            (scratch / name).chmod(0o600)
    store = RingEpochs(FileShelf(scratch / "epochs.sqlite3"), RootRing.load(scratch / "root.keys"))
    keys: dict[tuple[str, Role], bytes] = {}
    with closing(sqlite3.connect(scratch / "headshots.sqlite3")) as database:
        for order, role, wrapped, epoch, not_after in database.execute(KEYS):
            name = {"order_id": UUID(order), "role": Role(role), "epoch": epoch, "not_after": _utc(not_after)}
            try:
                keys[order, Role(role)] = open_order_key(store, wrapped, **name)
            except Unreadable:
                continue
        return sum(_opens(row, keys, files) for row in database.execute(OBJECTS))


KEYS = """
select k.order_id, k.role, k.wrapped, o.epoch, o.not_after
from headshots_orderkey k join headshots_order o on o.id = k.order_id
"""
OBJECTS = 'select id, order_id, kind, "index", generation from headshots_storedobject'


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _opens(
    row: tuple[str, str, int, int, int], keys: dict[tuple[str, Role], bytes], files: dict[str, bytes]
) -> bool:
    name = ObjectName(
        object_id=UUID(row[0]), order_id=UUID(row[1]), kind=Kind(row[2]), index=row[3], generation=row[4]
    )
    sealed = files.get(f"blobs/{name.blob_name}")
    key = keys.get((row[1], role_of(name.kind)))
    if sealed is None or key is None:
        return False
    return open_object(key, name, sealed).startswith(b"\xff\xd8\xff")


@pytest.mark.parametrize("how", ["day", "silence"])
def test_a_copy_of_a_living_order_opens_with_its_hours_key(
    lived: dict[str, Copies], how: str, tmp_path: Path
) -> None:
    """The attack works: otherwise the tests below would prove nothing."""
    files = lived[how].files(1)

    assert stolen(files, files[EPOCHS], tmp_path / "with") == EVERYTHING
    assert stolen(files, None, tmp_path / "without") == 0


@pytest.mark.parametrize("how", ["day", "silence"])
def test_after_a_day_no_copy_opens_with_the_root_key_and_all_that_is_left(
    lived: dict[str, Copies], how: str, tmp_path: Path
) -> None:
    copies = lived[how]
    left = copies.files(copies.minutes[-1])[EPOCHS]
    attacked = list(copies.sames())
    assert len(attacked) >= {"day": 8, "silence": 2}[how]

    opened = {minute: stolen(files, left, tmp_path / f"{minute}") for minute, files in attacked}

    assert set(opened.values()) == {0}


def test_copies_were_made_every_five_minutes(lived: dict[str, Copies]) -> None:
    assert lived["day"].minutes == [0, 1, *range(5, END + 1, 5)]
    assert lived["silence"].minutes == [0, 1, *range(5, END + 6, 5)]


def test_a_deleted_order_opens_from_earlier_copies_until_its_hours_key_is_gone(
    lived: dict[str, Copies], tmp_path: Path
) -> None:
    """The promise to the minute: destroying the rows is at once, destroying the copies within 24 hours."""
    copies = lived["day"]
    before = copies.files(1)
    alive = {minute: copies.files(minute)[EPOCHS] for minute in (120, 1380)}
    ends = [minute for minute in copies.minutes if not _hours(copies.files(minute)[EPOCHS], tmp_path)]

    assert [stolen(before, epochs, tmp_path / f"{minute}") for minute, epochs in alive.items()] == [
        EVERYTHING,
        EVERYTHING,
    ]
    assert ends[0] <= 24 * 60 + 5
    assert stolen(before, copies.files(ends[0])[EPOCHS], tmp_path / "end") == 0


def _hours(epochs: bytes, scratch: Path) -> int:
    path = scratch / "hours.sqlite3"
    path.write_bytes(epochs)
    with closing(sqlite3.connect(path)) as database:
        return len(database.execute("select epoch from epoch_key").fetchall())


@pytest.mark.parametrize("how", ["day", "silence"])
def test_no_file_of_the_last_copy_holds_a_trace_of_an_hours_key(
    lived: dict[str, Copies], how: str, tmp_path: Path
) -> None:
    """Not even wrapped: SQLite leaves deleted rows in its pages unless it is told otherwise."""
    copies = lived[how]
    path = tmp_path / "epochs.sqlite3"
    path.write_bytes(copies.files(1)[EPOCHS])
    with closing(sqlite3.connect(path)) as database:
        wrapped = [bytes(key) for (key,) in database.execute("select wrapped from epoch_key")]
    assert len(wrapped) == 1

    last = copies.files(copies.minutes[-1])

    assert [name for name, content in last.items() if wrapped[0][16:] in content] == []


def test_the_keys_of_a_deleted_order_are_in_no_later_copy(lived: dict[str, Copies]) -> None:
    copies = lived["day"]
    first = copies.files(1)
    orders = json.loads((copies.folder / "facts.json").read_text())["orders"]
    wrapped = wrapped_keys(copies, first, orders[1])
    assert len(wrapped) == 2

    found = {
        minute: name
        for minute in copies.minutes
        if minute >= 125
        for name, content in copies.files(minute).items()
        if any(key[16:] in content for key in wrapped)
    }

    assert found == {}


def wrapped_keys(copies: Copies, files: dict[str, bytes], order: str) -> list[bytes]:
    """The wrapped keys of an order as a copy has them."""
    scratch = copies.folder / "wrapped"
    scratch.mkdir()
    for name in ("headshots.sqlite3", "headshots.sqlite3-wal"):
        if name in files:
            (scratch / name).write_bytes(files[name])
    with closing(sqlite3.connect(scratch / "headshots.sqlite3")) as database:
        rows = database.execute("select wrapped from headshots_orderkey where order_id = ?", [order])
        return [bytes(key) for (key,) in rows]
