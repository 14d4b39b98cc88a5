"""What the mails say, and the one way out: plain text with links, no pictures and nothing that tracks."""

import logging
import smtplib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from django.conf import settings
from django.core import mail
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.template.loader import render_to_string
from django.urls import reverse

from headshots.exceptions import TEXTS
from headshots.models import Mail, Order, Payment, Refund, Shot
from headshots.services import signing
from headshots.services.contacts import Contact
from headshots.states import ShotState
from headshots.tiers import TIERS

log = logging.getLogger(__name__)

# A server that says so will say so again (RFC 5321, section 4.2.1).
_PERMANENT: Final = range(500, 600)


class MailServerAway(Exception):
    """The mail server did not take a mail and may take it later."""


class MailRefused(Exception):
    """The mail server will not take this mail."""


def compose(kind: Mail.Kind, order: Order, contact: Contact) -> EmailMessage:
    """The mail of that kind to that address, as the rows stand now. Its templates are `mail/<kind>.txt`.

    The Message-ID is the same each time, so that a mail which was sent twice can be known as one.
    """
    text = render_to_string(f"mail/{kind}.txt", _facts(order, contact.token))
    subject, _, body = text.partition("\n\n")
    host = signing.host()
    return EmailMessage(
        subject=subject,
        body=body.rstrip() + "\n",
        from_email=settings.DEFAULT_FROM_EMAIL,
        to=[contact.address],
        headers={
            "Message-ID": f"<{kind}.{order.receipt_id}@{host.partition(':')[0]}>",
            "Auto-Submitted": "auto-generated",  # RFC 3834: nothing answers it by itself
        },
    )


@contextmanager
def mail_server() -> Iterator[BaseEmailBackend]:
    """A way to the mail server for several mails; the first of them opens it, the block's end closes it."""
    # The console is the process's own: a Celery worker puts its log in the place of standard output.
    server = mail.get_connection(stream=sys.__stdout__)
    try:
        yield server
    finally:
        _hang_up(server)


def send(message: EmailMessage, server: BaseEmailBackend) -> None:
    """Give the mail to the server. Raises MailServerAway or MailRefused; neither says to whom it was."""
    try:
        _give(message, server)
    except MailServerAway:
        _hang_up(server)  # the next mail begins anew
        raise


def _hang_up(server: BaseEmailBackend) -> None:
    with suppress(OSError):
        server.close()


def _give(message: EmailMessage, server: BaseEmailBackend) -> None:
    try:
        server.open()
        server.send_messages([message])
    except smtplib.SMTPRecipientsRefused as error:
        codes = {code for code, _ in error.recipients.values()}
        raise (MailRefused if all(code in _PERMANENT for code in codes) else MailServerAway) from None
    except smtplib.SMTPAuthenticationError:  # wrong settings: the operator mends them, the mail can wait
        log.error("the mail server does not accept MAIL_SERVER's user and password")
        raise MailServerAway from None
    except smtplib.SMTPResponseException as error:
        raise (MailRefused if error.smtp_code in _PERMANENT else MailServerAway) from None
    except OSError:  # smtplib's other errors are ones too
        raise MailServerAway from None
    except ValueError:  # what cannot be put into a header; its text would say to whom it was
        raise MailRefused from None


def refunded_cents(order: Order) -> int:
    """What of an order's price has gone back, or is on its way."""
    refunds = Refund.objects.filter(payment__order=order).exclude(state=Refund.State.FAILED)
    return sum(refunds.values_list("amount_cents", flat=True))


def _facts(order: Order, token: str) -> dict[str, object]:
    delivered = Shot.objects.filter(order=order, state=ShotState.DONE).count()
    cents = refunded_cents(order)
    is_paid = Payment.objects.filter(order=order, state=Payment.State.PAID).exists()
    return {
        "order": order,
        "tier": TIERS[order.tier],
        "delivered": delivered,
        "is_paid": is_paid,
        "is_short": is_paid and delivered < order.headshots,
        "refunded": f"${cents // 100}.{cents % 100:02d}",
        "problem": TEXTS.get(order.refusal_code),
        "private_link": f"{settings.SITE_URL}{reverse('open')}#{token}",
        "receipt_link": f"{settings.SITE_URL}{reverse('receipt', args=(order.receipt_id,))}",
    }
