"""The inspection: does what the store, the rows, the keys and the log hold agree with what was promised?

It reads and reports; `is_fixing` also repairs what can be repaired without guessing. Memory stays bounded:
the store's listing goes through a scratch table on disk and is compared with the rows in sorted order.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final, TypeAlias

from headshots.logs import Public
from headshots.models import Inspection, Order
from headshots.services import verification_rows, verification_store
from headshots.services.verification_types import CHECKS, Finding, Look

log = logging.getLogger(__name__)

Check: TypeAlias = Callable[[Look], Iterable[Finding]]

# Each looks after the numbers it is listed with; a failure in one leaves the others to look.
TABLE: Final[Mapping[str, Check]] = {
    "store": verification_store.compare,
    "hidden": verification_store.hidden_versions_and_uploads,
    "order keys": verification_rows.keys_past_their_end,
    "epoch keys": verification_rows.epoch_keys,
    "receipts": verification_rows.receipts_of_purged_orders,
    "audit log": verification_rows.audit_log,
    "scratch": verification_rows.unfinished_files,
    "leases": verification_rows.leases_past_due,
    "hints": verification_rows.orders_nobody_looked_at,
    "tombstones": verification_rows.tombstones_of_living_orders,
    "heartbeat": verification_rows.purge_heartbeat,
    "lateness": verification_rows.late_deletions,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one look found. `blind` names the checks that could not look: about them nothing is known."""

    at: datetime
    seconds: float
    objects_seen: int
    orders_seen: int
    findings: tuple[Finding, ...]
    blind: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Whether everything was looked at and nothing was found."""
        return not self.findings and not self.blind

    def __str__(self) -> str:
        looked = f"{self.objects_seen} objects and {self.orders_seen} orders in {self.seconds:.1f} s"
        found = "; ".join(map(str, self.findings)) or "nothing wrong"
        unseen = f"; could not look at: {', '.join(self.blind)}" if self.blind else ""
        return f"{looked}: {found}{unseen}"


def inspect(now: datetime, *, is_fixing: bool = False, is_full: bool = False) -> Report:
    """Look at everything. `is_full` opens the head of every object, not only of new ones and of a sample.

    With `is_fixing` the report says what is left after the repair, from a second look.
    """
    if is_fixing:
        _look(now, is_fixing=True, is_full=is_full)
    return _look(now, is_fixing=False, is_full=is_full)


def record(report: Report) -> None:
    """Keep the report as the last one, and log what it found."""
    shown = [
        {name: value for name, value in asdict(finding).items() if name != "examples"}
        for finding in report.findings
    ]
    Inspection.objects.update_or_create(
        id=1,
        defaults={
            "at": report.at,
            "seconds": report.seconds,
            "objects_seen": report.objects_seen,
            "orders_seen": report.orders_seen,
            "findings": shown,
            "blind": list(report.blind),
        },
    )
    if not report.is_clean:
        log.error("inspection: %s", Public(report))


def _look(now: datetime, *, is_fixing: bool, is_full: bool) -> Report:
    started = time.monotonic()
    look = Look(now=now, is_fixing=is_fixing, is_full=is_full)
    findings: list[Finding] = []
    blind: list[str] = []
    for name, check in TABLE.items():
        try:
            findings += check(look)
        except Exception as error:  # whatever kept it from looking: that is what the report says
            log.error("inspection of %s failed: %s", name, type(error).__name__)
            blind.append(name)
    return Report(
        at=now,
        seconds=time.monotonic() - started,
        objects_seen=look.objects_seen,
        orders_seen=Order.objects.count(),
        findings=tuple(sorted(_merged(findings), key=lambda finding: CHECKS[finding.code])),
        blind=tuple(blind),
    )


def _merged(findings: Iterable[Finding]) -> Iterator[Finding]:
    """One finding for each code, with a count and the first few examples."""
    by_code: dict[str, Finding] = {}
    for finding in findings:
        before = by_code.get(finding.code)
        by_code[finding.code] = before.plus(finding) if before else finding
    return iter(by_code.values())
