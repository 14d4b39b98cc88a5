"""Licences: dated texts, frozen with the order, in its ZIP to the letter, on record after its end."""

import hashlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from django.utils import timezone
from pytest_django import Settings

from headshots.models import Immutable, LicenceGrant, Order
from headshots.services import delivery, licences, purge, uploads
from headshots.services.licences import LICENCES
from headshots.services.orders import Placed
from headshots.states import OrderState
from headshots.tiers import TIERS
from tests.api.conftest import ready

__all__ = ["ready"]  # a fixture of the API's tests

pytestmark = pytest.mark.django_db

# What was published. A text that is changed gets a new version, and its own line here.
PUBLISHED = {
    ("free", "2026-11-21"): "a7221d5d0845a72da2e26153ea2ff9419e8754b7d4a285ad000e8516615decdd",
    ("premium", "2026-11-21"): "0155cdc504e93b8b65f10b7132147c6c294c79d58d868b4738564357bc6845f1",
}


@pytest.fixture
def unclean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are taken as they come: the sandbox has tests of its own."""
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)


def licence_in(placed: Placed) -> bytes:
    pieces = delivery.stream_archive(Order.objects.get(pk=placed.order.pk), timezone.now())
    return zipfile.ZipFile(io.BytesIO(b"".join(pieces))).read("LICENCE.txt")


@pytest.mark.parametrize("slug", TIERS)
def test_a_published_text_is_never_changed_under_its_version(slug: str) -> None:
    licence = LICENCES[slug]
    text = "\n".join((licence.title, licence.summary, *licence.paragraphs))

    assert PUBLISHED[slug, licence.version] == hashlib.sha256(text.encode()).hexdigest()


def test_every_tier_has_a_licence_and_every_licence_a_tier() -> None:
    assert list(LICENCES) == list(TIERS)


@pytest.mark.usefixtures("unclean")
def test_the_text_names_receipt_date_tier_and_number_of_pictures(
    place: Callable[..., Placed], settings: Settings
) -> None:
    settings.SITE_URL = "https://headshots.example"
    order = place(tier_slug="premium").order

    text = LicenceGrant.objects.get().text

    assert text.startswith(
        "FULL COMMERCIAL LICENCE\n"
        "Text of 2026-11-21\n"
        "\n"
        f"Receipt   {order.receipt_id}\n"
        f"Date      {order.created_at:%Y-%m-%d}\n"
        "Tier      Premium\n"
        "Pictures  50\n"
        "Granted by the operator of headshots.example\n"
        "\n"
        "1. You may use, copy, change, publish and sell these pictures for any lawful\n"
        "   purpose, personal or commercial, in any medium, world-wide and without time\n"
        "   limit, without naming us and without further payment.\n"
        "\n"
        "2. You may pass"
    )
    assert text.endswith("\n")
    assert max(map(len, text.splitlines())) <= 78
    words = " ".join(text.split())
    for clause in LICENCES["premium"].paragraphs:
        assert clause in words


@pytest.mark.usefixtures("unclean")
def test_the_free_licence_forbids_what_the_full_one_allows(place: Callable[..., Placed]) -> None:
    order = place().order

    text = " ".join(LicenceGrant.objects.get(order=order).text.split())

    assert text.startswith("PERSONAL, NON-COMMERCIAL LICENCE Text of 2026-11-21 Receipt")
    assert "You may not sell them or let others use them for money" in text
    assert "Pictures 3" in text


def test_the_zip_holds_the_granted_text_and_its_hash_is_on_record(ready: Placed) -> None:
    file = licence_in(ready)

    granted = LicenceGrant.objects.get(order=ready.order)
    assert file.decode() == granted.text
    assert hashlib.sha256(file).hexdigest() == granted.sha256
    assert granted.granted_at == ready.order.created_at


def test_a_later_text_changes_nothing_for_an_order_that_was_placed_before(
    ready: Placed, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = licence_in(ready)
    monkeypatch.setitem(
        licences.LICENCES,
        "free",
        replace(LICENCES["free"], version="2027-01-01", paragraphs=("You may do nothing at all.",)),
    )

    assert licence_in(ready) == before
    assert b"nothing at all" not in before
    assert LicenceGrant.objects.get().version == "2026-11-21"


def test_a_grant_cannot_be_changed_or_deleted(placed: Placed) -> None:
    granted = LicenceGrant.objects.get()
    text = granted.text
    granted.text = "You may do everything."

    with pytest.raises(Immutable):
        granted.save()
    with pytest.raises(Immutable):
        granted.delete()

    assert LicenceGrant.objects.get().text == text


def test_a_grant_outlives_the_order(placed: Placed, purge_all: Callable[[], None]) -> None:
    granted = LicenceGrant.objects.get()
    purge.request(placed.order, actor="customer", now=timezone.now())

    purge_all()

    assert Order.objects.get().state == OrderState.PURGED
    left = LicenceGrant.objects.get()
    assert (left.text, left.sha256) == (granted.text, granted.sha256)
    assert placed.order.receipt_id in left.text
    assert str(placed.order.pk) not in left.text


def test_an_order_from_before_grants_is_given_one_when_its_zip_is_asked_for(ready: Placed) -> None:
    LicenceGrant.objects.all().delete()

    file = licence_in(ready)

    assert LicenceGrant.objects.get().text == file.decode()
    assert licences.grant(ready.order, timezone.now() + timedelta(hours=1)).text == file.decode()
