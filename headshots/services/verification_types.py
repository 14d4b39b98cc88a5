"""What the inspection's checks share: a finding, the list of all of them, and the look they are part of."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Self

PATIENCE: Final = timedelta(minutes=15)  # what may be on its way for a moment is not a finding before this
EXAMPLES: Final = 5

# Every code a finding may have, with the number of its check.
CHECKS: Final = {
    "object_of_ended_order": 1,
    "object_without_row": 2,
    "row_without_object": 3,
    "object_not_sealed": 4,
    "object_older_than_a_day": 5,
    "unfinished_upload": 6,
    "hidden_version": 7,
    "key_past_its_end": 8,
    "address_past_its_end": 8,
    "epoch_key_past_its_end": 9,
    "epoch_key_missing": 9,
    "receipt_missing": 10,
    "receipt_early": 10,
    "audit_gap": 11,
    "audit_broken": 11,
    "checkpoint_missing": 11,
    "checkpoint_unreadable": 11,
    "audit_behind": 11,
    "audit_contradicted": 11,
    "checkpoint_late": 11,
    "unfinished_file": 12,
    "lease_past_due": 13,
    "order_nobody_looked_at": 14,
    "receipt_unsigned": 15,
    "receipt_differs": 15,
    "receipt_disordered": 15,
    "receipt_unlogged": 15,
    "tombstone_of_living_order": 16,
    "purge_silent": 17,
    "deletion_late": 18,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that should not be: how often, and where (ids and receipt numbers, five at most)."""

    code: str
    count: int = 1
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"check {CHECKS[self.code]}: {self.count} x {self.code} ({', '.join(self.examples)})"

    def plus(self, other: Self) -> Self:
        """Both together."""
        examples = (*self.examples, *other.examples)[:EXAMPLES]
        return replace(self, count=self.count + other.count, examples=examples)


@dataclass(slots=True, kw_only=True)
class Look:
    """One inspection under way: its time, what it may do, and how much it has seen."""

    now: datetime
    is_fixing: bool
    is_full: bool
    objects_seen: int = 0
