"""What every blob store promises: whole or absent, never overwritten, and listings that tell the truth."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from headshots.vault.blobs import BlobStore, DiskBlobStore
from headshots.vault.blobs_s3 import S3BlobStore
from headshots.vault.errors import BlobExists, BlobMissing

pytestmark = pytest.mark.slow

ORDER, OTHER = "0a" * 16, "0b" * 16
NAME = f"o/{ORDER}/{'1c' * 16}"
SECOND = f"o/{ORDER}/{'2c' * 16}"
FOREIGN = f"o/{OTHER}/{'3c' * 16}"
TOMBSTONE = f"t/{ORDER}"


@pytest.fixture(params=["disk", "s3", "s3 versioned"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "disk":
        return DiskBlobStore(tmp_path / "blobs")
    s3: Any = request.getfixturevalue("s3")
    bucket = f"test-{uuid4().hex}"
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    if request.param == "s3 versioned":
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return S3BlobStore(s3, bucket, "some/where/")


def test_what_was_put_is_got_back(store: BlobStore) -> None:
    store.put(NAME, b"sealed")
    store.put(TOMBSTONE, b"")

    assert store.get(NAME) == b"sealed"
    assert store.get(TOMBSTONE) == b""


def test_put_never_overwrites(store: BlobStore) -> None:
    store.put(NAME, b"first")

    with pytest.raises(BlobExists):
        store.put(NAME, b"second")

    assert store.get(NAME) == b"first"
    assert list(store.list("")) == [NAME]


def test_of_many_writers_of_one_name_exactly_one_wins(store: BlobStore) -> None:
    barrier = threading.Barrier(8)

    def write(number: int) -> bool:
        barrier.wait()
        try:
            store.put(NAME, b"%d" % number)
        except BlobExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(8)))

    assert won.count(True) == 1
    assert store.get(NAME) == b"%d" % won.index(True)
    assert list(store.list("")) == [NAME]


def test_missing_blob_says_so(store: BlobStore) -> None:
    with pytest.raises(BlobMissing):
        store.get(NAME)

    assert store.delete(NAME) is False


def test_delete_says_whether_something_was_there(store: BlobStore) -> None:
    store.put(NAME, b"sealed")
    store.put(TOMBSTONE, b"")

    assert [store.delete(NAME), store.delete(NAME)] == [True, False]
    assert [store.delete(TOMBSTONE), store.delete(TOMBSTONE)] == [True, False]
    assert list(store.list("")) == []


def test_list_shows_what_lies_under_a_prefix(store: BlobStore) -> None:
    for name in (NAME, SECOND, FOREIGN, TOMBSTONE):
        store.put(name, b"sealed")

    assert sorted(store.list("")) == [NAME, SECOND, FOREIGN, TOMBSTONE]
    assert sorted(store.list("o/")) == [NAME, SECOND, FOREIGN]
    assert sorted(store.list(f"o/{ORDER}/")) == [NAME, SECOND]
    assert list(store.list("t/")) == [TOMBSTONE]
    assert list(store.list(f"o/{'0d' * 16}/")) == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        "o",
        f"o/{ORDER}",
        f"o/{ORDER}/",
        f"/{NAME}",
        f"{NAME}/",
        f"{NAME}\n",
        NAME.upper(),
        f"x/{ORDER}",
        f"o/{ORDER}/../{ORDER}",
        f"o/../{ORDER}",
        f"t/{ORDER}/{ORDER}",
        f"{NAME}.0123456789abcdef.part",
        "../secret",
    ],
)
def test_only_names_of_the_two_forms_are_put_and_got(store: BlobStore, name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        store.put(name, b"sealed")
    with pytest.raises(ValueError, match="not a name"):
        store.get(name)

    assert list(store.list("")) == []


@pytest.mark.parametrize(
    "name", ["", "o", "o/", "x/y", "/etc/passwd", "../x", f"{ORDER}/x", "some/where/o/x"]
)
def test_delete_never_leaves_the_store(store: BlobStore, name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        store.delete(name)


@pytest.mark.parametrize("prefix", ["x/", f"o/{ORDER}", "o/..", "../", "/", "o/0a"])
def test_list_takes_only_its_four_prefixes(store: BlobStore, prefix: str) -> None:
    with pytest.raises(ValueError, match="not a prefix"):
        store.list(prefix)


@pytest.mark.parametrize("size", [0, 1, 16384, 5 * 1024 * 1024 + 1])
def test_every_byte_comes_back(store: BlobStore, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)

    store.put(NAME, data)

    assert store.get(NAME) == data


def test_an_order_is_deleted_in_one_call_and_no_other_is(store: BlobStore) -> None:
    for name in (NAME, SECOND, FOREIGN, TOMBSTONE):
        store.put(name, b"sealed")

    assert store.delete_all(f"o/{ORDER}/") == 2
    assert store.delete_all(f"o/{ORDER}/") == 0

    assert sorted(store.list("")) == [FOREIGN, TOMBSTONE]
    for name in (NAME, SECOND):
        with pytest.raises(BlobMissing):
            store.get(name)


@pytest.mark.parametrize("prefix", ["", "o/", "t/", f"o/{ORDER}", f"t/{ORDER}/", f"o/{ORDER}/x", "../"])
def test_only_one_whole_order_is_deleted_at_once(store: BlobStore, prefix: str) -> None:
    store.put(NAME, b"sealed")

    with pytest.raises(ValueError, match="not an order's prefix"):
        store.delete_all(prefix)

    assert list(store.list("")) == [NAME]


def test_name_whose_blob_was_deleted_is_free_again(store: BlobStore) -> None:
    store.put(NAME, b"first")
    store.delete(NAME)

    store.put(NAME, b"second")

    assert store.get(NAME) == b"second"
    assert store.delete(NAME)
    assert list(store.list("")) == []


def test_deleting_one_blob_leaves_those_whose_names_begin_alike(store: BlobStore) -> None:
    tombstone, other = f"t/{ORDER}", f"t/{ORDER[:-1]}b"
    for name in (tombstone, other, NAME):
        store.put(name, b"sealed")

    store.delete(tombstone)

    assert sorted(store.list("")) == [NAME, other]
