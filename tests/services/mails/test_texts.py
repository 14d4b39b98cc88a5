"""What each mail says, to the letter."""

import re
from collections.abc import Callable

import pytest
from django.core import mail
from django.utils import timezone
from pytest_django import Settings

from headshots.models import Mail, Order
from headshots.services import letters, mails, orders
from headshots.services.contacts import Contact
from headshots.services.orders import Placed
from headshots.states import OrderState
from tests.services.mails.orders_with_mails import ADDRESS, deadline, finish, paid, pay, the_mail

pytestmark = pytest.mark.django_db


def test_the_mail_that_a_free_order_was_placed(placed: Placed, settings: Settings) -> None:
    settings.SITE_URL = "https://headshots.example"
    settings.DEFAULT_FROM_EMAIL = "Headshots <hello@headshots.example>"

    assert mails.run(timezone.now()).sent == 1

    (sent,) = mail.outbox
    assert sent.to == [ADDRESS]
    assert sent.from_email == "Headshots <hello@headshots.example>"
    assert sent.subject == "Your headshots: order placed"
    assert sent.body == (
        "Your photo has arrived. We check it now and start if it can be used.\n\n"
        f"Your order: https://headshots.example/o#{placed.token}\n\n"
        "Whoever has this link can see and delete the order. It works until "
        f"{deadline(placed.order)}; then everything is deleted, this address too.\n"
    )


def test_a_premium_order_is_written_to_once_it_is_paid_and_gets_its_link_then(
    place: Callable[..., Placed],
) -> None:
    placed = place(address=ADDRESS, tier_slug="premium")
    orders.accept(placed.order, timezone.now())
    assert mails.run(timezone.now()) == mails.Posted()

    pay(placed.order)

    assert mails.run(timezone.now()).sent == 1
    sent = the_mail(Mail.Kind.PLACED)
    assert sent.to == [ADDRESS]
    assert sent.subject == "Your headshots: order placed"
    assert sent.body == (
        "Your photo and your payment have arrived, and we make your headshots.\n\n"
        f"Your order: http://localhost:8000/o#{placed.token}\n\n"
        "Whoever has this link can see and delete the order. It works until "
        f"{deadline(placed.order)}; then everything is deleted, this address too.\n"
    )


def test_the_mail_that_the_pictures_are_ready(placed: Placed) -> None:
    finish(placed.order, 3)

    mails.run(timezone.now())

    sent = the_mail(Mail.Kind.READY)
    assert sent.subject == "Your headshots are ready"
    assert sent.body == (
        "3 headshots are ready to see and download.\n\n"
        f"Your order: http://localhost:8000/o#{placed.token}\n\n"
        "Whoever has this link can see and delete the pictures. It works until "
        f"{deadline(placed.order)}; then everything is deleted, this address too. "
        "Keep what you want to keep before then.\n"
    )


def test_a_pack_that_is_short_says_so_and_what_goes_back(place: Callable[..., Placed]) -> None:
    placed = paid(place)
    finish(placed.order, 1)

    mails.run(timezone.now())

    assert the_mail(Mail.Kind.READY).body.startswith(
        "1 headshot is ready to see and download. For the others the price goes back to you.\n"
    )
    sent = the_mail(Mail.Kind.REFUNDED)
    assert sent.subject == "Your headshots: $18.62 goes back to you"
    assert sent.body == (
        "We are giving back $18.62 of what you paid for your order. It goes the way the payment came; "
        "banks take some days.\n\n"
        f"Your order: http://localhost:8000/o#{placed.token}\n\n"
        f"The link works until {deadline(placed.order)}; then everything is deleted, this address too.\n"
    )


@pytest.mark.parametrize(
    ("tier_slug", "money"),
    [("free", "Nothing was charged."), ("premium", "What you paid goes back to you in full.")],
)
def test_the_mail_that_nothing_could_be_made(
    place: Callable[..., Placed], tier_slug: str, money: str
) -> None:
    placed = paid(place) if tier_slug == "premium" else place(address=ADDRESS)
    finish(placed.order, 0)

    mails.run(timezone.now())

    sent = the_mail(Mail.Kind.FAILED)
    assert sent.subject == "Your headshots could not be made"
    assert sent.body == (
        f"We could not make headshots from your photo. {money}\n\n"
        f"Your order: http://localhost:8000/o#{placed.token}\n\n"
        f"Everything is deleted by {deadline(placed.order)}, this address too. You can delete it sooner, "
        "and try again with another photo.\n"
    )


def test_a_mail_is_one_plain_text_without_anything_that_is_loaded(placed: Placed) -> None:
    mails.run(timezone.now())

    message = mail.outbox[0].message()
    assert message.get_content_type() == "text/plain"
    assert not message.is_multipart()
    assert message["Message-ID"] == f"<placed.{placed.order.receipt_id}@localhost>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert set(message.keys()) == {
        *("Content-Type", "MIME-Version", "Content-Transfer-Encoding", "Subject", "From", "To", "Date"),
        *("Message-ID", "Auto-Submitted"),
    }
    links = re.findall(r"\S+://\S+", mail.outbox[0].body)
    assert links == [f"http://localhost:8000/o#{placed.token}"]


@pytest.mark.parametrize("kind", Mail.Kind)
def test_every_kind_has_a_subject_of_one_line_and_a_text_of_whole_sentences(
    placed: Placed, kind: Mail.Kind
) -> None:
    Order.objects.update(state=OrderState.REFUSED, refusal_code="no_face")

    message = letters.compose(kind, Order.objects.get(), Contact(address=ADDRESS, token=placed.token))

    assert 10 < len(message.subject) < 60
    assert "\n" not in message.subject
    assert message.body.endswith((".\n", f"{placed.token}\n"))
    assert "  " not in message.body
    assert "{" not in message.body
    assert "None" not in message.body
