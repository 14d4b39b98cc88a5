"""Objects in a bucket: what is kept, listed and deleted for good, versions and uploads included."""

from dataclasses import replace
from typing import Any

import pytest

from headshots.vault import blobs_s3
from headshots.vault.blobs_s3 import S3BlobStore
from headshots.vault.errors import BlobMissing
from tests.vault.blobs_s3.conftest import (
    ALL,
    NAME,
    ORDER,
    OTHER,
    PREFIX,
    SECOND,
    failing,
    remains,
    set_versioning,
    start_upload,
)
from tests.vault.servers import Answer, Proxy, Request

FOREIGN = f"o/{OTHER}/{'3c' * 16}"


# what lies in a bucket


def test_object_carries_no_metadata_and_lies_under_the_prefix(
    s3: Any, bucket: str, store: S3BlobStore
) -> None:
    store.put(NAME, b"sealed")

    head = s3.head_object(Bucket=bucket, Key=f"some/where/{NAME}")
    assert (head["ContentType"], head["Metadata"]) == ("application/octet-stream", {})
    assert remains(s3, bucket) == [f"some/where/{NAME}"]


def test_what_others_keep_in_the_bucket_is_neither_shown_nor_touched(
    s3: Any, bucket: str, store: S3BlobStore
) -> None:
    for key in (NAME, "some/where-else", f"some/{NAME}", f"some/wherefrom/{NAME}"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"theirs")
    store.put(NAME, b"ours")

    assert list(store.list("")) == [NAME]
    store.delete_all(ALL)
    assert remains(s3, bucket) == sorted([NAME, "some/where-else", f"some/{NAME}", f"some/wherefrom/{NAME}"])


def test_store_without_prefix_uses_the_whole_bucket(s3: Any, bucket: str) -> None:
    store = S3BlobStore(s3, bucket)
    store.put(NAME, b"sealed")

    assert remains(s3, bucket) == [NAME] == list(store.list("o/"))


def test_versions_and_delete_markers_are_deleted_for_good(s3: Any, bucket: str, store: S3BlobStore) -> None:
    set_versioning(s3, bucket, "Enabled")
    for turn in range(3):
        store.put(NAME, b"version %d" % turn)
        s3.delete_object(Bucket=bucket, Key=PREFIX + NAME)
    assert len(remains(s3, bucket)) == 6

    assert store.delete(NAME) is True

    assert remains(s3, bucket) == []
    assert store.delete(NAME) is False


def test_versions_from_before_versioning_was_suspended_are_deleted_too(
    s3: Any, bucket: str, store: S3BlobStore
) -> None:
    store.put(NAME, b"before there were versions")
    set_versioning(s3, bucket, "Enabled")
    s3.put_object(Bucket=bucket, Key=PREFIX + NAME, Body=b"a version")
    set_versioning(s3, bucket, "Suspended")
    s3.put_object(Bucket=bucket, Key=PREFIX + SECOND, Body=b"without a version")
    assert len(remains(s3, bucket)) == 3

    assert sorted(store.list(ALL)) == [NAME, SECOND]
    assert store.delete_all(ALL) == 2
    assert remains(s3, bucket) == []


def test_delete_marker_alone_is_listed_and_read_as_missing(s3: Any, bucket: str, store: S3BlobStore) -> None:
    set_versioning(s3, bucket, "Enabled")
    version = s3.put_object(Bucket=bucket, Key=PREFIX + NAME, Body=b"sealed")["VersionId"]
    s3.delete_object(Bucket=bucket, Key=PREFIX + NAME)
    s3.delete_object(Bucket=bucket, Key=PREFIX + NAME, VersionId=version)

    assert list(store.list(ALL)) == [NAME]
    with pytest.raises(BlobMissing):
        store.get(NAME)
    assert store.delete(NAME) is True
    assert list(store.list(ALL)) == []


def test_unfinished_upload_is_listed_and_aborted(s3: Any, bucket: str, store: S3BlobStore) -> None:
    for name in (NAME, SECOND, FOREIGN):
        start_upload(s3, bucket, name)

    assert list(store.list(ALL)) == [NAME, SECOND]
    with pytest.raises(BlobMissing):
        store.get(NAME)
    assert store.delete(NAME) is True
    assert store.delete_all(ALL) == 1
    assert remains(s3, bucket) == [PREFIX + FOREIGN]


def test_upload_that_somebody_else_aborted_first_is_no_error(
    s3: Any, bucket: str, proxy: Proxy, far: S3BlobStore
) -> None:
    start_upload(s3, bucket, NAME)
    proxy.rule = failing(404, "NoSuchUpload", of="DELETE ")

    assert far.delete(NAME) is True


@pytest.mark.parametrize(
    "key", ["o/stray", f"{ALL}a & <b> ü.jpg", f"{ALL}deep/er", f"{ALL}../x", "o//x", "t/x"]
)
def test_keys_that_do_not_belong_there_are_listed_and_deleted(
    s3: Any, bucket: str, store: S3BlobStore, key: str
) -> None:
    s3.put_object(Bucket=bucket, Key=PREFIX + key, Body=b"pixels")

    assert list(store.list("")) == [key]
    assert store.delete(key) is True
    assert remains(s3, bucket) == []


def test_everything_is_found_and_deleted_over_many_pages_and_batches(
    s3: Any, bucket: str, proxy: Proxy, far: S3BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_versioning(s3, bucket, "Enabled")
    names = sorted(f"o/{ORDER}/{number:032x}" for number in range(5))
    for name in names:
        for _ in range(2):
            s3.put_object(Bucket=bucket, Key=PREFIX + name, Body=b"sealed")
    monkeypatch.setattr(blobs_s3, "_BATCH", 4)

    def short_pages(request: Request, forward: Any) -> Answer:
        is_listing = request.method == "GET" and "versions" in request.path
        return forward(replace(request, path=f"{request.path}&max-keys=3") if is_listing else request)

    proxy.rule = short_pages

    assert list(far.list(ALL)) == names
    listings = sum("versions" in request.path for request in proxy.seen)
    assert listings >= 4
    assert far.delete_all(ALL) == 5
    assert sum("delete" in request.path for request in proxy.seen) == 3
    assert remains(s3, bucket) == []


def test_old_versions_markers_and_uploads_are_counted(s3: Any, bucket: str, store: S3BlobStore) -> None:
    set_versioning(s3, bucket, "Enabled")
    store.put(NAME, b"alone")
    assert store.hidden("o/") == (0, 0)
    for _ in range(2):
        s3.put_object(Bucket=bucket, Key=PREFIX + SECOND, Body=b"sealed")
    s3.delete_object(Bucket=bucket, Key=PREFIX + SECOND)
    start_upload(s3, bucket, SECOND)
    start_upload(s3, bucket, FOREIGN)

    assert store.hidden(ALL) == (3, 1)
    assert store.hidden("o/") == (3, 2)
    store.delete_all(ALL)
    assert store.hidden("o/") == (0, 1)
