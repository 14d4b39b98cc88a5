"""Everything held about one order, for its customer: all rows as JSON, and all pictures, as one ZIP.

Every column that has to do with an order stands in one of the two tables below: what is given out, and what
is kept back with the reason. A column in neither fails a test: nothing new leaves, or is left out, unnoticed.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from django.core.serializers.json import DjangoJSONEncoder
from django.db.models import Model

from headshots.exceptions import NotFound
from headshots.models import (
    PRESET_FIELDS,
    AuditEntry,
    ConsentRecord,
    Dispute,
    LicenceGrant,
    Mail,
    MailAddress,
    Order,
    OrderKey,
    Payment,
    Refund,
    Selfie,
    Shot,
    StoredObject,
    StyleVersion,
)
from headshots.services import (
    consent,
    contacts,
    delivery,
    guarantee,
    objects,
    orders,
    payments,
    purge,
    shredding,
    tombstones,
    zips,
)
from headshots.states import ShotState
from headshots.vault.envelope import Kind, Role

FORMAT: Final = "headshots-export/1"
DATA_FILE: Final = "data.json"
SELFIE_FILE: Final = "selfie.jpg"

GIVEN: Final[Mapping[type[Model], Sequence[str]]] = {
    Order: (
        *("id", "upload_id", "receipt_id", "state", "generation", "refusal_code", "engine"),
        *("tier", "headshots", "long_edge", "is_watermarked", "price_cents", "epoch"),
        *("created_at", "assess_attempts", "assess_lease_until", "assessed_at", "started_at", "finished_at"),
        *("expires_at", "not_after", "selfie_shredded_at", "shredded_at", "swept_at", "absent_at"),
        *("versions_deleted", "uploads_deleted", "late_writes"),
    ),
    ConsentRecord: ("text_version", "text_sha256", "is_adult", "given_at"),
    LicenceGrant: ("version", "text", "sha256", "granted_at"),
    MailAddress: (),
    Mail: ("kind", "state", "attempts", "not_before", "created_at", "sent_at"),
    OrderKey: ("role",),
    StoredObject: ("id", "kind", "index", "generation", "state", "size_bytes", "sha256", "created_at"),
    Selfie: ("index", "received_at"),
    StyleVersion: ("number", *PRESET_FIELDS, "created_at"),
    Shot: (
        *("index", "state", "seed", "attempts", "error_code", "width", "height"),
        *("render_seconds", "not_before", "lease_until", "lease_token", "finished_at"),
        *("work", "virtual_offset", "virtual_finish", "likeness", "rank"),
    ),
    Payment: (
        *("provider", "reference", "amount_cents", "currency", "state", "created_at", "paid_at"),
        *("charge_reference", "attempt", "checkout_id", "checkout_state", "checkout_expires_at", "look_at"),
    ),
    Refund: (
        *("sequence", "amount_cents", "reason", "pictures", "created_at", "state", "attempts", "not_before"),
        *("provider_id", "sent_at", "error_code"),
    ),
    Dispute: ("provider_id", "state", "amount_cents", "opened_at", "closed_at"),
    AuditEntry: ("seq", "at", "event", "detail"),
}

_ROW_NUMBER: Final = "the row's own number, which means nothing outside of our tables"
_NESTED: Final = "what it points to stands beside it"
_AFTER_THE_END: Final = "empty as long as the order can be read"
KEPT_BACK: Final[Mapping[type[Model], Mapping[str, str]]] = {
    Order: {
        "token_sha256": "recognises the private link, which the customer has",
        "seed_root": "a secret of the service; all seeds made of it are given",
        **dict.fromkeys(
            ("purge_reason", "purge_not_before", "purge_attempts", "fenced_at", "absent_again_at"),
            _AFTER_THE_END,
        ),
        **dict.fromkeys(("settles_at", "purged_at", "tombstoned_at"), _AFTER_THE_END),
    },
    ConsentRecord: {"id": _ROW_NUMBER, "order": _NESTED},
    LicenceGrant: {"id": _ROW_NUMBER, "order": _NESTED},
    MailAddress: {
        "id": _ROW_NUMBER,
        "order": _NESTED,
        "sealed": "the address is given in clear; the private link beside it is the customer's already",
    },
    Mail: {"id": _ROW_NUMBER, "order": _NESTED},
    OrderKey: {"id": _ROW_NUMBER, "order": _NESTED, "wrapped": "a key, though an encrypted one"},
    StoredObject: {"order": _NESTED},
    Selfie: {"id": _ROW_NUMBER, "order": _NESTED, "stored": _NESTED},
    StyleVersion: {"id": _ROW_NUMBER, "style": _NESTED, "created_by": "the name of a member of staff"},
    Shot: {
        "id": _ROW_NUMBER,
        **dict.fromkeys(("order", "style_version", "headshot", "preview"), _NESTED),
        "replaces": "given as the index of the picture that this one was made in place of",
        "lease_owner": "the name of one of our machines",
    },
    Payment: {"id": _ROW_NUMBER, "order": _NESTED},
    Refund: {"id": _ROW_NUMBER, "payment": _NESTED},
    Dispute: {"id": _ROW_NUMBER, "payment": _NESTED},
    AuditEntry: {
        "id": _ROW_NUMBER,
        "head": "covers what others did before, and proves nothing alone",
        "actor": "given as what they are: a member of staff's name is not the customer's",
        "reference": "the order's receipt number, by which these entries were found",
    },
}
_SERVICE_ACTORS: Final = (
    *("customer", "engine", "service", "purge", "staff", "expired", "restored"),
    *("test", "stripe"),  # who takes the money
)


def stream(order: Order, now: datetime) -> Iterator[bytes]:
    """The ZIP of data.json and every picture of a live order; one picture is in memory at a time.

    The selfie is in it until its key is destroyed. Raises NotFound, before the first byte, once the order is
    gone; an order that ends while it is sent breaks the ZIP off. Retryable("store_away").
    """
    purge.nudge(now)
    tombstones.require_none(order)
    shots = _shots(order)
    selfie = _selfie(order, now)
    facts = _facts(order, shots, has_selfie=selfie is not None, now=now)
    return zips.stream(_entries(facts, selfie, shots, now))


def _entries(
    facts: dict[str, Any], selfie: bytes | None, shots: Sequence[Shot], now: datetime
) -> Iterator[tuple[str, bytes]]:
    yield DATA_FILE, json.dumps(facts, cls=DjangoJSONEncoder, indent=1, ensure_ascii=False).encode()
    if selfie is not None:
        yield SELFIE_FILE, selfie
    places = _places(shots)
    for shot in shots:
        for name, stored in _pictures(shot, places):
            yield name, objects.read(stored, now)


def _places(shots: Sequence[Shot]) -> dict[int, int]:
    """The delivered shots among these, and which each is, counted from the best."""
    delivered = guarantee.best_first(shot for shot in shots if shot.state == ShotState.DONE)
    return {shot.pk: place for place, shot in enumerate(delivered, start=1)}


def _pictures(shot: Shot, places: Mapping[int, int]) -> Iterator[tuple[str, StoredObject]]:
    """The pictures of a shot that its customer can see, with their names in the ZIP.

    One that is still compared with others is not among them: it is delivered or deleted within minutes.
    """
    for folder, stored in (("headshots", shot.headshot), ("previews", shot.preview)):
        if stored and shot.pk in places:
            yield f"{folder}/{delivery.file_name(places[shot.pk], shot)}", stored
        elif stored and shot.replaces_id and shot.state == ShotState.KEPT:
            yield f"{folder}/redo-{shot.index:02d}-{shot.style_version.style.slug}.jpg", stored


def _selfie(order: Order, now: datetime) -> bytes | None:
    """The cleaned photo, None once its key is gone. Raises NotFound when the order is."""
    selfie = (
        Selfie.objects.filter(order=order, stored__state=StoredObject.State.STORED)
        .select_related("stored__order")
        .first()
    )
    if selfie is None or order.selfie_shredded_at:
        return None
    try:
        return objects.read(selfie.stored, now)
    except NotFound:
        if Order.objects.live(now).filter(pk=order.pk, selfie_shredded_at__isnull=False).exists():
            return None  # its hour ended since the order was read
        raise


def _shots(order: Order) -> list[Shot]:
    related = ("style_version__style", "headshot__order", "preview__order", "replaces")
    shots = list(Shot.objects.filter(order=order).select_related(*related).order_by("index"))
    if payments.is_frozen(order):  # pictures wait for the dispute's end; all data about the person is given
        for shot in shots:
            shot.headshot = shot.preview = None
    return shots


def _facts(order: Order, shots: Sequence[Shot], *, has_selfie: bool, now: datetime) -> dict[str, Any]:
    agreed = ConsentRecord.objects.get(order=order)
    selfies = Selfie.objects.filter(order=order).order_by("index")
    keys = OrderKey.objects.filter(order=order).order_by("role").values_list("role", flat=True)
    places = _places(shots)
    return {
        "format": FORMAT,
        "made_at": now,
        "order": _given(order),
        "deletion": _deletion(order),
        "consent": {
            **_given(agreed),
            "text": consent.TEXT if agreed.text_sha256 == consent.TEXT_SHA256 else None,
        },
        "licences": _each(LicenceGrant.objects.filter(order=order)),
        "mail": {
            "address": _address(order, now),
            "mails": _each(Mail.objects.filter(order=order).order_by("created_at", "pk")),
        },
        "selfies": [{**_given(selfie), "file": SELFIE_FILE if has_selfie else None} for selfie in selfies],
        "styles": _styles(shots),
        "shots": [_shot(order, shot, places) for shot in shots],
        "keys": [Role(role).name.lower() for role in keys],
        "stored_objects": _each(
            StoredObject.objects.filter(order=order).order_by("kind", "index", "created_at")
        ),
        "payments": [
            {
                **_given(payment),
                "refunds": _each(payment.refunds.order_by("sequence")),
                "disputes": _each(payment.disputes.order_by("opened_at")),
            }
            for payment in Payment.objects.filter(order=order)
        ],
        "audit": [
            {**_given(entry), "actor": entry.actor if entry.actor in _SERVICE_ACTORS else "staff"}
            for entry in AuditEntry.objects.filter(reference=order.receipt_id).order_by("seq")
        ],
    }


def _address(order: Order, now: datetime) -> str | None:
    """Where the order's mails go. Raises NotFound when the order has ended, Retryable("store_away")."""
    contact = contacts.open_contact(order, now)
    return contact.address if contact else None


def _deletion(order: Order) -> dict[str, datetime]:
    """When what will end: the selfie's key first, then every read, then the key that covers all copies."""
    selfie_end = order.selfie_shredded_at or order.expires_at
    if order.finished_at and not order.selfie_shredded_at:
        selfie_end = min(order.finished_at + shredding.SELFIE_KEY_GRACE, order.expires_at)
    return {
        "selfie_key_destroyed_by": selfie_end,
        "purge_begins_at": order.expires_at,
        "unreadable_in_all_copies_by": order.not_after,
    }


def _styles(shots: Sequence[Shot]) -> list[dict[str, Any]]:
    """The style versions this order was placed with, in the order of their first use."""
    versions = {shot.style_version_id: shot.style_version for shot in shots}
    return [
        {"slug": version.style.slug, "name": version.style.name, **_given(version)}
        for version in versions.values()
    ]


def _shot(order: Order, shot: Shot, places: Mapping[int, int]) -> dict[str, Any]:
    return {
        **_given(shot),
        "replaces": shot.replaces.index if shot.replaces else None,
        "style": shot.style_version.style.slug,
        "style_number": shot.style_version.number,
        "planned_seeds": orders.seeds_of(order, shot.style_version_id, shot.index),
        "files": [name for name, _ in _pictures(shot, places)],
    }


def _each(rows: Iterable[Model]) -> list[dict[str, Any]]:
    return [_given(row) for row in rows]


def _given(row: Model) -> dict[str, Any]:
    """The columns of a row that are given out; numbers that stand for a kind of object by its name."""
    given = {name: getattr(row, name) for name in GIVEN[type(row)]}
    if isinstance(row, StoredObject):
        given["kind"] = Kind(given["kind"]).name.lower()
    return given
