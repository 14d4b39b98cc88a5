"""Deletion receipts: the text a customer keeps as evidence of what was deleted, and when."""

import hashlib
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from headshots.vault.notes import Verifier, verify_note

# Crockford's base 32: no I, L, O or U, so that a number read out loud or from paper comes back the same.
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

_TIME: Final = r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)"
_COUNT: Final = r"(0|[1-9][0-9]*)"
_ORIGIN: Final = r"([!-.0-~]+)"  # a host as configured, port included: visible ASCII without a slash
_RECEIPT_ID: Final = rf"([{_ALPHABET}]{{4}}(?:-[{_ALPHABET}]{{4}}){{3}})"
_REASON: Final = r"([a-z]+(?:-[a-z]+)*)"
_SHA256: Final = r"([0-9a-f]{64})"

_TEXT: Final = re.compile(
    rf"{_ORIGIN}/deletion-receipt@v1\n"
    rf"receipt {_RECEIPT_ID}\n"
    rf"first-photo {_TIME}\n"
    rf"selfie-key-destroyed {_TIME}\n"
    rf"result-key-destroyed {_TIME}\n"
    rf"objects-deleted {_TIME}\n"
    rf"absent-verified {_TIME}\n"
    rf"absent-verified {_TIME}\n"
    rf"epoch-key-gone-by {_TIME}\n"
    rf"reason {_REASON}\n"
    rf"deleted selfies={_COUNT} headshots={_COUNT} previews={_COUNT} versions={_COUNT} uploads={_COUNT}\n"
    rf"ciphertexts sha256:{_SHA256}\n"
    rf"audit ([1-9][0-9]*) sha256:{_SHA256}\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What was destroyed and when; names no person and no order.

    Times are aware and kept in UTC to the second. `origin` is the service's host, `ciphertexts` a
    `digest_of_ciphertexts`, `absent_verified` the times of the two listings that found nothing left.
    `versions` and `uploads` count older versions and unfinished uploads that the store had kept beside the
    objects. `audit_seq` and `audit_head` (hex) are the audit log's entry of this deletion.
    """

    origin: str
    receipt_id: str
    first_photo: datetime
    selfie_key_destroyed: datetime
    result_key_destroyed: datetime
    objects_deleted: datetime
    absent_verified: tuple[datetime, datetime]
    epoch_key_gone_by: datetime
    reason: str
    selfies: int
    headshots: int
    previews: int
    versions: int
    uploads: int
    ciphertexts: str
    audit_seq: int
    audit_head: str

    def __post_init__(self) -> None:
        for name in (
            "first_photo",
            "selfie_key_destroyed",
            "result_key_destroyed",
            "objects_deleted",
            "epoch_key_gone_by",
        ):
            object.__setattr__(self, name, _to_the_second(getattr(self, name)))
        first, second = self.absent_verified
        object.__setattr__(self, "absent_verified", (_to_the_second(first), _to_the_second(second)))
        if not _TEXT.fullmatch(compose_receipt(self)):
            raise ValueError(f"receipt {self.receipt_id!r} has a field that cannot be written")


def compose_receipt(receipt: Receipt) -> str:
    """The receipt as text: one fact per line, each line ended."""
    first, second = receipt.absent_verified
    return (
        f"{receipt.origin}/deletion-receipt@v1\n"
        f"receipt {receipt.receipt_id}\n"
        f"first-photo {_written(receipt.first_photo)}\n"
        f"selfie-key-destroyed {_written(receipt.selfie_key_destroyed)}\n"
        f"result-key-destroyed {_written(receipt.result_key_destroyed)}\n"
        f"objects-deleted {_written(receipt.objects_deleted)}\n"
        f"absent-verified {_written(first)}\n"
        f"absent-verified {_written(second)}\n"
        f"epoch-key-gone-by {_written(receipt.epoch_key_gone_by)}\n"
        f"reason {receipt.reason}\n"
        f"deleted selfies={receipt.selfies} headshots={receipt.headshots} previews={receipt.previews}"
        f" versions={receipt.versions} uploads={receipt.uploads}\n"
        f"ciphertexts sha256:{receipt.ciphertexts}\n"
        f"audit {receipt.audit_seq} sha256:{receipt.audit_head}\n"
    )


def parse_receipt(text: str) -> Receipt:
    """The receipt that composes to exactly this text. Raises ValueError for any other text."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError("this is not a deletion receipt")
    origin, receipt_id, *times, reason, selfies, headshots, previews, versions, uploads = match.groups()[:15]
    ciphertexts, audit_seq, audit_head = match.groups()[15:]
    read = [datetime.fromisoformat(at) for at in times]
    return Receipt(
        origin=origin,
        receipt_id=receipt_id,
        first_photo=read[0],
        selfie_key_destroyed=read[1],
        result_key_destroyed=read[2],
        objects_deleted=read[3],
        absent_verified=(read[4], read[5]),
        epoch_key_gone_by=read[6],
        reason=reason,
        selfies=int(selfies),
        headshots=int(headshots),
        previews=int(previews),
        versions=int(versions),
        uploads=int(uploads),
        ciphertexts=ciphertexts,
        audit_seq=int(audit_seq),
        audit_head=audit_head,
    )


def open_receipt(note: str, verifiers: Iterable[Verifier]) -> tuple[Receipt, tuple[Verifier, ...]]:
    """What a signed receipt says, and which of `verifiers` signed it.

    Raises ValueError when none did, when a signature is wrong, and when the text is no receipt.
    """
    text, signed_by = verify_note(note, verifiers)
    return parse_receipt(text), signed_by


def is_receipt_id(text: str) -> bool:
    """Whether the text has the form of a receipt number; anything else need not be looked up."""
    return re.fullmatch(_RECEIPT_ID, text) is not None


def new_receipt_id() -> str:
    """A random receipt number of 80 bits, such as 7F3K-9QXD-2M5W-PZ8T."""
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(4)) for _ in range(4))


def digest_of_ciphertexts(sha256_hexes: Iterable[str]) -> str:
    """One SHA-256 (hex) over the SHA-256 (hex) of every ciphertext, sorted, each followed by a newline.

    An auditor who holds the store's own log can compute it; it tells nothing to anybody else.
    """
    hexes = sorted(sha256_hexes)
    if not all(re.fullmatch(_SHA256, each) for each in hexes):
        raise ValueError("a ciphertext's digest is 64 lower-case hexadecimal digits")
    return hashlib.sha256("".join(f"{each}\n" for each in hexes).encode()).hexdigest()


def _to_the_second(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise ValueError("a receipt's times carry their time zone")
    return at.astimezone(UTC).replace(microsecond=0)


def _written(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
