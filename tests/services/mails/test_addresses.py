"""The address: refused, sealed, and gone with its order."""

import uuid
from collections.abc import Callable

import pytest
from django.core import mail
from django.utils import timezone
from pytest_django import Settings

from headshots.exceptions import Refusal
from headshots.models import Mail, MailAddress, Order, OrderKey, Refund, StoredObject
from headshots.services import contacts, farewells, mails, orders, payments, purge
from headshots.services.contacts import Contact
from headshots.services.orders import Placed
from tests.services.mails.orders_with_mails import ADDRESS, finish, paid, the_mail
from tests.services.smtp_server import MailServer
from tests.services.world import files_with

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    "address",
    [
        "ada@example.org\nBcc: eve@example.org",
        "ada@example.org\r\nSubject: hello",
        "ada@example.org\n",
        '"ada\x08"@example.org',
        "ada@example.org, eve@example.org",
        "Ada <ada@example.org>",
        "ada",
        "@example.org",
        "ada@exa mple.org",
        "ada@" + "x" * 250 + ".org",
        "ada@example.org\x00",
        "ada@" + "ü" * 60 + ".example",  # too long once it is IDNA
    ],
)
def test_what_is_no_address_is_refused_and_nothing_is_stored(
    place: Callable[..., Placed], address: str
) -> None:
    with pytest.raises(Refusal) as refused:
        place(address=address)

    assert refused.value.code == "bad_address"
    for model in (Order, MailAddress, Mail, OrderKey, StoredObject):
        assert not model.objects.exists()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (" ada@example.org ", "ada@example.org"),
        ("o'ada+x@bücher.example", "o'ada+x@bücher.example"),
        ("", None),
        ("  ", None),
    ],
)
def test_an_address_is_kept_as_it_is_given_or_not_at_all(
    place: Callable[..., Placed], given: str, kept: str | None
) -> None:
    placed = place(address=given)

    contact = contacts.open_contact(placed.order, timezone.now())

    assert contact == (Contact(address=kept, token=placed.token) if kept else None)


def test_a_domain_in_another_script_is_sent_as_idna(server: MailServer, place: Callable[..., Placed]) -> None:
    place(address="ada@bücher.example")

    assert mails.run(timezone.now()).sent == 1
    assert server.received[0][0] == ["ada@xn--bcher-kva.example"]


def test_an_address_and_its_token_lie_in_no_file_in_clear(placed: Placed, settings: Settings) -> None:
    mails.run(timezone.now())

    sealed = bytes(MailAddress.objects.get().sealed)
    assert sealed.startswith(b"HSE1\x01\x12\x00\x00")
    for secret in (ADDRESS, "lovelace", placed.token):
        assert secret.encode() not in sealed
        assert files_with(settings.DATA, secret.encode()) == []
    assert ADDRESS not in repr(contacts.open_contact(placed.order, timezone.now()))


def test_an_address_opens_in_its_own_row_alone(place: Callable[..., Placed]) -> None:
    one, two = place(address=ADDRESS).order, place(address="eve@example.org").order
    moved = bytes(MailAddress.objects.get(order=two).sealed)
    MailAddress.objects.filter(order=one).update(sealed=moved)

    with pytest.raises(Refusal) as refused:
        contacts.open_contact(one, timezone.now())

    assert refused.value.code == "order_not_found"


def test_a_row_under_another_number_does_not_open(placed: Placed) -> None:
    MailAddress.objects.update(id=uuid.uuid4())

    with pytest.raises(Refusal):
        contacts.open_contact(placed.order, timezone.now())


def test_an_order_that_has_ended_is_written_to_no_more(placed: Placed) -> None:
    at = Order.objects.get().expires_at

    assert mails.run(at) == mails.Posted(given_up=1)
    assert mail.outbox == []
    assert Mail.objects.get().state == Mail.State.GIVEN_UP


def test_a_second_refund_of_an_order_sends_no_second_mail(place: Callable[..., Placed]) -> None:
    placed = paid(place)
    finish(placed.order, 49)
    mails.run(timezone.now())

    payments.refund(Order.objects.get(), actor="staff", now=timezone.now())

    assert Refund.objects.count() == 2
    mails.run(timezone.now())
    assert the_mail(Mail.Kind.REFUNDED).subject == "Your headshots: $0.38 goes back to you"


def test_a_refund_that_failed_before_its_mail_went_out_is_not_told_and_the_next_one_is(
    place: Callable[..., Placed],
) -> None:
    placed = paid(place)
    finish(placed.order, 49)
    payments.fail_refund(Refund.objects.get(), "expired_or_canceled_card", timezone.now())

    mails.run(timezone.now())

    assert sorted(Mail.objects.values_list("kind", "state")) == [("placed", "sent"), ("ready", "sent")]
    assert len(mail.outbox) == 2

    payments.refund(Order.objects.get(), pictures=[50], actor="staff", now=timezone.now())
    mails.run(timezone.now())

    assert the_mail(Mail.Kind.REFUNDED).subject == "Your headshots: $0.38 goes back to you"


@pytest.mark.parametrize("how", ["deleted by its customer", "expired", "its photo refused"])
def test_an_order_that_was_never_paid_writes_to_nobody_however_it_ends(
    place: Callable[..., Placed], how: str
) -> None:
    order = place(address=ADDRESS, tier_slug="premium").order
    at = timezone.now()
    if how == "its photo refused":
        orders.refuse(order, "no_face", at)
    elif how == "expired":
        purge.run(order.expires_at)
    else:
        purge.request(order, actor="customer", now=at)

    assert mails.run(at) == mails.Posted()
    assert farewells.deliver(at) == 0
    assert mail.outbox == []
    assert not Mail.objects.exists()
    assert not MailAddress.objects.exists()
