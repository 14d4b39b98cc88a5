"""A premium pack as its customer lives it: from the checkout to fifty pictures, and to a receipt at the end.

Everything goes through the site's own pages; the worker's tasks run in this process. The pictures are the
preview engine's, and those of InstantID with random weights: the same classes and sizes as in production.
"""

import ctypes
import io
import json
import re
import uuid
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import c2pa
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.test import Client
from PIL import Image
from pytest_django import Settings

from headshots import tasks
from headshots.models import Order, OrderKey, Payment
from headshots.services import credentials, objects, picture_claims, purge, signing
from headshots.states import OrderState
from headshots.vault.receipts import open_receipt
from pipelines import provenance
from pipelines.provenance import SourceType
from pipelines.styles import BUILTIN

pytestmark = [
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
    pytest.mark.filterwarnings("ignore:.*estimate.*:FutureWarning"),
]

STYLES: Final = {style.preset.slug for style in BUILTIN}
NAME: Final = re.compile(r"headshot-(\d\d)-([a-z]+)\.jpg")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h
MMAP_MAX: Final = 65536  # glibc's default


@pytest.fixture(autouse=True)
def engine_of_its_own() -> Iterator[None]:
    """No engine of another test, and none left for the next."""
    for cached in (tasks._engine, tasks._assessor):
        cached.cache_clear()
    yield
    for cached in (tasks._engine, tasks._assessor):
        cached.cache_clear()


@pytest.fixture(autouse=True)
def freed_memory_is_kept() -> Iterator[None]:
    """A third of a 4K picture's time on a CPU is the kernel's, which clears the pages of each large array."""
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, -1)
    yield
    libc.mallopt(M_MMAP_MAX, MMAP_MAX)
    libc.mallopt(M_TRIM_THRESHOLD, 128 * 1024)
    libc.malloc_trim(0)


@pytest.fixture
def instantid(tmp_path: Path, settings: Settings) -> None:
    """The tasks of this process on the InstantID engine with random weights."""
    call_command("weights", "tiny", str(tmp_path / "weights"))
    settings.ENGINE, settings.WEIGHTS = "instantid", tmp_path / "weights"
    settings.DEVICE, settings.SLOTS = "cpu", 4
    settings.WEIGHTS_LICENCES = dict.fromkeys(("antelopev2", "instantid"), "random weights of our own")


def buy(client: Client, selfie: bytes) -> Order:
    """Upload, have the photo looked at, and pay on the test provider's page."""
    placed = client.post(
        "/new",
        {
            "tier": "premium",
            "consent": "yes",
            "adult": "yes",
            "upload_id": str(uuid.uuid4()),
            "selfie": SimpleUploadedFile("me.jpg", selfie, "image/jpeg"),
        },
    )
    order = Order.objects.get()
    assert (placed.status_code, placed["Location"]) == (302, f"/orders/{order.pk}/")
    tasks.assess(str(order.pk))
    tasks.render()
    order.refresh_from_db()
    assert order.state == OrderState.AWAITING_PAYMENT  # nothing is made before it is paid
    checkout = f"/orders/{order.pk}/checkout"
    assert "$19.00" in client.get(checkout).content.decode()
    assert client.post(checkout)["Location"] == f"/orders/{order.pk}/"
    assert Payment.objects.get().state == "paid"
    return order


def download(client: Client, order: Order, path: Path) -> zipfile.ZipFile:
    """The ZIP as it was streamed; it is kept on the disk, since it may have 300 MB."""
    response = client.get(f"/orders/{order.pk}/archive.zip")
    assert response.status_code == 200
    with path.open("wb") as file:
        for piece in response.streaming_content:
            file.write(piece)
    archive = zipfile.ZipFile(path)
    assert archive.testzip() is None
    return archive


def check_picture(jpeg: bytes, source: SourceType) -> None:
    """Size, and both marks: the XMP, and credentials that c2pa's reader finds valid and ours."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (2987, 3840))
    assert provenance.source_of(jpeg) == source
    trust = {**credentials.OFFLINE["trust"], "user_anchors": credentials.certificate_path().read_text()}
    context = c2pa.Context.from_dict({**credentials.OFFLINE, "trust": trust})
    with context, c2pa.Reader("image/jpeg", io.BytesIO(jpeg), context=context) as reader:
        assert reader.get_validation_state() == "Trusted"  # valid, and its certificate is the one above
        manifest = json.loads(reader.json())
    (active,) = manifest["manifests"].values()
    assert active["claim_generator_info"][0]["name"] == provenance.TOOL
    claims = picture_claims.read(jpeg, picture_claims.own_chains())
    assert claims.is_valid
    assert claims.credentials
    assert claims.credentials.is_ours
    assert claims.credentials.actions == (("c2pa.created", str(source)),)


def check_archive(archive: zipfile.ZipFile, order: Order, source: SourceType) -> None:
    """Fifty different pictures over the eight styles, and the commercial licence."""
    licence, *pictures = archive.namelist()
    assert licence == "LICENCE.txt"
    text = archive.read(licence).decode()
    assert text == order.licence.text
    assert "commercial" in text.lower()
    assert order.receipt_id in text
    names = [NAME.fullmatch(name) for name in pictures]
    assert [name and int(name[1]) for name in names] == list(range(1, 51))
    styles = Counter(name[2] for name in names if name)
    assert set(styles) == STYLES
    assert set(styles.values()) == {6, 7}
    digests = set()
    for name in pictures:
        jpeg = archive.read(name)
        check_picture(jpeg, source)
        digests.add(hash(jpeg))
    assert len(digests) == 50


def delete(client: Client, order: Order, purge_all: Callable[[], None]) -> None:
    """Delete on the order's page: nothing is left, and the receipt is genuine."""
    gone = client.post(f"/orders/{order.pk}/delete")
    assert gone["Location"] == f"/receipts/{order.receipt_id}"
    assert list(objects.blobs().list("o/")) == []
    assert not OrderKey.objects.exists()
    purge_all()
    assert purge.objects_left() == 0
    page = client.get(gone["Location"]).content.decode()
    assert "<h1>Everything is deleted</h1>" in page
    assert "does not verify" not in page
    note = client.get(f"{gone['Location']}/receipt.txt").content.decode()
    said, signed_by = open_receipt(note, signing.published_keys())
    assert len(signed_by) == 1
    assert said.receipt_id == order.receipt_id
    assert "selfies=1 headshots=50 previews=50" in note
    assert client.get(f"/orders/{order.pk}/").status_code == 404
    assert Order.objects.get().state == OrderState.PURGED


def journey(
    client: Client, selfie: bytes, purge_all: Callable[[], None], folder: Path, source: SourceType
) -> None:
    order = buy(client, selfie)

    tasks.render()

    page = client.get(f"/orders/{order.pk}/").content.decode()
    assert "<h1>Your headshots are ready</h1>" in page
    assert len(re.findall(r'id="preview-\d+"', page)) == 50
    with download(client, order, folder / "headshots.zip") as archive:
        check_archive(archive, order, source)
    delete(client, order, purge_all)


Journey = Callable[[SourceType], Any]


@pytest.fixture
def live(
    client: Client, built_in: None, selfie: bytes, purge_all: Callable[[], None], tmp_path: Path
) -> Journey:
    """The journey of one customer of this test's site."""
    return lambda source: journey(client, selfie, purge_all, tmp_path, source)


def test_a_premium_order_becomes_fifty_4k_pictures_and_a_receipt_on_the_preview_engine(live: Journey) -> None:
    live(SourceType.COMPOSITE)


@pytest.mark.usefixtures("instantid")
def test_a_premium_order_becomes_fifty_4k_pictures_and_a_receipt_on_instantid(live: Journey) -> None:
    live(SourceType.GENERATED)
    assert set(Order.objects.values_list("engine", flat=True)) == {"instantid"}
