"""Rows, constraints and querysets; no rules. Services are the only writers."""

from headshots.models.base import Immutable
from headshots.models.mails import Mail, MailAddress
from headshots.models.orders import (
    ConsentRecord,
    LicenceGrant,
    Order,
    OrderKey,
    OrderQuerySet,
    Selfie,
    StoredObject,
)
from headshots.models.payments import Dispute, Payment, PaymentEvent, Refund
from headshots.models.records import AuditEntry, Heartbeat, Incarnation, Inspection, Receipt
from headshots.models.shots import QueueMark, Shot, ShotQuerySet
from headshots.models.styles import PRESET_FIELDS, Style, StyleVersion, columns_of
from headshots.models.visitors import NetworkCount, NetworkSalt, SpentChallenge

__all__ = [
    "PRESET_FIELDS",
    "AuditEntry",
    "ConsentRecord",
    "Dispute",
    "Heartbeat",
    "Immutable",
    "Incarnation",
    "Inspection",
    "LicenceGrant",
    "Mail",
    "MailAddress",
    "NetworkCount",
    "NetworkSalt",
    "Order",
    "OrderKey",
    "OrderQuerySet",
    "Payment",
    "PaymentEvent",
    "QueueMark",
    "Receipt",
    "Refund",
    "Selfie",
    "Shot",
    "ShotQuerySet",
    "SpentChallenge",
    "StoredObject",
    "Style",
    "StyleVersion",
    "columns_of",
]
