"""A bucket that refuses, breaks off or loses its answers: what the store then says."""

from dataclasses import replace
from typing import Any

import pytest

from headshots.vault.blobs_s3 import S3BlobStore
from headshots.vault.errors import BlobExists, StoreAway
from tests.vault.blobs_s3.conftest import ALL, NAME, PREFIX, SECOND, failing, remains, start_upload
from tests.vault.servers import Answer, Proxy, Request, Rule, aws_client, closed_port

pytestmark = pytest.mark.slow


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
