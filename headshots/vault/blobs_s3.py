"""Sealed bytes in a bucket of S3, or of a store that speaks its language."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from headshots.vault import aws, bucket_s3
from headshots.vault.blobs import require_name, require_order_prefix, require_prefix
from headshots.vault.errors import BlobExists, BlobMissing, StoreAway

_ADDRESS: Final = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._-]+)*/?")
_BATCH: Final = 1000  # the most keys that one DeleteObjects takes
# What list() can show, so that whatever lies there can be deleted: in a bucket any key is only a key.
_STORED: Final = re.compile(r"[ot]/.+", re.DOTALL)


_Names: TypeAlias = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Remains:
    """Everything a bucket holds under some keys: (key, version) with delete markers, (key, upload).

    `superseded` counts the delete markers and the versions that are not the newest.
    """

    versions: Sequence[tuple[str, str]]
    uploads: Sequence[tuple[str, str]]
    superseded: int

    @property
    def keys(self) -> set[str]:
        return {key for key, _ in (*self.versions, *self.uploads)}


class S3BlobStore:
    """Objects below a prefix of a bucket, with no metadata and under the same names as on a disk.

    Versions, delete markers and unfinished uploads count as stored: they are listed, and deleted for good.
    """

    def __init__(self, s3: Any, bucket: str, prefix: str = "") -> None:
        """`s3` is boto3's client; `prefix` is empty or ends in a slash.

        Raises UnsafeStore for a bucket from which nothing can be deleted for good, StoreAway when it does
        not answer.
        """
        self._s3 = s3
        self._bucket = bucket
        self._prefix = prefix
        bucket_s3.require_erasable(s3, bucket)

    @classmethod
    def connect(cls, address: str, endpoint_url: str | None) -> "S3BlobStore":
        """The store at `s3://bucket/prefix`. Raises ValueError for another form, else as the constructor."""
        if not _ADDRESS.fullmatch(address):
            raise ValueError("BLOB_STORE must be `disk` or s3://bucket/prefix")
        parts = urlsplit(address)
        prefix = f"{path}/" if (path := parts.path.strip("/")) else ""
        style = "path" if endpoint_url else "auto"  # stores of one's own rarely have a name for each bucket
        s3 = aws.client(
            "s3",
            endpoint_url,
            s3={"addressing_style": style},
            # The cipher already notices every altered byte, and not every store knows these checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return cls(s3, parts.netloc, prefix)

    def put(self, name: str, data: bytes | bytearray) -> None:
        key = self._prefix + require_name(name)
        try:
            self._s3.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=data,
                ContentType="application/octet-stream",
                IfNoneMatch="*",
            )
        except (ClientError, BotoCoreError) as error:
            if aws.code_of(error) != "PreconditionFailed":
                raise aws.away("S3 put", error) from error
            # After a lost answer the client asks again and finds its own bytes: sealed bytes never repeat.
            was_repeated = error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
            if not (was_repeated and self.get(name) == data):
                raise BlobExists(name) from error

    def get(self, name: str) -> bytes:
        key = self._prefix + require_name(name)
        try:
            return bytes(self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read())
        except (ClientError, BotoCoreError) as error:
            if aws.code_of(error) == "NoSuchKey":
                raise BlobMissing(name) from error
            raise aws.away("S3 get", error) from error

    def delete(self, name: str) -> bool:
        if not _STORED.fullmatch(name):
            raise ValueError(f"not a name of this store: {name!r}")
        return self._erase(self._find(name, lambda key: key == name)) > 0

    def delete_all(self, prefix: str) -> int:
        require_order_prefix(prefix)
        return self._erase(self._find(prefix))

    def list(self, prefix: str) -> Iterator[str]:
        require_prefix(prefix)
        return iter(sorted(self._find(prefix).keys))

    def hidden(self, prefix: str) -> tuple[int, int]:
        require_prefix(prefix)
        found = self._find(prefix)
        return found.superseded, len(found.uploads)

    def weaknesses(self) -> Sequence[str]:
        return bucket_s3.weaknesses(self._s3, self._bucket)

    def _find(self, prefix: str, is_wanted: Callable[[str], bool] = lambda key: True) -> _Remains:
        """What lies under a prefix, by names of the store. Raises StoreAway unless all of it was seen."""
        versions: _Names = []
        superseded = 0
        for page in self._pages("list_object_versions", prefix):
            markers = self._wanted(page.get("DeleteMarkers", ()), is_wanted)
            stored = self._wanted(page.get("Versions", ()), is_wanted)
            versions += [(name, each["VersionId"]) for name, each in (*stored, *markers)]
            superseded += len(markers) + sum(not each["IsLatest"] for _, each in stored)
        uploads = [
            (name, each["UploadId"])
            for page in self._pages("list_multipart_uploads", prefix)
            for name, each in self._wanted(page.get("Uploads", ()), is_wanted)
        ]
        return _Remains(versions, uploads, superseded)

    def _wanted(
        self, entries: Iterable[dict[str, Any]], is_wanted: Callable[[str], bool]
    ) -> Sequence[tuple[str, dict[str, Any]]]:
        named = ((each["Key"].removeprefix(self._prefix), each) for each in entries)
        return [(name, each) for name, each in named if is_wanted(name)]

    def _pages(self, operation: str, prefix: str) -> Iterator[dict[str, Any]]:
        paginator = self._s3.get_paginator(operation)
        try:
            yield from paginator.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix)
        except (ClientError, BotoCoreError) as error:
            raise aws.away(f"S3 {operation}", error) from error

    def _erase(self, remains: _Remains) -> int:
        """Delete every version and abort every upload; how many names that were.

        Tries all of them before it raises StoreAway for what was refused.
        """
        refused: list[str] = []
        for start in range(0, len(remains.versions), _BATCH):
            refused += self._delete_versions(remains.versions[start : start + _BATCH])
        for name, upload_id in remains.uploads:
            refused += self._abort(name, upload_id)
        if refused:
            raise StoreAway(f"S3 left {len(refused)} versions or uploads; the first: {refused[0]}")
        return len(remains.keys)

    def _delete_versions(self, versions: Sequence[tuple[str, str]]) -> Sequence[str]:
        """Why some are still there; an answer with status 200 may hold any number of refusals."""
        objects = [{"Key": self._prefix + name, "VersionId": version} for name, version in versions]
        try:
            answer = self._s3.delete_objects(Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True})
        except (ClientError, BotoCoreError) as error:
            return [str(aws.away("S3 delete_objects", error))] * len(objects)
        request_id = answer["ResponseMetadata"].get("RequestId", "without an id")
        return [
            f"S3 delete_objects: {each.get('Code', 'no code')} (request {request_id})"
            for each in answer.get("Errors", ())
        ]

    def _abort(self, name: str, upload_id: str) -> Sequence[str]:
        try:
            self._s3.abort_multipart_upload(Bucket=self._bucket, Key=self._prefix + name, UploadId=upload_id)
        except (ClientError, BotoCoreError) as error:
            if aws.code_of(error) != "NoSuchUpload":
                return [str(aws.away("S3 abort_multipart_upload", error))]
        return []
