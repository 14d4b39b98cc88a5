"""The last mail of an order: that it was deleted, or that its photo was refused and erased.

Its address is to be gone when it is sent. So the address is opened just before the order's keys are shredded,
held in this process's memory for a few minutes after, and never written anywhere: when the process ends, or
the mail server is away for longer, the mail is not sent. No deletion ever waits for it or fails with it.
"""

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from django.core.mail.backends.base import BaseEmailBackend
from django.db import connections

from headshots.exceptions import NotFound
from headshots.models import Mail, Order
from headshots.services import clock, contacts, incarnation, letters, mails
from headshots.services.contacts import Contact
from headshots.services.letters import MailRefused, MailServerAway
from headshots.states import OrderState

log = logging.getLogger(__name__)

HELD_FOR: Final = timedelta(minutes=10)  # in memory after the deletion, at most; the privacy page says so
TRIED_FOR: Final = timedelta(minutes=8)  # the rest is for a round that a slow server holds up
PAUSE: Final = timedelta(seconds=30)  # after a try that the mail server did not take
OPENING_SECONDS: Final = 5.0  # what a hundred deletions may wait for their addresses in all
MAX_HELD: Final = 20_000  # all orders of an hour end at one moment; beyond it the oldest are forgotten
# Their customers met the refusal on the page, or are told by the service that has the newer database.
_SILENT_REASONS: Final = ("upload failed", "restored")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Farewell:
    row: Mail
    contact: Contact = field(repr=False)
    until: datetime
    not_before: datetime


_held: deque[_Farewell] = deque(maxlen=MAX_HELD)
_has_news = threading.Event()
_threads: list[threading.Thread] = []


@contextmanager
def after_shredding(orders: Sequence[Order], now: datetime) -> Iterator[None]:
    """Around the transaction that shreds these orders' keys: hold their last mails once it is committed."""
    opened = _open(orders)
    yield
    for order_id, (kind, contact) in opened.items():
        _hold(order_id, kind, contact, now)


def deliver(now: datetime) -> int:
    """Try each mail held in this process whose time has come once; how many were sent.

    After the first that the server does not take, the others wait too. To be called by one thread.
    """
    sent = 0
    is_away = False
    with letters.mail_server() as server:
        for _ in range(len(_held)):
            farewell = _held.popleft()
            if now >= farewell.until:
                log.warning("mail %s is given up: the mail server did not take it in time", farewell.row.pk)
                mails.give_up(farewell.row)
            elif now < farewell.not_before or is_away:
                _held.append(farewell)
            else:
                outcome = _send(farewell, server, now)
                sent += outcome is Mail.State.SENT
                is_away = outcome is Mail.State.DUE
    return sent


def start() -> None:
    """Begin the thread of this process that delivers; a second call changes nothing.

    A thread of its own: a mail server that is slow must not hold up the purge.
    """
    if not any(thread.is_alive() for thread in _threads):
        _threads[:] = [threading.Thread(target=_deliver_for_ever, name="farewells", daemon=True)]
        _threads[0].start()


def _open(orders: Sequence[Order]) -> dict[uuid.UUID, tuple[Mail.Kind, Contact]]:
    """What can be opened in a moment; whatever goes wrong costs a mail and no more."""
    opened: dict[uuid.UUID, tuple[Mail.Kind, Contact]] = {}
    give_up_at = time.monotonic() + OPENING_SECONDS
    try:
        if incarnation.is_restored():
            return opened
        rows = mails.addresses().filter(order__in=[order.pk for order in orders]).select_related("order")
        for row in rows:
            if row.order.purge_reason in _SILENT_REASONS:
                continue
            if time.monotonic() > give_up_at:
                break
            is_refused = row.order.state == OrderState.REFUSED
            kind = Mail.Kind.REFUSED if is_refused else Mail.Kind.DELETED
            with suppress(NotFound):  # its key is gone, or the row was altered
                opened[row.order_id] = kind, contacts.open_at_the_end(row)
    except Exception as error:  # the keys' store is away: no deletion waits for it
        log.warning("last mails of %d orders are left out: %s", len(orders) - len(opened), error)
    return opened


def _hold(order_id: uuid.UUID, kind: Mail.Kind, contact: Contact, now: datetime) -> None:
    """Of several processes that shred one order at once, one makes the row and holds the mail."""
    try:
        row, is_new = Mail.objects.get_or_create(
            order_id=order_id, kind=kind, defaults={"created_at": now, "not_before": now + HELD_FOR}
        )
    except Exception as error:
        log.warning("the last mail of order %s is left out: %s", order_id, error)
        return
    if is_new:
        _held.append(_Farewell(row=row, contact=contact, until=now + TRIED_FOR, not_before=now))
        _has_news.set()


def _send(farewell: _Farewell, server: BaseEmailBackend, now: datetime) -> Mail.State:
    """What became of the mail; DUE when it is held on for another try."""
    order = Order.objects.filter(pk=farewell.row.order_id).first()
    if order is None:  # the database was restored to a time before it
        return Mail.State.GIVEN_UP
    try:
        letters.send(letters.compose(Mail.Kind(farewell.row.kind), order, farewell.contact), server)
    except MailServerAway:
        _held.append(replace(farewell, not_before=now + PAUSE))
        return Mail.State.DUE
    except MailRefused:
        log.warning("mail %s is given up: the mail server refused it", farewell.row.pk)
        mails.give_up(farewell.row)
        return Mail.State.GIVEN_UP
    mails.mark_sent(farewell.row, now)
    return Mail.State.SENT


def _deliver_for_ever() -> None:
    while True:
        _has_news.wait(PAUSE.total_seconds() if _held else None)
        _has_news.clear()
        try:
            deliver(clock.now())
        except Exception as error:  # the database is away: what was being sent is lost, the others wait
            log.error("last mails failed: %s", error)
        finally:
            connections.close_all()
