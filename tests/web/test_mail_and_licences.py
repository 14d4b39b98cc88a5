"""The form's field for an address, the licences' pages, and what the privacy page says of mail."""

from collections.abc import Callable

import pytest
from django.core import mail
from django.test import Client
from django.utils import timezone
from django.utils.html import escape

from headshots.models import LicenceGrant, MailAddress, Order
from headshots.services import contacts, mails, orders, uploads
from headshots.services.licences import LICENCES
from headshots.services.orders import Placed
from tests.web.conftest import Send, code_of, hold, nothing_is_stored

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def unclean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are taken as they come: the sandbox has tests of its own."""
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)


def test_the_form_asks_for_an_address_and_does_not_require_one(client: Client, built_in: None) -> None:
    page = client.get("/new").content.decode()

    assert (
        '<input class="text" type="email" id="email" name="email" value="" maxlength="254" '
        'autocomplete="email" aria-describedby="email-hint">' in page
    )
    assert '<label class="field" for="email">E-mail address</label>' in page


def test_an_address_goes_with_the_order_and_its_link_opens_it(send: Send, client: Client) -> None:
    send(email="ada@example.org")
    order = Order.objects.get()

    mails.run(timezone.now())

    (sent,) = mail.outbox
    assert sent.to == ["ada@example.org"]
    token = sent.body.partition("/o#")[2].split()[0]
    stranger = Client()
    assert stranger.get(f"/orders/{order.pk}/").status_code == 404
    assert stranger.post("/o", {"token": token})["Location"] == f"/orders/{order.pk}/"
    assert stranger.get(f"/orders/{order.pk}/").status_code == 200


@pytest.mark.parametrize("given", [{}, {"email": ""}, {"email": "  "}])
def test_an_order_without_an_address_is_as_good(send: Send, given: dict[str, str]) -> None:
    assert send(**given).status_code == 302

    assert Order.objects.count() == 1
    assert not MailAddress.objects.exists()


def test_a_wrong_address_is_refused_beside_the_form_and_stays_in_its_field(send: Send) -> None:
    response = send(email='ada@"><script>', tier="premium")

    page = response.content.decode()
    assert (response.status_code, code_of(response)) == (422, "bad_address")
    assert nothing_is_stored()
    assert "This is not an e-mail address that we can write to." in page
    assert f'value="{escape("ada@" + chr(34) + "><script>")}"' in page
    assert 'aria-describedby="email-hint" aria-invalid="true">' in page


def test_an_address_with_a_line_break_writes_to_nobody(send: Send) -> None:
    response = send(email="ada@example.org\r\nBcc: eve@example.org")

    assert (response.status_code, code_of(response)) == (422, "bad_address")
    assert nothing_is_stored()


def test_no_page_of_the_order_shows_the_address(client: Client, place: Callable[..., Placed]) -> None:
    placed = place(address="ada@example.org")
    hold(client, placed)

    page = client.get(f"/orders/{placed.order.pk}/").content.decode()

    contact = contacts.open_contact(placed.order, timezone.now())
    assert contact
    assert contact.address == "ada@example.org"
    assert "ada@example.org" not in page


def test_the_privacy_page_says_what_is_kept_of_mail_and_for_how_long(client: Client) -> None:
    page = client.get("/privacy").content.decode()

    for words in (
        "Your e-mail address, if you gave one, and beside it your private link",
        "deleted in the same moment as that key",
        "for at most ten minutes",
        "Of each mail we keep which kind it was and when it was sent, not to whom.",
    ):
        assert words in page


# --- licences ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", LICENCES)
def test_each_licence_has_a_page_with_its_whole_text_and_its_date(client: Client, slug: str) -> None:
    page = client.get(f"/licences/{slug}").content.decode()

    assert f"<h1>{LICENCES[slug].title}</h1>" in page
    assert f'<time datetime="{LICENCES[slug].version}">' in page
    for clause in LICENCES[slug].paragraphs:
        assert f"<li>{escape(clause)}</li>" in page


def test_there_is_no_licence_of_a_tier_there_is_not(client: Client) -> None:
    assert client.get("/licences/gold").status_code == 404


def test_both_licences_can_be_read_from_the_form(client: Client, built_in: None) -> None:
    page = client.get("/new").content.decode()

    assert '<a href="/licences/free">' in page
    assert '<a href="/licences/premium">' in page


def test_the_checkout_shows_the_text_that_this_order_was_placed_with(
    client: Client, place: Callable[..., Placed], monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = place(tier_slug="premium")
    hold(client, placed)
    orders.accept(placed.order, timezone.now())
    monkeypatch.setitem(LICENCES, "premium", LICENCES["free"])

    page = client.get(f"/orders/{placed.order.pk}/checkout").content.decode()

    granted = LicenceGrant.objects.get()
    assert "Read the licence of this order, version 2026-11-21" in page
    assert escape(granted.text) in page
    assert granted.text.startswith("FULL COMMERCIAL LICENCE\n")
