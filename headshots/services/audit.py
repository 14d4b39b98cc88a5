"""The audit log: who did what to which id, in numbers and codes, as a chain that cannot be cut unseen.

Each entry's head covers all entries before it. Once an hour the newest head is signed and written outside the
database, so that a cut or restored database contradicts what was published.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.db import connection, transaction

from headshots.faults import faultpoint
from headshots.models import AuditEntry
from headshots.services import signing
from headshots.vault import files
from headshots.vault.chain import START, Checkpoint, compose_checkpoint, head_after, parse_checkpoint
from headshots.vault.errors import BadKeyFile
from headshots.vault.notes import Verifier, verify_note

log = logging.getLogger(__name__)

RESTORED: Final = "audit.restored"
CHECKPOINT_PATIENCE: Final = timedelta(hours=2)  # one an hour, and a purge that may be late itself

_LOCK: Final = 0x6865616473686F74  # "headshot": PostgreSQL knows its advisory locks by number alone


def record(
    event: str, *, actor: str, reference: object, now: datetime, **detail: int | float | str | bool
) -> AuditEntry:
    """Append one entry, in the caller's transaction. `detail` holds ids, codes and numbers only.

    Writers take turns from here to the end of their transactions, so record last in one.
    """
    (entry,) = record_each(event, [reference], actor=actor, now=now, **detail)
    return entry


def record_each(
    event: str, references: Sequence[object], *, actor: str, now: datetime, **detail: int | float | str | bool
) -> list[AuditEntry]:
    """Append the same event for each of many ids, as `record` does for one."""
    with transaction.atomic():
        _take_turn()
        size, head = _end()
        entries = []
        for seq, reference in enumerate(references, size + 1):
            entry = AuditEntry(
                seq=seq,
                at=now.replace(microsecond=0),
                actor=actor,
                event=event,
                reference=str(reference),
                detail=detail,
            )
            head = head_after(head, _content(entry))
            entry.head = head.hex()
            entries.append(entry)
        return AuditEntry.objects.bulk_create(entries)


def _take_turn() -> None:
    """SQLite's transactions take turns from their beginning; PostgreSQL's need a lock, held to their end."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])


def _end() -> tuple[int, bytes]:
    """How many entries there are, and the head after the last one."""
    last = AuditEntry.objects.order_by("-seq").values_list("seq", "head").first()
    return (last[0], bytes.fromhex(last[1])) if last else (0, START)


def _content(entry: AuditEntry) -> dict[str, Any]:
    """What the chain hashes of an entry: all of it but its head. A time with microseconds was not ours."""
    return {
        "at": entry.at.timestamp(),
        "by": entry.actor,
        "detail": entry.detail,
        "ev": entry.event,
        "ref": entry.reference,
        "seq": entry.seq,
    }


# --- checkpoints ------------------------------------------------------------------------------------------


def checkpoint(now: datetime) -> Checkpoint | None:
    """Sign and write down how far the log has come, once an hour; None when it was done, or could not be.

    A log that contradicts the last checkpoint is not signed before `accept_restore` has put that on record.
    Deletions never wait for any of this, so nothing is raised.
    """
    try:
        return _checkpoint(now)
    except (OSError, BadKeyFile, ValueError) as error:
        log.error("no checkpoint of the audit log could be written: %s", type(error).__name__)
        return None


def _checkpoint(now: datetime) -> Checkpoint | None:
    number, last = 0, None
    if numbers := checkpoint_numbers():
        number = numbers[-1]
        last = _read(number, signing.published_keys())
        if _hour(last.at) == _hour(now):
            return None
        if not _holds(last) and not _is_excused(number):
            log.error("the audit log contradicts checkpoint %d: it was cut, altered or restored", number)
            return None
    size, head = _end()
    reached = Checkpoint(origin=signing.host(), size=size, head=head, at=now)
    note = signing.signer().sign(compose_checkpoint(reached))
    faultpoint("checkpoint.signed")
    _folder().mkdir(mode=0o700, exist_ok=True)
    try:
        files.write_new(_path(number + 1), note.encode())
    except FileExistsError:  # another process was first
        return None
    faultpoint("checkpoint.written")
    return reached


def checkpoint_numbers() -> list[int]:
    """The numbers of the checkpoints that are kept, oldest first. Raises OSError when it cannot look."""
    if not _folder().exists():
        return []
    return sorted(int(path.name) for path in _folder().iterdir() if path.name.isdecimal())


def checkpoint_note(number: int) -> str:
    """A checkpoint's signed note. Raises FileNotFoundError for a number that is not kept."""
    return _path(number).read_text()


def _read(number: int, keys: tuple[Verifier, ...]) -> Checkpoint:
    """Raises ValueError for a checkpoint that none of the keys signed."""
    return parse_checkpoint(verify_note(checkpoint_note(number), keys)[0])


def _holds(reached: Checkpoint) -> bool:
    """Whether the log still has what the checkpoint says it had."""
    if reached.size == 0:
        return reached.head == START
    return AuditEntry.objects.filter(seq=reached.size, head=reached.head.hex()).exists()


def accept_restore(*, actor: str, now: datetime) -> int:
    """Put on record that the log lost what its last checkpoints say; the count of these checkpoints.

    For the operator, once a restored database has been reconciled. The checkpoints stay where they are.
    """
    found = _verify_checkpoints(now)
    lost = [int(each.where) for each in found if each.code in ("audit_behind", "audit_contradicted")]
    if lost:
        record(RESTORED, actor=actor, reference="audit", now=now, first=lost[0], last=lost[-1])
    return len(lost)


def _is_excused(number: int) -> bool:
    """Whether the log itself says that it lost what this checkpoint was taken of."""
    said = AuditEntry.objects.filter(event=RESTORED).values_list("detail", flat=True)
    return any(detail["first"] <= number <= detail["last"] for detail in said)


def _folder() -> Path:
    return settings.DATA / "checkpoints"


def _path(number: int) -> Path:
    return _folder() / f"{number:08}"


def _hour(at: datetime) -> int:
    return int(at.timestamp()) // 3600


# --- verification -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that should not be: what (a code of FINDINGS) and where (a number or a receipt's id)."""

    code: str
    where: int | str

    def __str__(self) -> str:
        return FINDINGS[self.code].format(self.where)


FINDINGS: Final = {
    "audit_gap": "the audit log has no entry {}, and perhaps more after it",
    "audit_broken": "audit entry {} is not what was written",
    "checkpoint_missing": "checkpoint {} is missing, and perhaps more after it",
    "checkpoint_unreadable": "checkpoint {} is not a checkpoint that we signed",
    "audit_behind": "the audit log is shorter than checkpoint {} says: it was cut or restored",
    "audit_contradicted": "the audit log is not the one that checkpoint {} was taken of",
    "checkpoint_late": "the newest checkpoint, {}, is more than two hours old",
    "receipt_missing": "order {} is purged and has no receipt",
    "receipt_early": "receipt {} was written before its order was purged",
    "receipt_unsigned": "receipt {} is not a receipt that we signed",
    "receipt_differs": "receipt {} says something else than its order",
    "receipt_disordered": "receipt {} has its steps in an order in which they prove nothing",
    "receipt_unlogged": "receipt {} names an audit entry that the log does not have",
}


def verify(now: datetime) -> list[Finding]:
    """Everything wrong with the log and its checkpoints; reads all of both. Empty is good.

    Raises what the database, the folder or the key file raise when it could not look.
    """
    return [*_verify_chain(), *_verify_checkpoints(now)]


def _verify_chain() -> Iterator[Finding]:
    seq, head = 0, START
    for entry in AuditEntry.objects.order_by("seq").iterator(chunk_size=1000):
        expected = head_after(head, _content(entry))
        if entry.seq != seq + 1:
            yield Finding(code="audit_gap", where=seq + 1)
        elif entry.head != expected.hex():
            yield Finding(code="audit_broken", where=entry.seq)
        # On from what the entry says: one that was altered is one finding, not one for each after it.
        seq, head = entry.seq, _unhex(entry.head) or expected


def _unhex(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return None


def _verify_checkpoints(now: datetime) -> Iterator[Finding]:
    keys = signing.published_keys()
    size, _ = _end()
    before = 0
    since = AuditEntry.objects.order_by("seq").values_list("at", flat=True).first()
    for number in checkpoint_numbers():
        if number != before + 1:
            yield Finding(code="checkpoint_missing", where=before + 1)
        before = number
        try:
            reached = _read(number, keys)
        except ValueError:
            yield Finding(code="checkpoint_unreadable", where=number)
            continue
        since = reached.at
        if not _holds(reached) and not _is_excused(number):
            yield Finding(code="audit_behind" if reached.size > size else "audit_contradicted", where=number)
    if since and now - since > CHECKPOINT_PATIENCE:
        yield Finding(code="checkpoint_late", where=before)
