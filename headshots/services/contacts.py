"""Where an order's mails go: an optional address, sealed under the order's results key beside its link.

The private link's token is stored nowhere else than in the customer's browser and here: mails that lead to
the order need it, and whoever can open this can open the pictures too. Address and key are deleted in one
transaction.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from django.core.exceptions import ValidationError
from django.core.mail.message import sanitize_address
from django.core.validators import EmailValidator

from headshots.exceptions import Refusal
from headshots.models import MailAddress, Order
from headshots.services import objects
from headshots.vault.envelope import Kind, ObjectName

MAX_LENGTH: Final = 254  # RFC 5321, section 4.5.3.1.3, less the angle brackets
_validate: Final = EmailValidator()


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """An address in clear, and the token that its mails' links carry. Neither is ever logged or stored."""

    address: str = field(repr=False)
    token: str = field(repr=False)


def checked(address: str) -> str:
    """The address without surrounding blanks; empty when none was given. Raises Refusal("bad_address")."""
    address = address.strip(" ")
    if not address:
        return ""
    # Inside quotes the validator takes control characters, though no line break.
    if len(address) > MAX_LENGTH or not address.isprintable():
        raise Refusal("bad_address")
    try:
        _validate(address)
        sanitize_address(address, "utf-8")  # what will be done with it: a domain may have no form in ASCII
    except (ValidationError, ValueError):
        raise Refusal("bad_address") from None
    return address


def keep(order: Order, contact: Contact, now: datetime) -> None:
    """Seal the contact of an order that was just written, in the caller's transaction.

    Raises Retryable("store_away").
    """
    row = MailAddress(order=order)
    plain = json.dumps({"address": contact.address, "token": contact.token}).encode()
    row.sealed = objects.seal_for_row(order, _name_of(row), plain, now)
    row.save(force_insert=True)


def open_contact(order: Order, now: datetime) -> Contact | None:
    """The contact of a live order; None when it has none, or none any more.

    Raises NotFound when the order is not live, Retryable("store_away").
    """
    row = MailAddress.objects.filter(order=order).first()
    if row is None:
        return None
    return _read(objects.open_from_row(order, _name_of(row), bytes(row.sealed), now))


def open_at_the_end(row: MailAddress) -> Contact:
    """The contact of an order whose deletion has begun or is due. Raises NotFound, StoreAway."""
    return _read(objects.open_at_the_end(row.order, _name_of(row), bytes(row.sealed)))


def forget(orders: Sequence[Order]) -> None:
    """Delete the addresses, in the transaction that deletes the keys they are sealed under."""
    MailAddress.objects.filter(order__in=orders).delete()


def _name_of(row: MailAddress) -> ObjectName:
    # Written with the order, before any fence can have raised its generation.
    return ObjectName(order_id=row.order_id, object_id=row.pk, kind=Kind.MAIL_ADDRESS, index=0, generation=1)


def _read(plain: bytes) -> Contact:
    return Contact(**json.loads(plain))
