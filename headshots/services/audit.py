"""The audit log: who did what to which id, in numbers and codes."""

from datetime import datetime

from headshots.models import AuditEntry


def record(
    event: str, *, actor: str, reference: object, now: datetime, **detail: int | float | str | bool
) -> None:
    """Append one entry, in the caller's transaction. `detail` holds ids, codes and numbers only."""
    AuditEntry.objects.create(at=now, actor=actor, event=event, reference=str(reference), detail=detail)
