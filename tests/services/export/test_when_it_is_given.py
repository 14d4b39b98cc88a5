"""A customer takes everything away in each state of an order, while it ends, and in little memory."""

import io
import tracemalloc
import zipfile
from datetime import timedelta

import pytest
from django.utils import timezone
from pytest_django import Settings

from headshots.exceptions import NotFound
from headshots.models import AuditEntry, Order, Shot, StoredObject
from headshots.services import export, objects, orders, purge
from headshots.services.orders import Placed
from headshots.services.shredding import SELFIE_KEY_GRACE
from headshots.states import LIVE_STATES, OrderState, ShotState
from headshots.vault.envelope import Kind
from tests.services.export.conftest import data_of, deliver, exported, iso

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


# --- when -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", LIVE_STATES)
def test_the_export_works_in_every_living_state(placed: Placed, state: OrderState) -> None:
    Order.objects.update(state=state, refusal_code="no_face" if state == OrderState.REFUSED else "")

    archive = exported(placed.order)

    assert archive.namelist() == ["data.json", "selfie.jpg"]
    data = data_of(archive)
    assert data["order"]["state"] == state
    assert [shot["files"] for shot in data["shots"]] == [[], [], []]
    assert data["deletion"]["selfie_key_destroyed_by"] == iso(placed.order.expires_at)


def test_a_refused_photo_is_erased_and_the_export_says_so(placed: Placed) -> None:
    orders.refuse(placed.order, "no_face", timezone.now())

    archive = exported(placed.order)

    data = data_of(archive)
    assert archive.namelist() == ["data.json"]
    assert (data["order"]["refusal_code"], data["keys"]) == ("no_face", [])
    assert data["selfies"][0]["file"] is None
    assert [stored["state"] for stored in data["stored_objects"]] == ["deleted"]
    assert data["deletion"]["selfie_key_destroyed_by"] == data["order"]["selfie_shredded_at"]


def test_the_selfie_is_given_until_its_key_is_destroyed(
    ready: tuple[Order, list[tuple[bytes, bytes]]],
) -> None:
    Order.objects.update(finished_at=timezone.now() - SELFIE_KEY_GRACE)
    purge.run(timezone.now())

    archive = exported(ready[0])

    data = data_of(archive)
    assert "selfie.jpg" not in archive.namelist()
    assert len(archive.namelist()) == 1 + 6
    assert data["keys"] == ["results"]
    assert data["selfies"][0]["file"] is None


def test_a_selfie_key_destroyed_while_the_export_begins_leaves_the_selfie_out(
    ready: tuple[Order, list[tuple[bytes, bytes]]],
) -> None:
    Order.objects.update(finished_at=timezone.now() - SELFIE_KEY_GRACE)
    seen_before = Order.objects.get()
    purge.run(timezone.now())
    StoredObject.objects.filter(kind=Kind.SELFIE).update(state=StoredObject.State.STORED)

    archive = zipfile.ZipFile(io.BytesIO(b"".join(export.stream(seen_before, timezone.now()))))

    assert "selfie.jpg" not in archive.namelist()
    assert data_of(archive)["selfies"][0]["file"] is None


def test_some_pictures_are_given_while_others_are_still_made(placed: Placed) -> None:
    orders.accept(placed.order, timezone.now())
    deliver(placed.order, 1)

    archive = exported(placed.order)

    name = "headshot-01-corporate.jpg"
    assert archive.namelist() == ["data.json", "selfie.jpg", f"headshots/{name}", f"previews/{name}"]
    assert [shot["state"] for shot in data_of(archive)["shots"]] == ["done", "pending", "pending"]


def test_a_deleted_order_gives_nothing_before_the_first_byte(
    ready: tuple[Order, list[tuple[bytes, bytes]]],
) -> None:
    seen_before = Order.objects.get()
    purge.request(ready[0], actor="customer", now=timezone.now())

    with pytest.raises(NotFound):
        export.stream(seen_before, timezone.now())


def test_an_expired_order_gives_nothing_before_the_first_byte(
    ready: tuple[Order, list[tuple[bytes, bytes]]],
) -> None:
    order = Order.objects.get()

    with pytest.raises(NotFound):
        export.stream(order, order.expires_at + timedelta(seconds=1))


def test_an_order_that_ends_while_it_is_sent_breaks_the_zip_off(
    ready: tuple[Order, list[tuple[bytes, bytes]]],
) -> None:
    pieces = export.stream(Order.objects.get(), timezone.now())
    begun = next(pieces) + next(pieces)
    purge.request(ready[0], actor="customer", now=timezone.now())

    with pytest.raises(NotFound):
        begun += b"".join(pieces)
    assert not zipfile.is_zipfile(io.BytesIO(begun))


# --- how --------------------------------------------------------------------------------------------------


def test_one_picture_is_in_memory_at_a_time(placed: Placed) -> None:
    size = 4 * 1024 * 1024
    order = Order.objects.get()
    stored = [objects.intend(order, Kind.HEADSHOT, index, timezone.now()) for index in (1, 2, 3)]
    for each in stored:
        objects.put(each, bytes(size), timezone.now())
        objects.mark_stored(each)
    for shot, each in zip(Shot.objects.filter(order=order), stored, strict=True):
        Shot.objects.filter(pk=shot.pk).update(state=ShotState.DONE, headshot=each)
    tracemalloc.start()
    try:
        total = sum(len(piece) for piece in export.stream(order, timezone.now()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert total > 3 * size
    assert peak < 6 * size  # one picture: sealed, opened, copied into the archive, taken out of it


def test_the_export_writes_no_file_and_no_row(
    ready: tuple[Order, list[tuple[bytes, bytes]]], settings: Settings
) -> None:
    def files() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in settings.DATA.rglob("*") if path.is_file()}

    files_before, entries = files(), AuditEntry.objects.count()
    exported(ready[0])

    assert files() == files_before
    assert AuditEntry.objects.count() == entries
