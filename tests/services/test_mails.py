"""Mails: what each says to the letter, sent once, tried again, given up; and the address, sealed."""

import logging
import re
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest
from django.core import mail
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.utils import timezone
from pytest_django import Settings

from headshots import tasks
from headshots.exceptions import Refusal
from headshots.hints import Task
from headshots.models import Mail, MailAddress, Order, OrderKey, Refund, Shot, StoredObject
from headshots.services import contacts, letters, mails, maintenance, objects, orders, payments, uploads
from headshots.services.contacts import Contact
from headshots.services.orders import Placed
from headshots.states import OrderState, ShotState
from headshots.vault.errors import StoreAway
from tests.services.smtp_server import MailServer, mail_server
from tests.services.world import files_with

pytestmark = pytest.mark.django_db

ADDRESS = "ada.lovelace@example.org"


@pytest.fixture(autouse=True)
def unclean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are taken as they come: the sandbox has tests of its own."""
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)


@pytest.fixture
def placed(place: Callable[..., Placed]) -> Placed:
    """A free order with an address, not yet assessed; the mail that it was placed is due."""
    return place(address=ADDRESS)


@pytest.fixture
def server(settings: Settings) -> Iterator[MailServer]:
    """A real mail server, and Django's real way to it."""
    with mail_server() as server:
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", server.port
        settings.EMAIL_USE_TLS = settings.EMAIL_USE_SSL = False
        settings.EMAIL_HOST_USER = settings.EMAIL_HOST_PASSWORD = ""
        yield server


def finish(order: Order, done: int) -> None:
    """Let the order end with that many pictures, the others failed."""
    Order.objects.filter(pk=order.pk).update(state=OrderState.RENDERING)
    shots = Shot.objects.filter(order=order)
    shots.filter(index__lte=done).update(state=ShotState.DONE, likeness="")
    shots.filter(index__gt=done).update(state=ShotState.FAILED, error_code="gate")
    orders.finish(order.pk, timezone.now())


def paid(place: Callable[..., Placed]) -> Placed:
    """A premium order that is paid and queued."""
    placed = place(address=ADDRESS, tier_slug="premium", style_slugs=("tech",))
    orders.accept(placed.order, timezone.now())
    payments.confirm_test_payment(Order.objects.get(pk=placed.order.pk), timezone.now())
    return placed


def the_mail(kind: Mail.Kind) -> EmailMessage:
    """The one mail of that kind that was sent."""
    (sent,) = (each for each in mail.outbox if each.extra_headers["Message-ID"].startswith(f"<{kind}."))
    return sent


def deadline(order: Order) -> str:
    at = order.expires_at
    return f"{at.day} {at:%B %Y, %H:%M} UTC"


# --- what they say ----------------------------------------------------------------------------------------


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


def test_the_mail_that_a_premium_order_was_placed_speaks_of_the_payment(
    place: Callable[..., Placed],
) -> None:
    place(address=ADDRESS, tier_slug="premium")

    mails.run(timezone.now())

    assert mail.outbox[0].body.startswith(
        "Your photo has arrived. We check it now; if it can be used, you pay on the order’s page "
        "and we start.\n"
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


# --- once each --------------------------------------------------------------------------------------------


def test_an_order_without_an_address_gets_no_mail(place: Callable[..., Placed]) -> None:
    placed = place()
    finish(placed.order, 3)

    assert mails.run(timezone.now()) == mails.Posted()
    assert not Mail.objects.exists()
    assert not MailAddress.objects.exists()
    assert mail.outbox == []


def test_each_mail_is_sent_once_whoever_asks_and_how_often(placed: Placed) -> None:
    at = timezone.now()
    for _ in range(3):
        mails.queue(placed.order.pk, Mail.Kind.PLACED, at)
        mails.run(at)
    later = at + timedelta(hours=1)
    mails.queue(placed.order.pk, Mail.Kind.PLACED, later)

    assert mails.run(later) == mails.Posted()
    assert len(mail.outbox) == 1
    row = Mail.objects.get()
    assert (row.kind, row.state, row.attempts, row.sent_at) == ("placed", "sent", 1, at)


def test_two_passes_at_once_send_a_mail_once(placed: Placed, monkeypatch: pytest.MonkeyPatch) -> None:
    at = timezone.now()
    send, inner = letters.send, []

    def send_while_another_pass_runs(message: EmailMessage, server: BaseEmailBackend) -> None:
        monkeypatch.setattr(letters, "send", send)
        inner.append(mails.run(at))
        send(message, server)

    monkeypatch.setattr(letters, "send", send_while_another_pass_runs)

    assert mails.run(at).sent == 1
    assert inner == [mails.Posted()]
    assert len(mail.outbox) == 1


def test_a_mail_whose_sender_died_before_it_was_marked_goes_out_again_under_the_same_id(
    placed: Placed, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DeathError(BaseException):
        pass

    def die(row: Mail, now: datetime) -> int:
        raise DeathError

    at = timezone.now()
    with monkeypatch.context() as patch:
        patch.setattr(mails, "mark_sent", die)
        with pytest.raises(DeathError):
            mails.run(at)

    assert mails.run(at) == mails.Posted()  # still claimed
    assert mails.run(at + mails.FIRST_PAUSE).sent == 1
    assert len({each.extra_headers["Message-ID"] for each in mail.outbox}) == 1


def test_a_worker_is_told_of_a_mail_once_it_is_committed_and_the_hint_says_nothing(
    placed: Placed,
    sent: list[tuple[str, tuple[str, ...]]],
    django_capture_on_commit_callbacks: Callable[..., object],
) -> None:
    with django_capture_on_commit_callbacks(execute=True):  # type: ignore[attr-defined]
        mails.queue(placed.order.pk, Mail.Kind.READY, timezone.now())
        assert sent == []

    assert sent == [(Task.MAIL, ())]


def test_the_task_sends_what_is_due_and_nothing_of_a_database_put_back_from_a_copy(
    placed: Placed, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(maintenance, "problem", lambda: "restored")
        tasks.mail()
        assert mail.outbox == []

    tasks.mail()

    assert [sent.to for sent in mail.outbox] == [[ADDRESS]]


# --- a server that is away, or says no --------------------------------------------------------------------


def test_a_real_server_is_given_the_mail_and_one_recipient(server: MailServer, placed: Placed) -> None:
    assert mails.run(timezone.now()).sent == 1

    ((recipients, message),) = server.received
    assert recipients == [ADDRESS]
    assert "\nSubject: Your headshots: order placed\n" in message
    assert f"\nTo: {ADDRESS}\n" in message
    assert Mail.objects.get().state == Mail.State.SENT


def test_the_mails_of_a_pass_share_a_connection_and_one_that_is_refused_does_not_end_it(
    server: MailServer, place: Callable[..., Placed]
) -> None:
    for number in range(3):
        place(address=f"ada{number}@example.org")
    server.refused_recipients.add("ada1@example.org")

    assert mails.run(timezone.now()) == mails.Posted(sent=2, given_up=1)
    assert [recipients for recipients, _ in server.received] == [["ada0@example.org"], ["ada2@example.org"]]
    assert server.conversations == 1


@pytest.mark.parametrize(
    ("command", "answer"),
    [("RCPT", "451 later"), ("MAIL", "452 full"), ("DATA", "421 closing"), ("EHLO", ""), ("RCPT", "")],
)
def test_a_server_that_cannot_now_is_asked_again(
    server: MailServer, placed: Placed, command: str, answer: str
) -> None:
    at = timezone.now()
    server.answers[command] = answer

    assert mails.run(at) == mails.Posted(delayed=1)
    assert mails.run(at) == mails.Posted()  # not before its pause is over
    server.answers.clear()
    assert mails.run(at + mails.FIRST_PAUSE) == mails.Posted(sent=1)
    assert len(server.received) == 1


@pytest.mark.parametrize(
    ("command", "answer"), [("RCPT", "550 no such mailbox"), ("DATA", "554 not this one")]
)
def test_a_server_that_says_never_is_not_asked_again(
    server: MailServer, placed: Placed, command: str, answer: str
) -> None:
    at = timezone.now()
    server.answers[command] = answer

    assert mails.run(at) == mails.Posted(given_up=1)

    server.answers.clear()
    assert mails.run(at + timedelta(hours=1)) == mails.Posted()
    assert server.received == []
    assert Mail.objects.get().state == Mail.State.GIVEN_UP


def test_the_pauses_grow_to_half_an_hour_and_it_is_given_up_after_six_hours(
    server: MailServer, placed: Placed
) -> None:
    begun = timezone.now()
    Mail.objects.update(created_at=begun, not_before=begun)
    server.answers["EHLO"] = server.answers["HELO"] = ""
    pauses = []
    while (row := Mail.objects.get()).state == Mail.State.DUE:
        at = row.not_before
        mails.run(at)
        pauses.append((Mail.objects.get().not_before - at).total_seconds() / 60)

    assert pauses == [1, 2, 4, 8, 16, *[30] * 12]
    assert timedelta(hours=6) <= at - begun < timedelta(hours=6.5)
    assert Mail.objects.get().state == Mail.State.GIVEN_UP


def test_a_server_that_is_away_is_asked_three_times_in_a_pass(
    server: MailServer, place: Callable[..., Placed]
) -> None:
    for _ in range(5):
        place(address=ADDRESS)
    server.answers["EHLO"] = server.answers["HELO"] = ""

    assert mails.run(timezone.now()) == mails.Posted(delayed=mails.PATIENCE)
    assert Mail.objects.filter(attempts=0).count() == 2


def test_wrong_credentials_cost_no_mail(server: MailServer, placed: Placed, settings: Settings) -> None:
    settings.EMAIL_HOST_USER, settings.EMAIL_HOST_PASSWORD = "headshots", "wrong"
    server.answers["EHLO"] = "250 AUTH PLAIN"
    server.answers["AUTH"] = "535 no"

    assert mails.run(timezone.now()) == mails.Posted(delayed=1)
    assert Mail.objects.get().state == Mail.State.DUE


def test_a_sender_that_cannot_stand_in_a_header_ends_no_pass(
    place: Callable[..., Placed], settings: Settings
) -> None:
    place(address=ADDRESS)
    place(address=ADDRESS)
    settings.DEFAULT_FROM_EMAIL = "Headshots\nBcc: eve@example.org <ada@example.org>"

    assert mails.run(timezone.now()) == mails.Posted(given_up=2)
    assert mail.outbox == []


def test_a_store_of_keys_that_is_away_costs_no_mail(placed: Placed, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*args: object) -> None:
        raise StoreAway("the epoch store does not answer")

    objects.forget_keys(placed.order)
    monkeypatch.setattr(objects.epochs(), "unwrap", away, raising=True)

    assert mails.run(timezone.now()) == mails.Posted(delayed=1)
    assert Mail.objects.get().state == Mail.State.DUE


def test_nothing_that_a_server_says_reaches_a_log(
    server: MailServer, placed: Placed, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.answers["RCPT"] = f"550 <{ADDRESS}> is unknown"
    mails.run(timezone.now())

    assert "given up" in caplog.text
    for secret in (ADDRESS, placed.token, "is unknown"):
        assert secret not in caplog.text


# --- the address ------------------------------------------------------------------------------------------


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
