"""The blob store on S3 alone: what a bucket keeps beside objects, and what may go wrong on the way there."""

import json
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from headshots.vault import blobs_s3
from headshots.vault.blobs_s3 import S3BlobStore
from headshots.vault.errors import BlobExists, BlobMissing, StoreAway, UnsafeStore
from tests.vault.servers import Answer, Proxy, Request, Rule, aws_client, closed_port

ORDER, OTHER = "0a" * 16, "0b" * 16
NAME = f"o/{ORDER}/{'1c' * 16}"
SECOND = f"o/{ORDER}/{'2c' * 16}"
FOREIGN = f"o/{OTHER}/{'3c' * 16}"
PREFIX = "some/where/"
ALL = f"o/{ORDER}/"


@pytest.fixture
def bucket(s3: Any) -> str:
    name = f"test-{uuid4().hex}"
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    return name


@pytest.fixture
def store(s3: Any, bucket: str) -> S3BlobStore:
    return S3BlobStore(s3, bucket, PREFIX)


@pytest.fixture
def far(proxy: Proxy, bucket: str) -> S3BlobStore:
    """The same store, seen through the proxy."""
    return S3BlobStore(aws_client("s3", proxy.url), bucket, PREFIX)


def set_versioning(s3: Any, bucket: str, status: str) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})


def remains(s3: Any, bucket: str) -> list[str]:
    """Keys of all that the bucket holds, asked without the store."""
    versions = s3.list_object_versions(Bucket=bucket)
    uploads = s3.list_multipart_uploads(Bucket=bucket)
    parts = (versions.get("Versions", []), versions.get("DeleteMarkers", []), uploads.get("Uploads", []))
    return sorted(each["Key"] for part in parts for each in part)


def start_upload(s3: Any, bucket: str, name: str) -> None:
    upload = s3.create_multipart_upload(Bucket=bucket, Key=PREFIX + name)
    s3.upload_part(
        Bucket=bucket, Key=PREFIX + name, UploadId=upload["UploadId"], PartNumber=1, Body=b"half a sea"
    )


def failing(status: int, code: str, *, of: str) -> Rule:
    """Refuses every request whose method and path contain `of`."""
    body = f"<Error><Code>{code}</Code><Message>no</Message><RequestId>REQ123</RequestId></Error>".encode()

    def rule(request: Request, forward: Any) -> Answer:
        hit = of in f"{request.method} {request.path}"
        return Answer(status=status, body=body) if hit else forward(request)

    return rule


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


# what goes wrong


def test_refusals_inside_a_successful_batch_are_errors(
    s3: Any, bucket: str, proxy: Proxy, far: S3BlobStore
) -> None:
    for name in (NAME, SECOND):
        far.put(name, b"sealed")
    start_upload(s3, bucket, SECOND)
    error = f"<Error><Key>{PREFIX}{NAME}</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
    refusal = f"<DeleteResult>{error}</DeleteResult>".encode()

    def rule(request: Request, forward: Any) -> Answer:
        return Answer(body=refusal) if request.method == "POST" else forward(request)

    proxy.rule = rule

    with pytest.raises(StoreAway, match=r"left 1 versions or uploads; .*AccessDenied \(request REQ123\)"):
        far.delete_all(ALL)

    assert remains(s3, bucket) == [PREFIX + NAME, PREFIX + SECOND]  # the upload is gone all the same


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (503, "SlowDown"),
        (500, "InternalError"),
        (403, "AccessDenied"),
        (404, "NoSuchBucket"),
        (409, "Conflict"),
    ],
)
def test_store_that_refuses_is_away_and_names_code_and_request(
    proxy: Proxy, far: S3BlobStore, status: int, code: str
) -> None:
    proxy.rule = failing(status, code, of="/")

    for operation in (
        lambda: far.put(NAME, b"sealed"),
        lambda: far.get(NAME),
        lambda: far.delete(NAME),
        lambda: far.delete_all(ALL),
        lambda: list(far.list("")),
    ):
        with pytest.raises(StoreAway, match=rf"S3 \w+: {code} \(request REQ123\)"):
            operation()


def test_refused_deletion_says_so(s3: Any, bucket: str, proxy: Proxy, far: S3BlobStore) -> None:
    far.put(NAME, b"sealed")
    start_upload(s3, bucket, NAME)
    proxy.rule = failing(503, "SlowDown", of="POST ")
    with pytest.raises(StoreAway, match=r"left 1 .*SlowDown"):
        far.delete(NAME)
    start_upload(s3, bucket, NAME)
    proxy.rule = failing(503, "SlowDown", of="DELETE ")
    with pytest.raises(StoreAway, match=r"left 1 .*SlowDown"):
        far.delete(NAME)

    assert remains(s3, bucket) == [PREFIX + NAME]


@pytest.mark.parametrize("of", ["versions", "uploads"])
def test_listing_that_could_not_look_everywhere_is_no_empty_listing(
    proxy: Proxy, far: S3BlobStore, of: str
) -> None:
    proxy.rule = failing(500, "InternalError", of=of)

    with pytest.raises(OSError, match="InternalError"):
        list(far.list(ALL))


def test_body_that_breaks_off_is_an_error_and_not_a_short_blob(proxy: Proxy, far: S3BlobStore) -> None:
    far.put(NAME, bytes(100_000))
    proxy.rule = lambda request, forward: replace(forward(request), cut=1)

    with pytest.raises(StoreAway, match="S3 get"):
        far.get(NAME)


def test_store_that_nobody_answers_for_is_away(bucket: str) -> None:
    nobody = aws_client("s3", f"http://127.0.0.1:{closed_port()}")

    with pytest.raises(StoreAway, match="EndpointConnectionError"):
        S3BlobStore(nobody, bucket)


@pytest.fixture
def patient(proxy: Proxy, bucket: str, monkeypatch: pytest.MonkeyPatch) -> S3BlobStore:
    """A store whose client asks twice, without the pause in between."""
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda seconds: None)
    return S3BlobStore(aws_client("s3", proxy.url, attempts=2), bucket, PREFIX)


def answer_lost_once(method: str) -> Rule:
    lost: list[Request] = []

    def rule(request: Request, forward: Any) -> Answer | None:
        answer: Answer = forward(request)
        if request.method == method and not lost:
            lost.append(request)
            return None
        return answer

    return rule


def test_write_whose_answer_was_lost_finds_its_own_bytes(proxy: Proxy, patient: S3BlobStore) -> None:
    proxy.rule = answer_lost_once("PUT")

    patient.put(NAME, b"sealed")

    assert [request.method for request in proxy.seen].count("PUT") == 2
    assert patient.get(NAME) == b"sealed"


def test_write_that_was_repeated_and_lost_to_another_says_so(
    s3: Any, bucket: str, proxy: Proxy, patient: S3BlobStore
) -> None:
    s3.put_object(Bucket=bucket, Key=PREFIX + NAME, Body=b"theirs")
    proxy.rule = answer_lost_once("PUT")

    with pytest.raises(BlobExists):
        patient.put(NAME, b"ours")

    assert patient.get(NAME) == b"theirs"


def test_deletion_whose_answer_was_lost_is_done(
    s3: Any, bucket: str, proxy: Proxy, patient: S3BlobStore
) -> None:
    patient.put(NAME, b"sealed")
    proxy.rule = answer_lost_once("POST")

    assert patient.delete(NAME) is True
    assert remains(s3, bucket) == []


# which buckets are refused


def test_bucket_with_object_lock_is_refused(s3: Any) -> None:
    bucket = f"test-{uuid4().hex}"
    s3.create_bucket(
        Bucket=bucket,
        CreateBucketConfiguration={"LocationConstraint": "eu-central-1"},
        ObjectLockEnabledForBucket=True,
    )

    with pytest.raises(UnsafeStore, match=f"{bucket} has object lock"):
        S3BlobStore(s3, bucket)


def test_bucket_that_is_replicated_is_refused(s3: Any, bucket: str) -> None:
    set_versioning(s3, bucket, "Enabled")
    destination = {"Bucket": "arn:aws:s3:::elsewhere"}
    rule = {"ID": "copy", "Status": "Enabled", "Prefix": "", "Destination": destination}
    s3.put_bucket_replication(
        Bucket=bucket,
        ReplicationConfiguration={"Role": "arn:aws:iam::123456789012:role/copy", "Rules": [rule]},
    )

    with pytest.raises(UnsafeStore, match=f"{bucket} is replicated"):
        S3BlobStore(s3, bucket)


def test_bucket_that_asks_a_person_for_each_deletion_is_refused(proxy: Proxy, bucket: str) -> None:
    settings = b"<Status>Enabled</Status><MfaDelete>Enabled</MfaDelete>"
    body = b"<VersioningConfiguration>" + settings + b"</VersioningConfiguration>"
    proxy.rule = lambda request, forward: (
        Answer(body=body) if request.path.endswith("?versioning") else forward(request)
    )

    with pytest.raises(UnsafeStore, match="second factor"):
        S3BlobStore(aws_client("s3", proxy.url), bucket)


def test_bucket_whose_settings_may_not_be_read_is_not_trusted(proxy: Proxy, bucket: str) -> None:
    proxy.rule = failing(403, "AccessDenied", of="object-lock")

    with pytest.raises(StoreAway, match="S3 get_object_lock_configuration: AccessDenied"):
        S3BlobStore(aws_client("s3", proxy.url), bucket)


def test_store_that_knows_neither_lock_nor_replication_is_accepted(proxy: Proxy, bucket: str) -> None:
    def rule(request: Request, forward: Any) -> Answer:
        if request.path.endswith(("?object-lock", "?replication")):
            return failing(501, "NotImplemented", of="/")(request, forward)
        return forward(request)

    proxy.rule = rule

    assert list(S3BlobStore(aws_client("s3", proxy.url), bucket).list("")) == []


# what a bucket should have, and what it hides


def test_plain_bucket_is_told_what_it_lacks(store: S3BlobStore, bucket: str) -> None:
    assert store.weaknesses() == [
        f"bucket {bucket} can be made public: BlockPublicAcls, IgnorePublicAcls, BlockPublicPolicy,"
        " RestrictPublicBuckets is off",
        f"bucket {bucket} has no lifecycle rule that aborts unfinished uploads",
        f"bucket {bucket} has no lifecycle rule that expires objects, should every purge fail",
        f"bucket {bucket} has no policy that refuses requests without TLS",
    ]


def test_bucket_as_it_should_be_has_no_weakness(s3: Any, bucket: str, store: S3BlobStore) -> None:
    blocks = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=dict.fromkeys(blocks, True))
    rule = {
        "ID": "a day",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "Expiration": {"Days": 2},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
    }
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})
    statement = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": f"arn:aws:s3:::{bucket}/*",
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    s3.put_bucket_policy(
        Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    )

    assert store.weaknesses() == []

    set_versioning(s3, bucket, "Suspended")
    assert store.weaknesses() == [
        f"bucket {bucket} has versioning suspended: old versions wait for the purge to find them"
    ]


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


# the address


@pytest.mark.parametrize(("path", "prefix"), [("", ""), ("/", ""), ("/a/b", "a/b/"), ("/a/b/", "a/b/")])
def test_address_names_bucket_and_prefix(
    s3: Any, moto: str, bucket: str, monkeypatch: pytest.MonkeyPatch, path: str, prefix: str
) -> None:
    for name, value in (
        ("ACCESS_KEY_ID", "k"),
        ("SECRET_ACCESS_KEY", "s"),
        ("DEFAULT_REGION", "eu-central-1"),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)

    S3BlobStore.connect(f"s3://{bucket}{path}", moto).put(NAME, b"sealed")

    assert remains(s3, bucket) == [prefix + NAME]


@pytest.mark.parametrize(
    "address", ["", "s3://", "s3://B", "s3://ab//x", "http://bucket/x", "s3://bucket/a?b", "s3://bucket/a b"]
)
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match="BLOB_STORE must be"):
        S3BlobStore.connect(address, None)
