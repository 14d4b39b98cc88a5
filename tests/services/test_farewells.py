"""The last mail: sent when nothing of the order can be read, held in memory alone, waited for by nobody."""

import io
import smtplib
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from django.core import mail
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.core.management import call_command
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from headshots.exceptions import NotFound
from headshots.models import Mail, MailAddress, Order, OrderKey, Payment, Receipt, Shot
from headshots.services import contacts, farewells, fencing, letters, mails, objects, orders, purge, uploads
from headshots.services.orders import Placed
from headshots.states import OrderState, ShotState
from headshots.vault.errors import StoreAway
from tests.services.world import files_with

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

ADDRESS = "ada.lovelace@example.org"


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that holds no mail yet; photos are taken as they come."""
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)
    farewells._held.clear()
    yield
    farewells._held.clear()


@pytest.fixture
def placed(place: Callable[..., Placed]) -> Placed:
    """A free order with an address, whose first mail is sent."""
    placed = place(address=ADDRESS)
    mails.run(timezone.now())
    mail.outbox.clear()
    return placed


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> list[EmailMessage]:
    """The mail server takes nothing; what it was offered."""
    offered: list[EmailMessage] = []

    def refuse(message: EmailMessage, server: BaseEmailBackend) -> None:
        offered.append(message)
        raise letters.MailServerAway

    monkeypatch.setattr(letters, "send", refuse)
    return offered


def test_a_deleted_order_says_where_its_receipt_is(placed: Placed, settings: Settings) -> None:
    settings.SITE_URL = "https://headshots.example"
    at = timezone.now()

    purge.request(placed.order, actor="customer", now=at)
    assert mail.outbox == []  # the deletion sent nothing: nobody waited for a mail server
    assert farewells.deliver(at) == 1

    (sent,) = mail.outbox
    assert sent.to == [ADDRESS]
    assert sent.subject == "Your headshots are deleted"
    assert sent.body == (
        "The keys of your order are destroyed: nobody can read your photo and headshots any more. "
        "The files are being deleted, and the store is looked through twice.\n\n"
        f"The signed receipt: https://headshots.example/receipts/{placed.order.receipt_id}\n\n"
        "It appears there once the second look has found nothing, mostly within a minute. "
        "This is our last mail; your address is not stored any more.\n"
    )
    assert placed.token not in sent.body
    row = Mail.objects.get(kind=Mail.Kind.DELETED)
    assert (row.state, row.sent_at) == (Mail.State.SENT, at)
    assert farewells.deliver(at) == 0


def test_when_it_is_sent_the_address_and_the_keys_are_gone(
    placed: Placed, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    seen = []

    def look(message: EmailMessage, server: BaseEmailBackend) -> None:
        seen.append((MailAddress.objects.count(), OrderKey.objects.count()))

    monkeypatch.setattr(letters, "send", look)

    purge.request(placed.order, actor="customer", now=timezone.now())
    farewells.deliver(timezone.now())

    assert seen == [(0, 0)]
    assert files_with(settings.DATA, ADDRESS.encode()) == []
    assert ADDRESS not in repr(farewells._held)


def test_a_copy_of_the_address_opens_no_more_once_the_keys_are_shredded(placed: Placed) -> None:
    copy = MailAddress.objects.get()
    assert contacts.open_at_the_end(copy).address == ADDRESS
    purge.request(placed.order, actor="customer", now=timezone.now())

    copy.save(force_insert=True)

    with pytest.raises(NotFound):
        contacts.open_at_the_end(copy)
    with pytest.raises(NotFound):
        contacts.open_contact(Order.objects.get(), timezone.now())


def test_a_copy_of_address_and_keys_opens_no_more_once_the_hour_is_over(placed: Placed) -> None:
    copy, keys = MailAddress.objects.get(), list(OrderKey.objects.all())
    purge.request(placed.order, actor="customer", now=timezone.now())
    copy.save(force_insert=True)
    OrderKey.objects.bulk_create(keys)
    assert contacts.open_at_the_end(copy).address == ADDRESS

    objects.epochs().destroy(placed.order.epoch)

    with pytest.raises(NotFound):
        contacts.open_at_the_end(copy)


def test_orders_that_come_to_their_end_are_written_to_as_well(
    place: Callable[..., Placed], purge_all: Callable[[], None]
) -> None:
    told = [place(address=f"ada{number}@example.org").order for number in range(3)]
    place()
    Order.objects.update(created_at="2026-01-01T00:00Z", expires_at="2026-01-01T23:00Z")

    purge_all()

    assert Receipt.objects.count() == 4
    assert not MailAddress.objects.exists()
    assert farewells.deliver(timezone.now()) == 3
    by_address = sorted(mail.outbox, key=lambda each: each.to)
    assert [each.to for each in by_address] == [[f"ada{number}@example.org"] for number in range(3)]
    for order, each in zip(told, by_address, strict=True):
        assert order.receipt_id in each.body


def test_a_mail_whose_order_a_restore_took_away_is_dropped_and_holds_up_no_other(
    placed: Placed, place: Callable[..., Placed]
) -> None:
    other = place(address=ADDRESS)
    for each in (placed, other):
        purge.request(each.order, actor="customer", now=timezone.now())
    gone, there = farewells._held
    farewells._held[0] = replace(gone, row=Mail(order_id=uuid.uuid4(), kind=gone.row.kind))

    assert farewells.deliver(timezone.now()) == 1

    assert not farewells._held
    assert [Mail.objects.get(pk=each.row.pk).state for each in (gone, there)] == ["due", "sent"]


def test_a_refused_photo_is_told_of_with_its_reason_and_then_nothing_more(
    placed: Placed, purge_all: Callable[[], None]
) -> None:
    orders.refuse(placed.order, "no_face", timezone.now())

    assert not MailAddress.objects.exists()
    assert farewells.deliver(timezone.now()) == 1
    (sent,) = mail.outbox
    ends = Order.objects.get().expires_at
    assert sent.subject == "Your headshots: we could not use the photo"
    assert sent.body == (
        "We could not find a face in this photo. Face the camera, take off sunglasses, and find even light "
        "from the front.\n\n"
        "The photo is erased, and so is this address. Nothing was charged. "
        "You are welcome to place a new order.\n\n"
        f"Your order, until {ends.day} {ends:%B %Y, %H:%M} UTC: http://localhost:8000/o#{placed.token}\n"
    )
    purge.request(Order.objects.get(), actor="customer", now=timezone.now())
    purge_all()
    assert farewells.deliver(timezone.now()) == 0
    assert Receipt.objects.count() == 1


def test_a_pack_that_ends_short_is_told_what_goes_back(place: Callable[..., Placed]) -> None:
    placed = place(address=ADDRESS, tier_slug="premium")
    Payment.objects.update(state=Payment.State.PAID, paid_at=timezone.now())
    Shot.objects.filter(index__lte=2).update(state=ShotState.DONE)

    purge.request(placed.order, actor="customer", now=timezone.now())
    farewells.deliver(timezone.now())

    assert (
        "You paid for 50 headshots and 2 were made: the price of the others goes back to you."
        in mail.outbox[0].body
    )


# --- what can go wrong ------------------------------------------------------------------------------------


def test_a_mail_server_that_is_away_delays_no_deletion_and_is_asked_for_eight_minutes(
    placed: Placed, away: list[EmailMessage], purge_all: Callable[[], None]
) -> None:
    begun = timezone.now()
    purge.request(placed.order, actor="customer", now=begun)
    purge_all()
    assert Receipt.objects.count() == 1

    at = begun
    while farewells._held:
        assert farewells.deliver(at) == 0
        at += timedelta(seconds=10)

    assert len(away) == 16  # at the start and then each half minute
    assert at - begun == timedelta(minutes=8, seconds=10)
    assert Mail.objects.get(kind=Mail.Kind.DELETED).state == Mail.State.GIVEN_UP


def test_a_mail_server_that_comes_back_is_given_the_mail(
    placed: Placed, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = timezone.now()
    purge.request(placed.order, actor="customer", now=at)

    with monkeypatch.context() as patch:
        patch.setattr("django.core.mail.backends.locmem.EmailBackend.send_messages", broken)
        assert farewells.deliver(at) == 0

    assert farewells.deliver(at + farewells.PAUSE) == 1
    assert len(mail.outbox) == 1


def broken(*args: object) -> None:
    raise smtplib.SMTPServerDisconnected


def test_a_server_that_takes_no_mail_is_tried_with_one_of_many(
    place: Callable[..., Placed], away: list[EmailMessage]
) -> None:
    for _ in range(3):
        purge.request(place(address=ADDRESS).order, actor="customer", now=timezone.now())

    farewells.deliver(timezone.now())

    assert len(away) == 1
    assert len(farewells._held) == 3


@pytest.mark.parametrize("broken_part", ["unwrap", "open"])
def test_an_address_that_cannot_be_opened_costs_the_mail_and_not_the_deletion(
    placed: Placed, purge_all: Callable[[], None], monkeypatch: pytest.MonkeyPatch, broken_part: str
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise StoreAway("the epoch store does not answer")

    objects.forget_keys(placed.order)
    if broken_part == "unwrap":
        monkeypatch.setattr(objects.epochs(), "unwrap", fail)
    else:
        monkeypatch.setattr(contacts, "open_at_the_end", fail)

    purge.request(placed.order, actor="customer", now=timezone.now())
    purge_all()

    assert Receipt.objects.count() == 1
    assert not MailAddress.objects.exists()
    assert farewells.deliver(timezone.now()) == 0
    assert not Mail.objects.filter(kind=Mail.Kind.DELETED).exists()


def test_slow_keys_hold_a_deletion_up_for_five_seconds_at_most(
    place: Callable[..., Placed], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        place(address=ADDRESS)
    seconds = iter(range(0, 100, 2))
    monkeypatch.setattr(farewells.time, "monotonic", lambda: next(seconds))
    Order.objects.update(created_at="2026-01-01T00:00Z", expires_at="2026-01-01T23:00Z")

    fencing.end_all_due(timezone.now())

    assert len(farewells._held) == 2
    assert not MailAddress.objects.exists()
    assert not OrderKey.objects.exists()


def test_a_process_that_ends_takes_the_mail_with_it_and_the_row_says_so(placed: Placed) -> None:
    at = timezone.now()
    purge.request(placed.order, actor="customer", now=at)
    farewells._held.clear()

    assert mails.run(at) == mails.Posted()
    assert mails.run(at + farewells.HELD_FOR) == mails.Posted(given_up=1)
    assert mail.outbox == []


def test_two_processes_that_shred_one_order_send_one_mail(placed: Placed) -> None:
    at = timezone.now()
    with farewells.after_shredding([placed.order], at):  # the other process opened the address as well
        purge.request(placed.order, actor="customer", now=at)

    assert farewells.deliver(at) == 1
    assert len(mail.outbox) == 1


def test_a_deletion_that_is_taken_back_holds_no_mail(placed: Placed) -> None:
    with pytest.raises(RuntimeError), farewells.after_shredding([placed.order], timezone.now()):
        raise RuntimeError

    assert not farewells._held
    assert MailAddress.objects.exists()


@pytest.mark.parametrize("reason", ["upload failed", "restored"])
def test_no_mail_where_there_was_no_order_or_another_database_tells_of_it(
    placed: Placed, reason: str, purge_all: Callable[[], None]
) -> None:
    fencing.begin(placed.order, reason=reason, now=timezone.now())
    purge_all()

    assert Order.objects.get().state == OrderState.PURGED
    assert not MailAddress.objects.exists()
    assert farewells.deliver(timezone.now()) == 0


def test_the_purge_as_a_command_sends_what_it_holds_before_it_ends(place: Callable[..., Placed]) -> None:
    place(address=ADDRESS)
    Order.objects.update(created_at="2026-01-01T00:00Z", expires_at="2026-01-01T23:00Z")

    call_command("purge", stdout=io.StringIO())

    assert [sent.subject for sent in mail.outbox] == ["Your headshots are deleted"]
    assert not farewells._held


def test_a_process_has_one_thread_that_delivers_and_a_new_one_once_that_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, may_end = threading.Semaphore(0), threading.Event()

    def deliver_for_a_while() -> None:
        begun.release()
        may_end.wait(60)

    monkeypatch.setattr(farewells, "_threads", [])
    monkeypatch.setattr(farewells, "_deliver_for_ever", deliver_for_a_while)

    farewells.start()
    farewells.start()
    assert begun.acquire(timeout=60)
    (first,) = farewells._threads
    may_end.set()
    first.join(60)
    farewells.start()
    assert begun.acquire(timeout=60)
    farewells._threads[0].join(60)

    assert not begun.acquire(blocking=False)
    assert first.daemon


def test_an_order_without_an_address_costs_a_deletion_one_query(
    place: Callable[..., Placed], django_assert_num_queries: Callable[..., object]
) -> None:
    order = place().order
    farewells.incarnation.observe()
    with django_assert_num_queries(1 + _queries_of_the_age()):  # type: ignore[attr-defined]
        assert farewells._open([order]) == {}


def _queries_of_the_age() -> int:
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as captured:
        farewells.incarnation.is_restored()
    return len(captured)
