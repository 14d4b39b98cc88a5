"""The services on other stores than the embedded ones: on S3 and KMS, and while a store is away."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from headshots.checks import stores_are_fit
from headshots.models import Heartbeat, Order, OrderKey, Receipt, StoredObject
from headshots.services import objects, purge, uploads
from headshots.services.orders import Placed
from pipelines.errors import Retryable
from tests.vault.conftest import moto  # noqa: F401  (a fixture)
from tests.vault.servers import aws_client, closed_port

pytestmark = pytest.mark.django_db


@pytest.fixture
def amazon(settings: Settings, monkeypatch: pytest.MonkeyPatch, moto: str) -> Any:  # noqa: F811
    """S3 and KMS instead of disk and file, the KMS without keys of other tests; gives a client of the S3."""
    from moto.kms.models import kms_backends

    kms_backends.reset()
    bucket = f"test-{uuid4().hex}"
    s3 = aws_client("s3", moto)
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    for name, value in (
        ("ACCESS_KEY_ID", "k"),
        ("SECRET_ACCESS_KEY", "s"),
        ("DEFAULT_REGION", "eu-central-1"),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", moto)
    settings.BLOB_STORE = f"s3://{bucket}/portraits"
    settings.S3_ENDPOINT_URL = moto
    settings.EPOCH_STORE = "kms"
    return s3


@pytest.fixture
def no_redis(settings: Settings, tmp_path: Path) -> Callable[[], None]:
    """From its call on the epoch keys are in a Redis that nobody answers for."""

    def set_away() -> None:
        settings.EPOCH_STORE = f"unix://{tmp_path / 'nobody'}"

    return set_away


def test_an_order_lives_and_dies_on_s3_and_kms(
    amazon: Any, place: Callable[..., Placed], settings: Settings
) -> None:
    assert stores_are_fit(None) == []
    order = place().order
    wrapped = [bytes(key.wrapped) for key in OrderKey.objects.filter(order=order)]
    bucket = settings.BLOB_STORE.split("/")[2]
    stored = StoredObject.objects.get(order=order)

    assert uploads.open_selfie(order, timezone.now()).startswith(b"\xff\xd8")
    assert {each[:5] for each in wrapped} == {b"HSW1\x02"}
    key = f"portraits/o/{order.pk.hex}/{stored.pk.hex}"
    assert [each["Key"] for each in amazon.list_objects_v2(Bucket=bucket)["Contents"]] == [key]
    assert amazon.get_object(Bucket=bucket, Key=key)["Body"].read()[:5] == b"HSE1\x01"

    purge.request(order, actor="customer", now=timezone.now())
    assert "Contents" not in amazon.list_objects_v2(Bucket=bucket, Prefix="portraits/o/")
    tally = purge.run(timezone.now() + timedelta(seconds=5))

    assert (tally.purged, tally.failed) == (1, 0)
    assert Receipt.objects.filter(order=order).exists()
    assert list(objects.blobs().list("o/")) == []
    assert objects.epochs().epochs() == [order.epoch]
    assert objects.epochs().destroy_due(order.not_after) == [order.epoch]
    assert objects.epochs().epochs() == []


def test_an_upload_while_the_epoch_store_is_away_is_asked_to_come_again(
    client: Client, built_in: None, selfie: bytes, no_redis: Callable[[], None]
) -> None:
    no_redis()
    photo = SimpleUploadedFile("me.jpg", selfie, "image/jpeg")

    answer = client.post("/api/v1/orders", {"selfie": photo, "tier": "free", "consent": "true"})

    assert (answer.status_code, answer.json()["code"]) == (503, "busy")
    assert not Order.objects.exists()
    assert not StoredObject.objects.exists()
    assert list(objects.blobs().list("o/")) == []


def test_a_photo_that_cannot_be_opened_for_a_while_is_neither_refused_nor_lost(
    placed: Placed, no_redis: Callable[[], None], settings: Settings, now: datetime
) -> None:
    objects.forget_keys(placed.order)
    no_redis()
    with pytest.raises(Retryable, match="Redis with the epoch keys") as caught:
        uploads.open_selfie(placed.order, now)
    assert caught.value.code == "store_away"

    settings.EPOCH_STORE = "file"

    assert uploads.open_selfie(placed.order, now).startswith(b"\xff\xd8")


def test_the_purge_deletes_bytes_while_the_epoch_store_is_away(
    placed: Placed, no_redis: Callable[[], None]
) -> None:
    no_redis()
    later = placed.order.expires_at + timedelta(minutes=1)

    first = purge.run(later)
    second = purge.run(later + timedelta(hours=1))

    assert (first.begun, first.failed, first.epoch_keys_destroyed) == (1, 0, 0)
    assert (second.purged, second.failed) == (1, 0)
    assert not OrderKey.objects.exists()
    assert list(objects.blobs().list("o/")) == []
    assert Heartbeat.objects.filter(name=purge.HEARTBEAT, at=later + timedelta(hours=1)).exists()


def test_a_start_with_a_store_that_is_away_or_unfit_names_the_setting(
    settings: Settings, no_redis: Callable[[], None]
) -> None:
    assert stores_are_fit(None) == []

    no_redis()
    settings.BLOB_STORE = "s3://UPPER/x"
    settings.S3_ENDPOINT_URL = f"http://127.0.0.1:{closed_port()}"

    assert [(error.id, str(error.msg).partition(":")[0]) for error in stores_are_fit(None)] == [
        ("headshots.E003", "EPOCH_STORE"),
        ("headshots.E003", "BLOB_STORE"),
    ]
