"""What the page of one order shows below its fields: shots, money, audit. Never a picture, key or token."""

from datetime import datetime
from typing import Final

from headshots.admin.base import Table, at, labelled, span
from headshots.models import AuditEntry, Order, Payment, Refund
from headshots.states import ShotState

PURGE_STEPS: Final = (
    ("fenced_at", "fenced"),
    ("shredded_at", "keys shredded"),
    ("swept_at", "objects deleted"),
    ("absent_at", "seen absent"),
    ("absent_again_at", "seen absent twice"),
    ("purged_at", "receipt written"),
)


def tables_of(order: Order, first_picture_at: datetime | None) -> list[Table]:
    """Everything that hangs on an order, as read-only tables."""
    return [_times(order, first_picture_at), _shots(order), _money(order), _audit(order)]


def _times(order: Order, first_picture_at: datetime | None) -> Table:
    moments = [
        ("first byte of the photo", order.created_at),
        ("photo assessed", order.assessed_at),
        ("first shot claimed", order.started_at),
        ("first picture", first_picture_at),
        ("finished", order.finished_at),
        *((text, getattr(order, name)) for name, text in PURGE_STEPS),
        ("reads stop", order.expires_at),
        ("epoch key destroyed", order.not_after),
    ]
    return Table(
        title="Times",
        headers=("What", "When (UTC)", "After"),
        rows=[(text, at(moment), span(order.created_at, moment)) for text, moment in moments if moment],
    )


def _shots(order: Order) -> Table:
    shots = order.shots.select_related("style_version__style", "replaces").order_by("index")
    return Table(
        title="Shots",
        headers=(
            "No.",
            "Redo of",
            "Style version",
            "State",
            "Likeness",
            "Attempts",
            "Error",
            "Lease until (UTC)",
            "Seconds",
            "Finished (UTC)",
        ),
        rows=[
            (
                shot.index,
                shot.replaces.index if shot.replaces else None,
                shot.style_version,
                shot.state,
                shot.likeness or None,
                shot.attempts,
                shot.error_code or None,
                at(shot.lease_until) if shot.state == ShotState.LEASED else None,
                None if shot.render_seconds is None else f"{shot.render_seconds:.1f}",
                at(shot.finished_at),
            )
            for shot in shots
        ],
    )


def _money(order: Order) -> Table:
    payment = Payment.objects.filter(order=order).first()
    rows: list[tuple[object, ...]] = []
    if payment:
        currency = payment.currency
        rows.append(
            ("opened", f"{payment.amount_cents} {currency}", payment.reference, at(payment.created_at))
        )
        if payment.paid_at:
            rows.append(("paid", f"{payment.amount_cents} {currency}", payment.provider, at(payment.paid_at)))
        rows.extend(_refund_row(each, currency) for each in payment.refunds.order_by("sequence"))
        rows.extend(
            # Its sum is the bank's, maybe in another currency.
            (f"dispute {each.state}", each.amount_cents, each.provider_id, at(each.opened_at))
            for each in payment.disputes.order_by("opened_at")
        )
    return Table(
        title="Payment and refunds",
        headers=("What", "Cents", "Reference, provider or reason", "When (UTC)"),
        rows=rows,
    )


def _refund_row(refund: Refund, currency: str) -> tuple[object, ...]:
    cents = f"-{refund.amount_cents} {currency}"
    match refund.state:
        case Refund.State.SENT:
            return ("refunded", cents, refund.reason, at(refund.sent_at))
        case Refund.State.FAILED:
            return (
                f"refund failed: {refund.error_code}",
                f"0 of {cents}",
                refund.reason,
                at(refund.created_at),
            )
        case _:
            return ("to be refunded", cents, refund.reason, at(refund.created_at))


def _audit(order: Order) -> Table:
    entries = AuditEntry.objects.filter(reference=order.receipt_id)
    return Table(
        title="Audit log",
        headers=("When (UTC)", "Who", "What", "Details"),
        rows=[(at(entry.at), entry.actor, entry.event, labelled(entry.detail)) for entry in entries],
    )
