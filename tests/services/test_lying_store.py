"""A store that lies: no receipt until the objects are really absent, and one soon after they are.

Whatever the lie, the order stays in its deletion and is tried again ever more slowly, its keys are gone from
the start, and other orders are not held up.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import pytest
from pytest_django import Settings

from headshots.models import Order, OrderKey, Receipt
from headshots.services import objects, purge, receipts, uploads
from headshots.services.orders import Placed
from headshots.states import OrderState
from headshots.vault.blobs import BlobStore
from headshots.vault.blobs_s3 import S3BlobStore
from headshots.vault.errors import StoreAway
from tests.services.unreliable import UnreliableStore
from tests.vault.conftest import moto, proxy  # noqa: F401  (fixtures)
from tests.vault.servers import Answer, Proxy, Request, aws_client

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

SETTLE: Final = timedelta(minutes=2)


class Liar(UnreliableStore):
    """Lies about the objects of one order, as `lie` says, until it is set to "" again.

    What happens at the third listing, for example, is what the second look would see.
    """

    def __init__(self, real: BlobStore, about: str, lie: str) -> None:
        super().__init__(real)
        self.lie = lie
        self._about = about
        self._deleted: dict[str, bytes] = {}
        self._listings = 0
        self._has_struck = False

    def delete(self, name: str) -> bool:
        """Deletes, except that it may only say so."""
        if self._about in name and name.startswith("o/"):
            if self.lie == "deletes nothing and says so politely":
                return True
            if self.lie == "deletes nothing and says it was not there":
                return False
            if self.lie == "deletes some and fails for the others" and self._has_struck:
                raise StoreAway("not this one")
            self._has_struck = True
            self._deleted[name] = self.real.get(name)
        return self.real.delete(name)

    def list(self, prefix: str) -> Iterator[str]:
        """Lists, except that it may forget, invent or break off."""
        there = sorted(self.real.list(prefix))
        if self._about not in prefix:
            return iter(there)
        self._listings += 1
        if self.lie == "lists nothing":
            return iter(())
        if self.lie == "still lists what it deleted":
            return iter(sorted({*there, *self._deleted}))
        if self.lie == "fails halfway through a listing":
            return _broken_off(there)
        return iter(there)

    def write_behind(self) -> None:
        """What the store deleted is there again: an old replica came back, or a part of an upload landed."""
        for name, data in self._deleted.items():
            self.real.put(name, data)


def _broken_off(names: Sequence[str]) -> Iterator[str]:
    yield from names[:1]
    raise StoreAway("the second page did not come")


LIES: Final = (
    "deletes nothing and says so politely",
    "deletes nothing and says it was not there",
    "deletes some and fails for the others",
    "lists nothing",
    "still lists what it deleted",
    "fails halfway through a listing",
)


@pytest.fixture(autouse=True)
def settle(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long between both looks as production demands of a bucket; no photo needs to be decoded for it."""
    settings.PURGE_SETTLE_SECONDS = SETTLE.total_seconds()
    monkeypatch.setattr(uploads, "clean_portrait_in_sandbox", lambda raw, **options: b"a photo")


@pytest.fixture
def tell(monkeypatch: pytest.MonkeyPatch) -> Callable[[Order, str], Liar]:
    """Puts a liar about an order in the place of the store."""

    def install(order: Order, lie: str) -> Liar:
        liar = Liar(objects.blobs(), order.pk.hex, lie)
        monkeypatch.setattr(objects, "blobs", lambda: liar)
        return liar

    return install


@pytest.fixture
def two(place: Callable[..., Placed]) -> tuple[Order, Order]:
    """Two orders; the first has two objects, so that one of them can be forgotten."""
    one, other = place().order, place().order
    for kind in (objects.Kind.HEADSHOT, objects.Kind.PREVIEW):
        stored = objects.intend(one, kind, 1, one.created_at)
        objects.put(stored, b"a picture", one.created_at)
        objects.mark_stored(stored)
    return one, other


def state_of(order: Order) -> tuple[str, bool]:
    """The state, and whether there is a receipt."""
    return Order.objects.get(pk=order.pk).state, Receipt.objects.filter(order=order).exists()


def left_of(store: BlobStore, order: Order) -> list[str]:
    return list(store.list(f"o/{order.pk.hex}/"))


def purge_for(start: datetime, length: timedelta) -> datetime:
    """A pass each minute, as `purge --watch` does it; when the next one would be."""
    at = start
    while at < start + length:
        purge.run(at)
        at += timedelta(minutes=1)
    return at


@pytest.mark.parametrize("lie", LIES)
def test_no_receipt_before_the_store_is_honest(
    two: tuple[Order, Order], tell: Callable[[Order, str], Liar], lie: str
) -> None:
    order, other = two
    liar = tell(order, lie)

    at = purge_for(order.expires_at, timedelta(minutes=20))

    assert state_of(order) == (OrderState.PURGING, False)
    assert state_of(other) == (OrderState.PURGED, True)
    assert not OrderKey.objects.exists()
    liar.lie = ""
    at = purge_for(at, timedelta(minutes=10))
    assert state_of(order) == (OrderState.PURGED, True)
    assert left_of(liar.real, order) == []
    said = receipts.read(Receipt.objects.get(order=order).text)[0]
    assert (said.selfies, said.headshots, said.previews) == (1, 1, 1)
    first, second = said.absent_verified
    assert second - first >= SETTLE
    assert first >= at - timedelta(minutes=10)
    assert at - timedelta(minutes=10) <= said.objects_deleted <= first


@pytest.mark.parametrize("lie", LIES)
def test_it_is_tried_again_at_growing_intervals(
    two: tuple[Order, Order], tell: Callable[[Order, str], Liar], lie: str
) -> None:
    order, _ = two
    tell(order, lie)
    at = order.expires_at
    pauses = []

    for _ in range(6):
        purge.run(at)
        row = Order.objects.get(pk=order.pk)
        assert row.purge_not_before
        pauses.append(int((row.purge_not_before - at).total_seconds()))
        assert purge.run(row.purge_not_before - timedelta(seconds=1)).failed == 0
        at = row.purge_not_before

    assert pauses == [5, 15, 60, 300, 300, 300]


def test_what_comes_back_between_both_looks_is_deleted_and_counted(
    two: tuple[Order, Order], tell: Callable[[Order, str], Liar]
) -> None:
    order, _ = two
    liar = tell(order, "")
    purge.run(order.expires_at)
    assert left_of(liar.real, order) == []
    liar.write_behind()

    purge.run(order.expires_at + SETTLE)
    assert state_of(order) == (OrderState.PURGING, False)
    assert left_of(liar.real, order) == []
    assert purge.run(order.expires_at + 2 * SETTLE - timedelta(seconds=1)).purged == 0
    assert purge.run(order.expires_at + 2 * SETTLE).purged == 1

    assert state_of(order) == (OrderState.PURGED, True)
    assert Order.objects.get(pk=order.pk).late_writes == 3


def test_what_comes_back_after_every_look_never_gets_a_receipt(
    two: tuple[Order, Order], tell: Callable[[Order, str], Liar]
) -> None:
    order, other = two
    liar = tell(order, "")
    at = order.expires_at
    for _ in range(5):
        purge.run(at)
        assert state_of(order) == (OrderState.PURGING, False)
        liar.write_behind()
        at += SETTLE

    assert state_of(other) == (OrderState.PURGED, True)
    purge.run(at)
    purge.run(at + SETTLE)
    assert state_of(order) == (OrderState.PURGED, True)
    assert left_of(liar.real, order) == []


def test_the_second_look_is_a_later_one_also_after_a_store_that_was_away(
    two: tuple[Order, Order], tell: Callable[[Order, str], Liar]
) -> None:
    """The time that leases need had passed; a part that was on its way may land after the first look."""
    order, _ = two
    liar = tell(order, "")
    liar.faults.failing = {"list"}
    liar.faults.only = order.pk.hex
    at = purge_for(order.expires_at, timedelta(minutes=20)) + timedelta(minutes=5)
    liar.faults.failing = set()

    assert purge.run(at).purged == 0
    liar.write_behind()
    assert purge.run(at + SETTLE).purged == 0
    assert left_of(liar.real, order) == []
    assert purge.run(at + 2 * SETTLE).purged == 1


def test_a_listing_that_breaks_off_at_the_second_look_is_no_look(
    two: tuple[Order, Order], tell: Callable[[Order, str], Liar]
) -> None:
    order, _ = two
    liar = tell(order, "")
    purge.run(order.expires_at)
    liar.write_behind()
    liar.lie = "fails halfway through a listing"

    assert purge.run(order.expires_at + SETTLE).failed == 1

    assert state_of(order) == (OrderState.PURGING, False)
    assert Order.objects.get(pk=order.pk).absent_again_at is None


# --- on S3, whose lies are its own ------------------------------------------------------------------------


@pytest.fixture
def bucket(moto: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, str]:  # noqa: F811
    """A client of a new bucket; the services reach the bucket through the proxy."""
    name = f"test-{uuid4().hex}"
    s3 = aws_client("s3", moto)
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    store = S3BlobStore(aws_client("s3", proxy.url), name)
    monkeypatch.setattr(objects, "blobs", lambda: store)
    return s3, name


def test_a_batch_that_answers_200_and_deletes_nothing_gets_no_receipt(
    bucket: tuple[Any, str],
    two: tuple[Order, Order],
    proxy: Proxy,  # noqa: F811
) -> None:
    order, other = two
    error = f"<Error><Key>o/{order.pk.hex}/x</Key><Code>InternalError</Code><Message>no</Message></Error>"
    answer = Answer(body=f"<DeleteResult>{error}</DeleteResult>".encode())

    def rule(request: Request, forward: Callable[[Request], Answer]) -> Answer:
        is_lie = request.method == "POST" and order.pk.hex.encode() in request.body
        return answer if is_lie else forward(request)

    proxy.rule = rule
    at = order.expires_at
    assert purge.run(at).failed == 1
    at += SETTLE
    assert purge.run(at).failed == 1
    assert state_of(order) == (OrderState.PURGING, False)
    assert state_of(other) == (OrderState.PURGED, True)

    proxy.rule = lambda request, forward: forward(request)
    at += SETTLE
    assert purge.run(at).purged == 0
    assert purge.run(at + 2 * SETTLE).purged == 1
    assert state_of(order) == (OrderState.PURGED, True)


def test_an_upload_that_begins_after_the_first_look_is_aborted_before_the_receipt(
    bucket: tuple[Any, str], two: tuple[Order, Order]
) -> None:
    order, _ = two
    s3, name = bucket
    purge.run(order.expires_at)
    assert left_of(objects.blobs(), order) == []
    key = f"o/{order.pk.hex}/{uuid4().hex}"
    upload = s3.create_multipart_upload(Bucket=name, Key=key)["UploadId"]
    s3.upload_part(Bucket=name, Key=key, UploadId=upload, PartNumber=1, Body=b"sealed")

    assert purge.run(order.expires_at + SETTLE).purged == 1  # the other order
    assert state_of(order) == (OrderState.PURGING, False)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=name)
    assert purge.run(order.expires_at + 2 * SETTLE + timedelta(seconds=1)).purged == 1

    said = receipts.read(Receipt.objects.get(order=order).text)[0]
    assert said.uploads == 1


def test_versions_that_a_delete_leaves_behind_are_deleted_before_the_receipt(
    bucket: tuple[Any, str], two: tuple[Order, Order]
) -> None:
    """Somebody switched versioning on under a running service, and deleted with a marker."""
    order, _ = two
    s3, name = bucket
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    for key in left_of(objects.blobs(), order):
        s3.put_object(Bucket=name, Key=key, Body=b"sealed again")
        s3.delete_object(Bucket=name, Key=key)

    purge.run(order.expires_at)
    purge.run(order.expires_at + SETTLE + timedelta(seconds=1))

    listed = s3.list_object_versions(Bucket=name, Prefix=f"o/{order.pk.hex}/")
    assert not {"Versions", "DeleteMarkers"} & set(listed)
    said = receipts.read(Receipt.objects.get(order=order).text)[0]
    assert said.versions == 9  # of three objects: the old version, the newer one, the marker
