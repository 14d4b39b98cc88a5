"""How a bucket is set up: what would undo every deletion is refused, what merely weakens it is told."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from headshots.vault import aws
from headshots.vault.errors import UnsafeStore

# What a store says when there is no such setting, or when it does not know the feature at all.
_ABSENT: Final = (
    "ObjectLockConfigurationNotFoundError",
    "ReplicationConfigurationNotFoundError",
    "NoSuchPublicAccessBlockConfiguration",
    "NoSuchLifecycleConfiguration",
    "NoSuchBucketPolicy",
    "NotImplemented",
    "MethodNotAllowed",
)
_PUBLIC: Final = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")


def require_erasable(s3: Any, bucket: str) -> None:
    """Raises UnsafeStore for a bucket that deletes nothing for good, StoreAway when it does not tell."""
    lock = _setting(s3, bucket, "get_object_lock_configuration").get("ObjectLockConfiguration", {})
    if lock.get("ObjectLockEnabled") == "Enabled":
        raise UnsafeStore(f"bucket {bucket} has object lock: nothing could be deleted on time")
    replication = _setting(s3, bucket, "get_bucket_replication").get("ReplicationConfiguration", {})
    if any(rule.get("Status") == "Enabled" for rule in replication.get("Rules", ())):
        raise UnsafeStore(f"bucket {bucket} is replicated: copies would outlive their deletion")
    if _setting(s3, bucket, "get_bucket_versioning").get("MFADelete") == "Enabled":
        raise UnsafeStore(f"bucket {bucket} wants a second factor for each deletion")


def weaknesses(s3: Any, bucket: str) -> Sequence[str]:
    """What should be changed although the store works: a sentence each. Raises StoreAway as well."""
    return [
        f"bucket {bucket} {complaint}"
        for operation, check in _CHECKS.items()
        for complaint in check(_setting(s3, bucket, operation))
    ]


def _versioning(found: Mapping[str, Any]) -> Iterator[str]:
    if "Status" in found:
        yield f"has versioning {found['Status'].lower()}: old versions wait for the purge to find them"


def _public_access(found: Mapping[str, Any]) -> Iterator[str]:
    blocks = found.get("PublicAccessBlockConfiguration", {})
    if left := [name for name in _PUBLIC if not blocks.get(name)]:
        yield f"can be made public: {', '.join(left)} is off"


def _lifecycle(found: Mapping[str, Any]) -> Iterator[str]:
    rules = [rule for rule in found.get("Rules", ()) if rule.get("Status") == "Enabled"]
    if not any("AbortIncompleteMultipartUpload" in rule for rule in rules):
        yield "has no lifecycle rule that aborts unfinished uploads"
    if not any("Expiration" in rule for rule in rules):
        yield "has no lifecycle rule that expires objects, should every purge fail"


def _policy(found: Mapping[str, Any]) -> Iterator[str]:
    if "aws:SecureTransport" not in str(found.get("Policy", "")):
        yield "has no policy that refuses requests without TLS"


_CHECKS: Final[Mapping[str, Callable[[Mapping[str, Any]], Iterator[str]]]] = {
    "get_bucket_versioning": _versioning,
    "get_public_access_block": _public_access,
    "get_bucket_lifecycle_configuration": _lifecycle,
    "get_bucket_policy": _policy,
}


def _setting(s3: Any, bucket: str, operation: str) -> Mapping[str, Any]:
    try:
        return dict(getattr(s3, operation)(Bucket=bucket))
    except (ClientError, BotoCoreError) as error:
        if aws.code_of(error) in _ABSENT:
            return {}
        raise aws.away(f"S3 {operation}", error) from error
