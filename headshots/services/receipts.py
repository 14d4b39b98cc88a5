"""Deletion receipts: composed of what the order's row says was done, tied to the audit log, and signed."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from headshots.faults import faultpoint
from headshots.models import AuditEntry, Order, Receipt
from headshots.services import audit, fencing, signing
from headshots.services.audit import Finding
from headshots.states import OrderState
from headshots.vault import receipts
from headshots.vault.envelope import Kind
from headshots.vault.notes import Verifier

REASONS: Final = {
    "customer": "customer-request",
    "expired": "expiry",
    "upload failed": "upload-failed",
    "staff": "staff-request",
    "restored": "restored",  # a database put back from a copy brought the order back
}
SAMPLE: Final = 50


def issue(order: Order, *, kinds: Sequence[int], ciphertexts: Iterable[str], now: datetime) -> Receipt:
    """Log the end of a deletion, and write and sign its receipt, in the caller's transaction.

    `kinds` and `ciphertexts` are the kinds and the SHA-256 (hex) of every object the order had. Called once
    both looks found nothing. Raises RuntimeError when the order's row does not say so, or in times that are
    out of order, BadKeyFile or OSError when there is no key to sign with; the deletion is then tried again,
    and its receipt with it.
    """
    _require_order(order)
    signer = signing.signer()
    entry = audit.record("purge.done", actor="purge", reference=order.receipt_id, now=now, objects=len(kinds))
    faultpoint("receipt.audited")
    text = receipts.compose_receipt(
        receipts.Receipt(
            receipt_id=order.receipt_id,
            origin=signing.host(),
            reason=REASONS[order.purge_reason],
            selfies=kinds.count(Kind.SELFIE),
            headshots=kinds.count(Kind.HEADSHOT),
            previews=kinds.count(Kind.PREVIEW),
            versions=order.versions_deleted,
            uploads=order.uploads_deleted,
            ciphertexts=receipts.digest_of_ciphertexts(ciphertexts),
            audit_seq=entry.seq,
            audit_head=entry.head,
            **_times(order),
        )
    )
    note = signer.sign(text)
    faultpoint("receipt.signed")
    return Receipt.objects.create(id=order.receipt_id, order=order, text=note, issued_at=now)


def read(signed: str) -> tuple[receipts.Receipt, tuple[Verifier, ...]]:
    """What a signed receipt says, and which of our keys signed it. Raises ValueError when none did."""
    return receipts.open_receipt(signed, signing.published_keys())


def verify(*, sample: int = SAMPLE) -> list[Finding]:
    """What is wrong with the receipts: all orders are asked for theirs, and up to `sample` are opened.

    Those are the newest half and a random half. Empty is good. Raises what the database or the key file
    raises when it could not look.
    """
    newest = list(Receipt.objects.select_related("order").order_by("-issued_at")[: sample // 2])
    # Receipt numbers are random, so whatever follows a random one is a random choice.
    after = Receipt.objects.select_related("order").filter(pk__gt=receipts.new_receipt_id()).order_by("pk")
    chosen = {receipt.pk: receipt for receipt in (*newest, *after[: sample - len(newest)])}
    keys = signing.published_keys()
    return [*_missing(), *(finding for receipt in chosen.values() for finding in _verify(receipt, keys))]


def _missing() -> Iterator[Finding]:
    without = Order.objects.filter(state=OrderState.PURGED, receipt__isnull=True)
    for receipt_id in without.values_list("receipt_id", flat=True).iterator():
        yield Finding(code="receipt_missing", where=receipt_id)
    early = Receipt.objects.exclude(order__state=OrderState.PURGED)
    for receipt_id in early.values_list("pk", flat=True).iterator():
        yield Finding(code="receipt_early", where=receipt_id)


def _verify(receipt: Receipt, keys: Iterable[Verifier]) -> Iterator[Finding]:
    try:
        said, _ = receipts.open_receipt(receipt.text, keys)
    except ValueError:
        yield Finding(code="receipt_unsigned", where=receipt.pk)
        return
    try:
        done = replace(said, receipt_id=receipt.order.receipt_id, **_times(receipt.order))
    except RuntimeError:
        done = None
    if said != done:
        yield Finding(code="receipt_differs", where=receipt.pk)
    if (
        not said.result_key_destroyed
        <= said.objects_deleted
        <= said.absent_verified[0]
        <= said.absent_verified[1]
    ):
        yield Finding(code="receipt_disordered", where=receipt.pk)
    if not AuditEntry.objects.filter(
        seq=said.audit_seq, head=said.audit_head, reference=said.receipt_id
    ).exists():
        yield Finding(code="receipt_unlogged", where=receipt.pk)


def _require_order(order: Order) -> None:
    """A step counts if it came after those it is to prove, the second look a pause after the first."""
    shredded_at, swept_at = _known(order.shredded_at), _known(order.swept_at)
    absent_at, absent_again_at = _known(order.absent_at), _known(order.absent_again_at)
    if not shredded_at <= swept_at <= absent_at <= absent_again_at - fencing.settle():
        raise RuntimeError(f"the times of order {order.pk} are out of order")


def _times(order: Order) -> dict[str, Any]:
    """The receipt's times, as the order's row has them."""
    shredded_at = _known(order.shredded_at)
    return {
        "first_photo": order.created_at,
        "selfie_key_destroyed": order.selfie_shredded_at or shredded_at,
        "result_key_destroyed": shredded_at,
        "objects_deleted": _known(order.swept_at),
        "absent_verified": (_known(order.absent_at), _known(order.absent_again_at)),
        "epoch_key_gone_by": order.not_after,
    }


def _known(at: datetime | None) -> datetime:
    if at is None:
        raise RuntimeError("a receipt was asked for before its steps were done")
    return at
