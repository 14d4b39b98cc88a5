"""A bucket on a real HTTP server on loopback, and the store over it."""

from typing import Any
from uuid import uuid4

import pytest

from headshots.vault.blobs_s3 import S3BlobStore
from tests.vault.servers import Answer, Proxy, Request, Rule, aws_client

ORDER, OTHER = "0a" * 16, "0b" * 16
NAME = f"o/{ORDER}/{'1c' * 16}"
SECOND = f"o/{ORDER}/{'2c' * 16}"
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
