"""A mail server that is away, or says no."""

import logging
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.core import mail
from django.utils import timezone
from pytest_django import Settings

from headshots.models import Mail
from headshots.services import mails, objects
from headshots.services.orders import Placed
from headshots.vault.errors import StoreAway
from tests.services.mails.orders_with_mails import ADDRESS
from tests.services.smtp_server import MailServer

pytestmark = pytest.mark.django_db


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
