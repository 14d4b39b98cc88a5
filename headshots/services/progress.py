"""What a customer sees of an order: one frozen view, the same for pages and API."""

import math
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from django.db.models import Sum

from headshots.exceptions import TEXTS, RefusalText
from headshots.models import Order, Refund, Shot
from headshots.services import estimates
from headshots.states import OrderState, ShotState
from headshots.tiers import TIERS, Tier

FINAL_STATES: Final = (OrderState.REFUSED, OrderState.READY, OrderState.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotView:
    """One picture of an order. `state` is waiting, rendering, done or failed; sizes only when done."""

    index: int
    style: str
    style_name: str
    state: Literal["waiting", "rendering", "done", "failed"]
    width: int | None
    height: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderView:
    """An order as its customer may see it. `problem` is set when the photo was refused.

    The estimate is there while the order waits or renders and something is known of the speed; the two times
    are the same, rounded.
    """

    id: uuid.UUID
    state: str
    tier: Tier
    headshots: int
    done: int
    failed: int
    shots: tuple[ShotView, ...]
    created_at: datetime
    expires_at: datetime
    seconds_left: int
    estimate: estimates.Estimate | None
    estimated_start_at: datetime | None
    estimated_ready_at: datetime | None
    receipt_id: str
    engine: str
    refusal_code: str
    problem: RefusalText | None
    refunded_cents: int

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to the order until its deletion."""
        return self.state in FINAL_STATES

    @property
    def percent(self) -> int:
        """Share of the pictures that are final, 0 to 100."""
        return 100 * (self.done + self.failed) // self.headshots


_SHOT_STATES: Final[dict[ShotState, Literal["waiting", "rendering", "done", "failed"]]] = {
    ShotState.PENDING: "waiting",
    ShotState.LEASED: "rendering",
    ShotState.DONE: "done",
    ShotState.FAILED: "failed",
}


def view(order: Order, now: datetime) -> OrderView:
    """The current state of a live order."""
    shots = tuple(
        ShotView(
            index=shot.index,
            style=shot.style_version.style.slug,
            style_name=shot.style_version.style.name,
            state=_SHOT_STATES[ShotState(shot.state)],
            width=shot.width,
            height=shot.height,
        )
        for shot in Shot.objects.filter(order=order).select_related("style_version__style").order_by("index")
    )
    estimate = estimates.of_order(order, now)
    refunds = Refund.objects.filter(payment__order=order).exclude(state=Refund.State.FAILED)
    refunded = refunds.aggregate(total=Sum("amount_cents"))["total"]
    return OrderView(
        id=order.id,
        state=order.state,
        tier=TIERS[order.tier],
        headshots=order.headshots,
        done=sum(shot.state == "done" for shot in shots),
        failed=sum(shot.state == "failed" for shot in shots),
        shots=shots,
        created_at=order.created_at,
        expires_at=order.expires_at,
        seconds_left=max(0, int((order.expires_at - now).total_seconds())),
        estimate=estimate,
        estimated_start_at=(order.started_at or _rounded(now, estimate.start_seconds)) if estimate else None,
        estimated_ready_at=_rounded(now, estimate.ready_seconds) if estimate else None,
        receipt_id=order.receipt_id,
        engine=order.engine,
        refusal_code=order.refusal_code,
        problem=TEXTS[order.refusal_code] if order.refusal_code else None,
        refunded_cents=refunded or 0,
    )


def _rounded(now: datetime, seconds: float) -> datetime:
    """No more exact than an estimate is: up to the next ten seconds, or minute when it is far."""
    step = 10 if seconds < 120 else 60
    at = math.ceil((now.timestamp() + seconds) / step) * step
    return datetime.fromtimestamp(at, UTC)
