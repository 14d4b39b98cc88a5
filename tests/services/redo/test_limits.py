"""How often, how long and by whom a redo may be asked for."""

import dataclasses
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db.models import F

from headshots.exceptions import Refusal
from headshots.models import Dispute, Order, Payment, Shot
from headshots.services import claiming, delivery, guarantee, orders, progress, redo, shots
from headshots.services.progress import RedoView
from headshots.states import OrderState, ShotState
from headshots.vault.envelope import Kind
from tests.services.redo.making import HOUR, MINUTE, commit_all, current, fail_one, picture, rows, states

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

# --- limits -----------------------------------------------------------------------------------------------


def test_each_tier_has_the_redos_of_the_table(ready: Order, pack: Order, now: datetime) -> None:
    for order, limit in ((ready, 1), (pack, 10)):
        for index in range(1, limit + 1):
            assert progress.view(current(order), now).redos_left == limit - index + 1
            redo.ask(order, index, now)
        before = rows()

        with pytest.raises(Refusal, match="redo_limit"):
            redo.ask(order, limit + 1, now)

        assert rows() == before
        assert Shot.objects.filter(order=order, replaces__isnull=False).count() == limit


@pytest.mark.parametrize("kept", [2, 4])
def test_a_free_order_gets_no_second_redo_however_it_chose(ready: Order, now: datetime, kept: int) -> None:
    redo.ask(ready, 2, now)
    commit_all(now)
    redo.keep(ready, kept, now)

    for index in (1, kept, 3):
        with pytest.raises(Refusal, match="redo_limit"):
            redo.ask(ready, index, now)

    assert Shot.objects.count() == 4
    assert not any(shot.can_redo for shot in progress.view(current(ready), now).shots)


def test_a_failed_redo_is_told_and_costs_nothing(ready: Order, now: datetime) -> None:
    redo.ask(ready, 2, now)
    fail_one(now)

    assert states(ready) == {1: "done", 2: "done", 3: "done", 4: "failed"}
    assert current(ready).state == OrderState.READY
    view = progress.view(current(ready), now)
    shot = next(shot for shot in view.shots if shot.index == 2)
    assert (shot.redo, shot.can_redo) == (RedoView(index=4, state="failed", likeness=""), True)
    assert (view.redos_left, view.done, view.failed, view.percent) == (1, 3, 0, 100)

    redo.ask(ready, 2, now)
    commit_all(now)
    redo.keep(ready, 5, now)
    assert states(ready) == {1: "done", 2: "surplus", 3: "done", 4: "failed", 5: "done"}


def test_a_photo_whose_redos_keep_failing_is_not_tried_for_ever(ready: Order, now: datetime) -> None:
    for _ in range(redo.FAILURES_PER_REDO):
        redo.ask(ready, 2, now)
        fail_one(now)

    with pytest.raises(Refusal, match="redo_limit"):
        redo.ask(ready, 2, now)

    assert progress.view(current(ready), now).redos_left == 0


def test_staff_do_not_revive_a_failed_redo(ready: Order, now: datetime) -> None:
    redo.ask(ready, 2, now)
    fail_one(now)
    Shot.objects.filter(index=3).update(state=ShotState.FAILED, error_code="quality_gate")

    assert orders.retry_failed(current(ready), actor="ada", now=now) == 1

    assert states(ready) == {1: "done", 2: "done", 3: "pending", 4: "failed"}


# --- refusals ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """What is changed before the request comes, when it comes, and what it says then."""

    code: str
    index: int = 2
    after: timedelta = MINUTE
    order: dict[str, Any] = dataclasses.field(default_factory=dict)
    shot: dict[str, Any] = dataclasses.field(default_factory=dict)


CASES = {
    "a picture that does not exist": Case("headshot_not_found", index=4),
    "nonsense": Case("headshot_not_found", index=10**20),
    "a picture that is not delivered": Case("headshot_not_found", shot={"state": ShotState.KEPT}),
    "one that was given up": Case("headshot_not_found", shot={"state": ShotState.SURPLUS}),
    "an order that is still made": Case(
        "redo_too_early", order={"state": OrderState.RENDERING, "finished_at": None}
    ),
    "an hour later": Case("selfie_deleted", after=HOUR),
    "a photo that is gone": Case("selfie_deleted", order={"selfie_shredded_at": F("created_at")}),
    "an order that soon ends": Case(
        "redo_too_late", order={"expires_at": F("created_at") + guarantee.DEADLINE + 2 * MINUTE}
    ),
    "an order that is over": Case("order_not_found", order={"state": OrderState.PURGING}),
    "an order that has expired": Case("order_not_found", after=timedelta(hours=25)),
}


@pytest.mark.parametrize("named", CASES)
def test_a_redo_that_cannot_be_is_refused_and_changes_nothing(
    ready: Order, now: datetime, named: str
) -> None:
    case = CASES[named]
    if case.shot:
        Shot.objects.filter(index=2).update(**case.shot)
    if case.order:
        Order.objects.update(**case.order)
    before = rows()

    with pytest.raises(Refusal) as refused:
        redo.ask(ready, case.index, now + case.after)

    assert refused.value.code == case.code
    assert rows() == before
    if case.code in ("selfie_deleted", "redo_too_late"):
        view = progress.view(current(ready), now + case.after)
        assert view.redo_until is None
        assert not any(shot.can_redo for shot in view.shots)


def test_one_picture_is_made_again_once_at_a_time(pack: Order, now: datetime) -> None:
    redo.ask(pack, 1, now)
    for step in (lambda: None, lambda: claiming.claim("worker", 1, now), lambda: commit_leased(now)):
        step()
        before = rows()
        with pytest.raises(Refusal, match="redo_under_way"):
            redo.ask(pack, 1, now)
        assert rows() == before
    assert states(pack)[61] == "kept"

    redo.keep(pack, 1, now)
    redo.ask(pack, 1, now)

    assert states(pack)[62] == "pending"


def commit_leased(now: datetime) -> None:
    shot = Shot.objects.select_related("order", "style_version__style").get(state=ShotState.LEASED)
    claimed = claiming.Claim(shot, shot.lease_token)
    assert shots.commit(claimed, picture(claimed), now)


def test_while_the_payment_is_disputed_nothing_is_made_or_chosen(pack: Order, now: datetime) -> None:
    redo.ask(pack, 1, now)
    commit_all(now)
    Dispute.objects.create(
        payment=Payment.objects.get(),
        provider_id="dp_1",
        state=Dispute.State.OPEN,
        amount_cents=1900,
        opened_at=now,
    )
    before = rows()

    for refused in (
        lambda: redo.ask(pack, 2, now),
        lambda: redo.keep(pack, 61, now),
        lambda: delivery.open_headshot(pack, 61, Kind.PREVIEW, now),
    ):
        with pytest.raises(Refusal, match="payment_disputed"):
            refused()

    assert rows() == before
