"""What a customer sees of an order: one frozen view, the same for pages and API."""

import math
import uuid
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

from django.db.models import Sum

from headshots.exceptions import TEXTS, RefusalText
from headshots.models import Order, Refund, Shot
from headshots.services import estimates, guarantee, redo, shredding
from headshots.states import OPEN_STATES, WORKING_STATES, OrderState, ShotState
from headshots.tiers import TIERS, Tier

FINAL_STATES: Final = (OrderState.REFUSED, OrderState.READY, OrderState.FAILED)


RedoState: TypeAlias = Literal["waiting", "rendering", "ready", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RedoView:
    """The last redo of a picture, until one of the two is chosen. `likeness` is "" until it is ready."""

    index: int
    state: RedoState
    likeness: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotView:
    """One of the promised pictures. `state` is waiting, rendering, done or failed.

    `place`, counted from the best, sizes and `likeness` only when done; `likeness` is "" where the engine
    measures none. `index` is the picture's address and stays; places may change until the order is ready, and
    when a redo is chosen. `can_redo` is whether the picture can be made again now.
    """

    index: int
    place: int | None
    style: str
    style_name: str
    state: Literal["waiting", "rendering", "done", "failed"]
    width: int | None
    height: int | None
    likeness: str
    redo: RedoView | None = None
    can_redo: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderView:
    """An order as its customer may see it. `problem` is set when the photo was refused.

    `shots` are as many as were promised, delivered ones first, and of these the best. `compared` pictures
    passed and wait until it is certain whether they are among the best; `failed` are those that nothing can
    come of any more, spares included.

    `is_delivered` stays true while pictures are made again. `redos_left` is how many more can be, until
    `redo_until`; that is None while none can be. `photo_until` is when the photo is deleted, None as long as
    the order is being made, and once it is done.

    The estimate is there while the order waits or renders and something is known of the speed; the two times
    are the same, rounded.
    """

    id: uuid.UUID
    state: str
    tier: Tier
    headshots: int
    done: int
    compared: int
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
    is_delivered: bool
    redos_left: int
    redo_until: datetime | None
    photo_until: datetime | None

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to the order until its deletion."""
        return self.state in FINAL_STATES

    @property
    def percent(self) -> int:
        """Share of the promised pictures that are made, or will not be, 0 to 100."""
        return 100 * self.made // self.headshots

    @property
    def made(self) -> int:
        """How many of the promised pictures are made, delivered or not, or will not be."""
        return min(self.headshots, self.done + self.compared + self.failed)

    @property
    def is_judged(self) -> bool:
        """Whether a likeness was measured on any of the pictures."""
        return any(shot.likeness for shot in self.shots)


_SHOT_STATES: Final[dict[ShotState, Literal["waiting", "rendering", "done", "failed"]]] = {
    ShotState.DONE: "done",
    ShotState.KEPT: "rendering",
    ShotState.LEASED: "rendering",
    ShotState.PENDING: "waiting",
    ShotState.FAILED: "failed",
}
"""How a shot looks to its customer, in the order of the page; surplus ones do not appear."""

_REDO_STATES: Final[dict[ShotState, RedoState]] = {
    ShotState.PENDING: "waiting",
    ShotState.LEASED: "rendering",
    ShotState.KEPT: "ready",
    ShotState.FAILED: "failed",
}
"""The same for a redo; one that was chosen is a picture as any other, and the one that was not is gone."""


def view(order: Order, now: datetime) -> OrderView:
    """The current state of a live order."""
    shots = Shot.objects.filter(order=order).select_related("style_version__style").order_by("index")
    by_state: defaultdict[ShotState, list[Shot]] = defaultdict(list)
    redos: dict[int, Shot] = {}  # by the row of the picture that was made again; the last one counts
    for shot in shots:
        if shot.replaces_id:
            redos[shot.replaces_id] = shot
        if not shot.replaces_id or shot.state == ShotState.DONE:
            by_state[ShotState(shot.state)].append(shot)
    redos_left = redo.left(TIERS[order.tier], [shot.state for shot in shots if shot.replaces_id])
    redo_until = _future(redo.open_until(order), now) if by_state[ShotState.DONE] else None
    can_redo = bool(redo_until and redos_left)
    done = guarantee.best_first(by_state[ShotState.DONE])
    others = [shot for state in list(_SHOT_STATES)[1:] for shot in by_state[state]]
    compared = len(by_state[ShotState.KEPT])
    under_way = sum(len(by_state[state]) for state in OPEN_STATES)
    estimate = estimates.of_order(order, now)
    return OrderView(
        id=order.id,
        state=order.state,
        tier=TIERS[order.tier],
        headshots=order.headshots,
        done=len(done),
        compared=compared,
        failed=max(0, order.headshots - len(done) - compared - under_way),
        shots=(
            *(
                _delivered(shot, place, redos.get(shot.pk), can_redo)
                for place, shot in enumerate(done, start=1)
            ),
            *(_shot(shot, None) for shot in others[: order.headshots - len(done)]),
        ),
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
        refunded_cents=_refunded_cents(order),
        is_delivered=_is_delivered(order),
        redos_left=redos_left,
        redo_until=redo_until,
        photo_until=_photo_until(order, now),
    )


def _refunded_cents(order: Order) -> int:
    refunds = Refund.objects.filter(payment__order=order).exclude(state=Refund.State.FAILED)
    return refunds.aggregate(total=Sum("amount_cents"))["total"] or 0


def _is_delivered(order: Order) -> bool:
    return order.state == OrderState.READY or (
        order.state in WORKING_STATES and order.finished_at is not None  # a picture is made again
    )


def _photo_until(order: Order, now: datetime) -> datetime | None:
    if order.finished_at is None or order.selfie_shredded_at:
        return None
    return _future(min(order.finished_at + shredding.SELFIE_KEY_GRACE, order.expires_at), now)


def _future(at: datetime | None, now: datetime) -> datetime | None:
    return at if at and at > now else None


def _delivered(shot: Shot, place: int, again: Shot | None, can_redo: bool) -> ShotView:
    state = _REDO_STATES.get(ShotState(again.state)) if again else None
    if again is None or state is None:
        return replace(_shot(shot, place), can_redo=can_redo)
    likeness = again.likeness if state == "ready" else ""
    return replace(
        _shot(shot, place),
        redo=RedoView(index=again.index, state=state, likeness=likeness),
        can_redo=can_redo and state == "failed",
    )


def _shot(shot: Shot, place: int | None) -> ShotView:
    return ShotView(
        index=shot.index,
        place=place,
        style=shot.style_version.style.slug,
        style_name=shot.style_version.style.name,
        state=_SHOT_STATES[ShotState(shot.state)],
        width=shot.width if place else None,
        height=shot.height if place else None,
        likeness=shot.likeness if place else "",
    )


def _rounded(now: datetime, seconds: float) -> datetime:
    """No more exact than an estimate is: up to the next ten seconds, or minute when it is far."""
    step = 10 if seconds < 120 else 60
    at = math.ceil((now.timestamp() + seconds) / step) * step
    return datetime.fromtimestamp(at, UTC)
