"""A customer takes away everything that is held of an order: what the ZIP holds, and what it keeps back."""

from collections.abc import Callable, Iterator
from datetime import datetime

import pytest
from django.db.models import Model
from django.utils import timezone

from headshots.models import (
    PRESET_FIELDS,
    AuditEntry,
    Order,
    OrderKey,
    Receipt,
    Refund,
    Shot,
    StoredObject,
    StyleVersion,
)
from headshots.services import audit, consent, export, mails, orders, uploads
from headshots.services.orders import Placed
from headshots.services.shredding import SELFIE_KEY_GRACE
from headshots.states import OrderState, ShotState
from headshots.vault.envelope import Kind
from tests.paying import pay
from tests.services.export.conftest import data_of, exported, iso

pytestmark = pytest.mark.django_db

ORDER_FIELDS = {
    *("id", "upload_id", "receipt_id", "state", "generation", "refusal_code", "engine", "tier", "headshots"),
    *("long_edge", "is_watermarked", "price_cents", "epoch", "created_at", "assess_attempts"),
    *("assess_lease_until", "assessed_at", "started_at", "finished_at", "expires_at", "not_after"),
    *("selfie_shredded_at", "shredded_at", "swept_at", "absent_at", "versions_deleted", "uploads_deleted"),
    "late_writes",
}


def of_an_order() -> Iterator[type[Model]]:
    """The order's model and every model that points to it, however far away; receipts exist after its end."""
    found: list[type[Model]] = [Order]
    for model in found:
        found += [
            relation.related_model
            for relation in model._meta.related_objects
            if relation.related_model not in (*found, Receipt)
        ]
    return iter([*found, StyleVersion, AuditEntry])


def test_a_finished_order_is_given_out_whole(ready: tuple[Order, list[tuple[bytes, bytes]]]) -> None:
    order, pictures = ready
    selfie = uploads.open_selfie(order, timezone.now())

    archive = exported(order)

    assert archive.testzip() is None
    names = [f"headshot-{index:02d}-corporate.jpg" for index in (1, 2, 3)]
    assert archive.namelist() == [
        "data.json",
        "selfie.jpg",
        *(f"{folder}/{name}" for name in names for folder in ("headshots", "previews")),
    ]
    assert archive.read("selfie.jpg") == selfie
    for name, (headshot, preview) in zip(names, pictures, strict=True):
        assert archive.read(f"headshots/{name}") == headshot
        assert archive.read(f"previews/{name}") == preview


def test_the_data_is_what_the_rows_say(ready: tuple[Order, list[tuple[bytes, bytes]]]) -> None:
    order = Order.objects.get()
    before = timezone.now().replace(microsecond=0)
    data = data_of(exported(order))

    assert list(data) == [
        *("format", "made_at", "order", "deletion", "consent", "licences", "mail", "selfies", "styles"),
        *("shots", "keys", "stored_objects", "payments", "audit"),
    ]
    assert (data["format"], data["keys"], data["payments"]) == (
        "headshots-export/1",
        ["selfies", "results"],
        [],
    )
    assert datetime.fromisoformat(data["made_at"]) >= before
    assert set(data["order"]) == ORDER_FIELDS
    assert data["order"] == {
        **data["order"],
        "id": str(order.pk),
        "receipt_id": order.receipt_id,
        "state": "ready",
        "engine": "preview",
        "tier": "free",
        "headshots": 3,
        "long_edge": 1152,
        "is_watermarked": True,
        "price_cents": 0,
        "created_at": iso(order.created_at),
        "finished_at": iso(order.finished_at),
        "expires_at": iso(order.expires_at),
        "not_after": iso(order.not_after),
        "selfie_shredded_at": None,
    }
    assert order.finished_at is not None
    assert data["deletion"] == {
        "selfie_key_destroyed_by": iso(order.finished_at + SELFIE_KEY_GRACE),
        "purge_begins_at": iso(order.expires_at),
        "unreadable_in_all_copies_by": iso(order.not_after),
    }
    agreed = order.consent
    assert data["consent"] == {
        "text_version": consent.VERSION,
        "text_sha256": consent.TEXT_SHA256,
        "is_adult": True,
        "given_at": iso(agreed.given_at),
        "text": consent.TEXT,
    }
    licence = order.licence
    assert data["licences"] == [
        {
            "version": licence.version,
            "text": licence.text,
            "sha256": licence.sha256,
            "granted_at": iso(licence.granted_at),
        }
    ]
    assert data["mail"] == {"address": None, "mails": []}
    (selfie,) = order.selfies.all()
    assert data["selfies"] == [{"index": 0, "received_at": iso(selfie.received_at), "file": "selfie.jpg"}]


def test_styles_come_with_their_words_and_numbers_and_shots_with_their_seeds(
    ready: tuple[Order, list[tuple[bytes, bytes]]],
) -> None:
    order = Order.objects.get()
    data = data_of(exported(order))

    (version,) = StyleVersion.objects.filter(shots__order=order).distinct()
    assert data["styles"] == [
        {
            "slug": "corporate",
            "name": version.style.name,
            "number": 1,
            **{name: getattr(version, name) for name in PRESET_FIELDS},
            "created_at": iso(version.created_at),
        }
    ]
    assert data["shots"] == [
        {
            "index": shot.index,
            "state": "done",
            "seed": shot.seed,
            "attempts": 1,
            "error_code": "",
            "width": 896,
            "height": 1152,
            "render_seconds": 1.5,
            "not_before": iso(shot.not_before),
            "lease_until": iso(shot.lease_until),
            "lease_token": 1,
            "work": shot.work,
            "virtual_offset": shot.virtual_offset,
            "virtual_finish": shot.virtual_finish,
            "finished_at": iso(shot.finished_at),
            "likeness": "",
            "rank": 0,
            "replaces": None,
            "style": "corporate",
            "style_number": 1,
            "planned_seeds": list(orders.seeds_of(order, shot.style_version_id, shot.index)),
            "files": [
                f"{folder}/headshot-{shot.index:02d}-corporate.jpg" for folder in ("headshots", "previews")
            ],
        }
        for shot in Shot.objects.filter(order=order)
    ]
    assert data["stored_objects"] == [
        {
            "id": str(stored.pk),
            "kind": Kind(stored.kind).name.lower(),
            "index": stored.index,
            "generation": 1,
            "state": "stored",
            "size_bytes": stored.size_bytes,
            "sha256": stored.sha256,
            "created_at": iso(stored.created_at),
        }
        for stored in StoredObject.objects.order_by("kind", "index")
    ]
    assert len(data["stored_objects"]) == 7


def test_money_and_the_log_come_with_it_and_staff_stay_nameless(place: Callable[..., Placed]) -> None:
    order = place(tier_slug="premium", style_slugs=("tech",)).order
    orders.accept(order, timezone.now())
    order.refresh_from_db()
    pay(order, timezone.now())
    Shot.objects.update(state=ShotState.FAILED, error_code="gate")
    Order.objects.update(state=OrderState.RENDERING)
    orders.finish(order.pk, timezone.now())
    audit.record(
        "order.looked", actor="alice.smith", reference=order.receipt_id, now=timezone.now(), shots=50
    )
    audit.record("order.looked", actor="alice.smith", reference="another", now=timezone.now())

    archive = exported(order)

    data, payment = data_of(archive), order.payment
    assert data["payments"] == [
        {
            "provider": "test",
            "reference": payment.reference,
            "amount_cents": 1900,
            "currency": "usd",
            "state": "paid",
            "created_at": iso(payment.created_at),
            "paid_at": iso(payment.paid_at),
            "charge_reference": f"test-{payment.reference}",
            "attempt": 0,
            "checkout_id": "",
            "checkout_state": "open",
            "checkout_expires_at": None,
            "look_at": None,
            "refunds": [
                {
                    "sequence": 1,
                    "amount_cents": 1900,
                    "reason": "not delivered",
                    "pictures": list(range(1, 51)),
                    "created_at": iso(Refund.objects.get().created_at),
                    "state": "sent",
                    "attempts": 0,
                    "not_before": iso(Refund.objects.get().created_at),
                    "provider_id": f"test-{payment.reference}-1",
                    "sent_at": iso(Refund.objects.get().created_at),
                    "error_code": "",
                }
            ],
            "disputes": [],
        }
    ]
    assert [(entry["event"], entry["actor"], entry["detail"]) for entry in data["audit"]] == [
        ("order.placed", "customer", {"tier": "premium"}),
        ("payment.paid", "test", {"cents": 1900}),
        ("payment.refunded", "service", {"cents": 1900}),
        ("order.looked", "staff", {"shots": 50}),
    ]
    assert b"alice" not in archive.read("data.json")


def test_the_address_is_given_in_clear_with_the_mails_it_got_and_without_the_token(
    place: Callable[..., Placed],
) -> None:
    at = timezone.now()
    placed = place(address="ada@example.org", now=at)
    place(address="eve@example.org")
    mails.run(at)

    archive = exported(placed.order)

    mail = {"kind": "placed", "state": "sent", "attempts": 1, "not_before": iso(at + mails.FIRST_PAUSE)}
    mail |= {"created_at": iso(at), "sent_at": iso(at)}
    assert data_of(archive)["mail"] == {"address": "ada@example.org", "mails": [mail]}
    for absent in ("eve@example.org", placed.token):
        assert absent.encode() not in archive.read("data.json")


def test_no_secret_and_nothing_of_another_order_leaves(
    ready: tuple[Order, list[tuple[bytes, bytes]]], place: Callable[..., Placed]
) -> None:
    order, other = Order.objects.get(), place().order
    keys = [bytes(key.wrapped) for key in OrderKey.objects.all()]
    secrets = [order.token_sha256, bytes(order.seed_root or b"").hex(), "machine-07", "worker"]
    secrets += [key.hex() for key in keys]
    strangers = [str(other.pk), other.receipt_id, *(str(shot.seed) for shot in other.shots.all())]

    text = b"".join(export.stream(order, timezone.now()))

    for secret in (*secrets, *strangers):
        assert secret is not None
        assert secret.encode() not in text
    for raw in (*keys, bytes(order.seed_root or b"")):
        assert raw not in text


def test_every_column_is_given_out_or_kept_back_for_a_reason() -> None:
    models = set(of_an_order())

    assert models == set(export.GIVEN) == set(export.KEPT_BACK)
    for model in models:
        columns = sorted(field.name for field in model._meta.concrete_fields)
        assert sorted([*export.GIVEN[model], *export.KEPT_BACK[model]]) == columns, model.__name__
        assert all(export.KEPT_BACK[model].values())


def test_an_old_consent_keeps_its_fingerprint_and_is_given_no_other_text(
    ready: tuple[Order, list[tuple[bytes, bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consent, "TEXT_SHA256", "0" * 64)

    agreed = data_of(exported(ready[0]))["consent"]

    assert agreed["text"] is None
    assert agreed["text_version"] == consent.VERSION
