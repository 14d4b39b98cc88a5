"""Each mail is sent once, whoever asks and whoever dies."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.core import mail
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.utils import timezone

from headshots import tasks
from headshots.hints import Task
from headshots.models import Mail, MailAddress
from headshots.services import letters, mails, maintenance
from headshots.services.orders import Placed
from tests.services.mails.orders_with_mails import ADDRESS, finish

pytestmark = pytest.mark.django_db


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
