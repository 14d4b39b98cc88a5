"""Settings of a bucket that the promise cannot be kept with are refused; weak ones are named."""

import json
from typing import Any
from uuid import uuid4

import pytest

from headshots.vault.blobs_s3 import S3BlobStore
from headshots.vault.errors import StoreAway, UnsafeStore
from tests.vault.blobs_s3.conftest import NAME, failing, remains, set_versioning
from tests.vault.servers import Answer, Proxy, Request, aws_client

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
