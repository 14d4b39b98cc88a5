"""Mails to customers: rows first, then sent by a worker, each once; nothing here is waited for by a deletion.

A row says which mail about which order is due, and neither address nor text. When an order ends, its address
is deleted with its keys, and what was not sent by then never will be. The mail that says so is the only one
without a row to send it by: see `services.farewells`.
"""

import logging
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.core.mail.backends.base import BaseEmailBackend
from django.db.models import F, QuerySet

from headshots.exceptions import NotFound
from headshots.hints import Task, enqueue
from headshots.models import Mail, MailAddress, Payment
from headshots.services import contacts, letters
from headshots.services.letters import MailRefused, MailServerAway
from pipelines.errors import Retryable

log = logging.getLogger(__name__)

PATIENCE: Final = 3  # mails that the server did not take, after which a pass leaves the rest to the next
LIMIT: Final = 100  # in one pass, which a task's time limit must suffice for
# Longer than one try may take; then doubled until it is half an hour.
FIRST_PAUSE: Final = timedelta(seconds=60)
LONGEST_PAUSE: Final = timedelta(minutes=30)
GIVEN_UP_AFTER: Final = timedelta(hours=6)


@dataclass(slots=True, kw_only=True)
class Posted:
    """What one pass did; `delayed` mails are tried again later."""

    sent: int = 0
    delayed: int = 0
    given_up: int = 0

    @property
    def is_worth_a_line(self) -> bool:
        """Whether an operator would want to read of it."""
        return bool(self.sent or self.delayed or self.given_up)


def addresses() -> QuerySet[MailAddress]:
    """The addresses that are written to.

    A free order took work to place. One that costs money can be placed with anybody's address, so that it has
    to be paid first; its customer has the link from the page until then.
    """
    return MailAddress.objects.exclude(order__payment__state=Payment.State.OPEN)


def queue(order_id: uuid.UUID, kind: Mail.Kind, now: datetime) -> None:
    """Let a mail of that kind be sent once the caller's transaction commits.

    Does nothing for an order without one of the `addresses`, and when there was a mail of that kind before.
    """
    if not addresses().filter(order=order_id).exists():
        return
    _, is_new = Mail.objects.get_or_create(
        order_id=order_id, kind=kind, defaults={"created_at": now, "not_before": now}
    )
    if is_new:
        enqueue(Task.MAIL)


def run(now: datetime) -> Posted:
    """One pass over the mails that are due. Two passes at once send none of them twice."""
    posted = Posted()
    due = Mail.objects.filter(state=Mail.State.DUE, not_before__lte=now).select_related("order")
    with letters.mail_server() as server:
        for row in due.order_by("not_before", "pk")[:LIMIT]:
            if posted.delayed < PATIENCE:
                _send(row, server, now, posted)
    return posted


def _send(row: Mail, server: BaseEmailBackend, now: datetime, posted: Posted) -> None:
    pause = min(FIRST_PAUSE * 2 ** min(row.attempts, 10), LONGEST_PAUSE)
    claimed = Mail.objects.filter(
        pk=row.pk, state=Mail.State.DUE, attempts=row.attempts, not_before__lte=now
    ).update(attempts=F("attempts") + 1, not_before=now + pause)
    if not claimed:
        return
    try:
        contact = contacts.open_contact(row.order, now)
    except NotFound:
        contact = None
    except Retryable:  # the keys' store is away
        posted.delayed += 1
        return
    if contact is None:  # the order has ended
        posted.given_up += give_up(row)
        return
    if row.kind == Mail.Kind.REFUNDED and not letters.refunded_cents(row.order):
        posted.given_up += _withdraw(row)
        return
    try:
        letters.send(letters.compose(Mail.Kind(row.kind), row.order, contact), server)
    except MailServerAway:
        if now - row.created_at >= GIVEN_UP_AFTER:
            log.warning("mail %s is given up: the mail server did not take it for hours", row.pk)
            posted.given_up += give_up(row)
        else:
            posted.delayed += 1
    except MailRefused:
        log.warning("mail %s is given up: the mail server refused it", row.pk)
        posted.given_up += give_up(row)
    else:
        posted.sent += mark_sent(row, now)


def mark_sent(row: Mail, now: datetime) -> int:
    """Record that a mail was given to the server; 0 when it was given up meanwhile."""
    return Mail.objects.filter(pk=row.pk, state=Mail.State.DUE).update(state=Mail.State.SENT, sent_at=now)


def _withdraw(row: Mail) -> int:
    """Forget a mail whose refund failed meanwhile: the next refund is told in its place."""
    return Mail.objects.filter(pk=row.pk, state=Mail.State.DUE).delete()[0]


def give_up(row: Mail) -> int:
    """Record that a mail will not be sent any more; 0 when it was sent after all."""
    return Mail.objects.filter(pk=row.pk, state=Mail.State.DUE).update(state=Mail.State.GIVEN_UP)
