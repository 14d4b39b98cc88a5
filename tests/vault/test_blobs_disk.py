"""The disk blob store alone: whole or absent files, private folders, and listings that tell the truth."""

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headshots.vault import files
from headshots.vault.blobs import DiskBlobStore
from headshots.vault.errors import BlobMissing

ORDER, OTHER = "0a" * 16, "0b" * 16
NAME = f"o/{ORDER}/{'1c' * 16}"
SECOND = f"o/{ORDER}/{'2c' * 16}"
FOREIGN = f"o/{OTHER}/{'3c' * 16}"
TOMBSTONE = f"t/{ORDER}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


def test_last_deletion_removes_the_folder_of_the_order_and_no_other(store: DiskBlobStore, root: Path) -> None:
    for name in (NAME, SECOND, FOREIGN, TOMBSTONE):
        store.put(name, b"sealed")

    store.delete(NAME)
    assert sorted(os.listdir(root / "o")) == [ORDER, OTHER]
    store.delete(SECOND)
    assert os.listdir(root / "o") == [OTHER]
    store.delete(TOMBSTONE)
    assert sorted(os.listdir(root)) == ["o", "t"]


def test_remains_of_a_crashed_writer_are_listed_and_purged(store: DiskBlobStore, root: Path) -> None:
    store.put(NAME, b"sealed")
    part = files.start_part(root / SECOND)
    part.write_bytes(b"half a sea")

    listed = sorted(store.list(f"o/{ORDER}/"))

    assert listed == [NAME, f"{SECOND}.{part.suffixes[0][1:]}.part"]
    assert [store.delete(name) for name in listed] == [True, True]
    assert list(store.list("")) == []
    assert os.listdir(root / "o") == []


def test_files_that_do_not_belong_there_are_listed_and_purged_too(store: DiskBlobStore, root: Path) -> None:
    store.put(NAME, b"sealed")
    (root / "o" / ORDER / ".hidden copy.jpg").write_bytes(b"pixels")
    (root / "o" / "stray").write_bytes(b"pixels")
    nested = root / "o" / ORDER / "deep"
    nested.mkdir()
    (nested / "er").write_bytes(b"pixels")

    assert sorted(store.list("")) == [f"o/{ORDER}/.hidden copy.jpg", NAME, f"o/{ORDER}/deep/er", "o/stray"]
    for name in list(store.list("")):
        assert store.delete(name)
    assert list(store.list("")) == []


def test_files_and_folders_are_private(store: DiskBlobStore, root: Path) -> None:
    store.put(NAME, b"sealed")
    store.put(TOMBSTONE, b"")
    modes = {
        str(path.relative_to(root)): stat.S_IMODE(path.stat().st_mode) for path in [root, *root.rglob("*")]
    }

    assert modes == {".": 0o700, "o": 0o700, f"o/{ORDER}": 0o700, NAME: 0o600, "t": 0o700, TOMBSTONE: 0o600}


def test_unfinished_file_is_private_from_its_first_moment(tmp_path: Path) -> None:
    part = files.start_part(tmp_path / "blob")

    assert stat.S_IMODE(part.stat().st_mode) == 0o600


def test_list_of_a_disk_that_is_not_there_is_an_error_and_not_empty(store: DiskBlobStore, root: Path) -> None:
    (root / "o").rmdir()

    with pytest.raises(FileNotFoundError):
        store.list(f"o/{ORDER}/")


def test_list_of_a_folder_it_may_not_read_is_an_error_and_not_empty(
    store: DiskBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(NAME, b"sealed")

    def refuse(path: object) -> None:
        raise PermissionError(errno.EACCES, "refused", path)

    monkeypatch.setattr(os, "scandir", refuse)

    with pytest.raises(PermissionError):
        list(store.list(f"o/{ORDER}/"))


def test_failed_write_leaves_nothing_behind(
    store: DiskBlobStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(
        os,
        "fsync",
        lambda descriptor: None if os.path.isdir(f"/proc/self/fd/{descriptor}") else full(descriptor),
    )

    with pytest.raises(OSError, match="disk full"):
        store.put(NAME, b"sealed")

    assert list(store.list("")) == []
    assert os.listdir(root / "o") == []


def test_writer_whose_unfinished_file_was_purged_stores_nothing(
    store: DiskBlobStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def purged_first(part: Path, path: Path) -> None:
        for name in list(store.list(f"o/{ORDER}/")):
            store.delete(name)
        link(part, path)

    monkeypatch.setattr(os, "link", purged_first)

    with pytest.raises(BlobMissing):
        store.put(NAME, b"late")

    assert list(store.list("")) == []
    assert os.listdir(root / "o") == []


def test_put_makes_the_folder_again_when_a_deletion_removed_it_in_between(
    store: DiskBlobStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_part, starts = files.start_part, 0

    def folder_removed_first(path: Path) -> Path:
        nonlocal starts
        starts += 1
        if starts == 1:
            path.parent.rmdir()
        return start_part(path)

    monkeypatch.setattr(files, "start_part", folder_removed_first)

    store.put(NAME, b"sealed")

    assert starts == 2
    assert store.get(NAME) == b"sealed"


def test_puts_and_deletions_in_one_order_race_safely(store: DiskBlobStore, root: Path) -> None:
    def put_and_delete(number: int) -> int:
        deleted = 0
        for turn in range(40):
            name = f"o/{ORDER}/{number:016x}{turn:016x}"
            store.put(name, b"sealed")
            deleted += store.delete(name)
        return deleted

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(put_and_delete, range(4))) == [40] * 4

    assert list(store.list("")) == []
    assert os.listdir(root / "o") == []


def test_deletion_that_cannot_remove_the_folder_says_so(
    store: DiskBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(NAME, b"sealed")

    def refuse(_: Path) -> None:
        raise PermissionError(errno.EACCES, "refused")

    monkeypatch.setattr(Path, "rmdir", refuse)

    with pytest.raises(PermissionError):
        store.delete(NAME)


def test_store_found_again_keeps_what_it_had(store: DiskBlobStore, root: Path) -> None:
    store.put(NAME, b"sealed")

    assert DiskBlobStore(root).get(NAME) == b"sealed"


def test_put_and_delete_reach_the_disk_before_they_return(
    store: DiskBlobStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append("file" if path.suffix == ".part" else str(path.relative_to(root)))

    monkeypatch.setattr(os, "fsync", fsync)

    store.put(NAME, b"sealed")
    assert synced == ["o", "file", f"o/{ORDER}"]
    store.put(SECOND, b"sealed")
    assert synced[3:] == ["file", f"o/{ORDER}"]
    store.delete(NAME)
    assert synced[5:] == [f"o/{ORDER}"]
    store.delete(SECOND)
    assert synced[6:] == ["o"]
    store.delete(SECOND)
    assert synced[7:] == []


@pytest.mark.parametrize("name", ["o", "o/", "o/..", "o/../t", f"o/{ORDER}/../x", "o/./x", "o//x", "o/\0"])
def test_delete_never_leaves_the_folder(store: DiskBlobStore, name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        store.delete(name)


def test_deletion_of_an_order_tries_everything_before_it_says_what_is_left(
    store: DiskBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (NAME, SECOND):
        store.put(name, b"sealed")
    unlink = Path.unlink

    def refuse_one(path: Path) -> None:
        if str(path).endswith(NAME):
            raise PermissionError(errno.EACCES, "refused")
        unlink(path)

    monkeypatch.setattr(Path, "unlink", refuse_one)

    with pytest.raises(PermissionError):
        store.delete_all(f"o/{ORDER}/")
    assert list(store.list("")) == [NAME]
    monkeypatch.undo()
    assert store.delete_all(f"o/{ORDER}/") == 1
    assert list(store.list("")) == []
