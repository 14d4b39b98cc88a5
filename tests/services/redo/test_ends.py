"""What ends a redo: its hour, its failures, its order, and money."""

from datetime import datetime

import pytest

from headshots.exceptions import NotFound, Refusal
from headshots.models import Order, OrderKey, Receipt, Refund, Shot, Style
from headshots.services import (
    claiming,
    clock,
    guarantee,
    objects,
    payments,
    purge,
    queue_clock,
    redo,
    shots,
    staff_refunds,
    styles,
    uploads,
)
from headshots.states import OrderState, ShotState
from headshots.tiers import TIERS
from tests.services.redo.making import HOUR, MINUTE, commit_all, current, fail_one, picture, states

pytestmark = pytest.mark.django_db

# --- the ends of things -----------------------------------------------------------------------------------


def test_a_redo_that_waits_when_the_photos_hour_ends_fails(ready: Order, now: datetime) -> None:
    redo.ask(ready, 2, now + 59 * MINUTE)

    purge.run(now + HOUR)
    shots.sweep(now + HOUR)

    assert current(ready).selfie_shredded_at == now + HOUR
    assert not OrderKey.objects.filter(order=ready, role=0).exists()
    assert Shot.objects.get(index=4).error_code == "selfie_deleted"
    assert states(ready) == {1: "done", 2: "done", 3: "done", 4: "failed"}
    assert (current(ready).state, current(ready).finished_at) == (OrderState.READY, now)
    assert claiming.claim("worker", 8, now + HOUR) == []


def test_a_redo_in_a_workers_hands_is_finished_though_the_photo_is_deleted_on_time(
    ready: Order, now: datetime
) -> None:
    late = now + 59 * MINUTE
    redo.ask(ready, 2, late)
    (claimed,) = claiming.claim("worker", 1, late)
    purge.run(now + HOUR)
    claiming.extend("worker", now + HOUR)
    shots.sweep(now + HOUR)
    assert current(ready).selfie_shredded_at == now + HOUR
    with pytest.raises(NotFound):
        uploads.open_selfie(current(ready), now + HOUR)

    assert shots.commit(claimed, picture(claimed), now + HOUR)

    assert states(ready) == {1: "done", 2: "done", 3: "done", 4: "kept"}
    assert current(ready).state == OrderState.READY


def test_a_redo_whose_worker_was_lost_after_the_photos_hour_fails(ready: Order, now: datetime) -> None:
    late = now + 59 * MINUTE
    redo.ask(ready, 2, late)
    claiming.claim("worker", 1, late)

    shots.sweep(now + HOUR + 2 * MINUTE)

    assert Shot.objects.get(index=4).error_code == "selfie_deleted"
    assert current(ready).state == OrderState.READY


def test_pictures_that_the_photos_end_cost_speak_against_no_style(
    ready: Order, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(styles, "FAILING_LEAST_SHOTS", 1)
    monkeypatch.setattr(styles, "FAILING_LEAST_ORDERS", 1)
    monkeypatch.setattr(styles, "FAILING_SHARE", 0.1)
    redo.ask(ready, 2, now + 59 * MINUTE)
    Style.objects.update(published_at=None)

    shots.sweep(now + HOUR)

    assert states(ready)[4] == "failed"
    assert Style.objects.get(slug="corporate").status == Style.Status.PUBLISHED


def test_at_the_deadline_open_redos_are_closed_without_harm(ready: Order, now: datetime) -> None:
    redo.ask(ready, 2, now)
    Order.objects.update(expires_at=now + guarantee.DEADLINE)

    shots.sweep(now)

    assert states(ready) == {1: "done", 2: "done", 3: "done", 4: "failed"}
    assert Shot.objects.get(index=4).error_code == "deadline"
    assert (current(ready).state, current(ready).finished_at) == (OrderState.READY, now)


@pytest.mark.parametrize("is_made", [False, True])
def test_a_deletion_takes_the_redo_with_it(ready: Order, now: datetime, is_made: bool) -> None:
    redo.ask(ready, 2, now)
    (claimed,) = claiming.claim("worker", 1, now)
    if is_made:
        assert shots.commit(claimed, picture(claimed), now)

    purge.request(current(ready), actor="customer", now=now)

    assert not shots.commit(claimed, picture(claimed), now)
    while purge.run(clock.now() + 30 * MINUTE).waiting:
        pass
    assert list(objects.blobs().list("o/")) == []
    assert current(ready).state == OrderState.PURGED
    assert Receipt.objects.count() == 1
    for refused in (lambda: redo.ask(ready, 1, now), lambda: redo.keep(ready, 4, now)):
        with pytest.raises(NotFound):
            refused()


# --- money ------------------------------------------------------------------------------------------------


def test_a_chosen_redo_is_to_the_money_the_picture_it_replaced(pack: Order, now: datetime) -> None:
    """Two of fifty were never made and are paid back; no redo makes them three."""
    Shot.objects.filter(order=pack, index__in=(49, 50)).update(
        state=ShotState.FAILED, error_code="quality_gate"
    )
    assert payments.refund_missing(pack, now) == 76

    redo.ask(pack, 1, now)
    fail_one(now)
    redo.ask(pack, 1, now)
    commit_all(now)
    assert payments.refund_missing(pack, now) == 0
    redo.keep(pack, 62, now)

    assert payments.refund_missing(pack, now) == 0
    purge.request(current(pack), actor="customer", now=now)
    assert [refund.amount_cents for refund in Refund.objects.all()] == [76]


def test_staff_pay_a_picture_back_once_whatever_its_number_was(pack: Order, now: datetime) -> None:
    assert staff_refunds.refund(pack, pictures=[1], reason="quality", actor="ada", now=now) == 38
    redo.ask(pack, 1, now)
    redo.ask(pack, 2, now)
    commit_all(now)
    with pytest.raises(Refusal, match="headshot_not_found"):
        staff_refunds.refund(pack, pictures=[62], reason="quality", actor="ada", now=now)
    redo.keep(pack, 61, now)
    redo.keep(pack, 62, now)

    with pytest.raises(Refusal, match="not_refundable"):
        staff_refunds.refund(pack, pictures=[61], reason="quality", actor="ada", now=now)
    assert staff_refunds.refund(pack, pictures=[62], reason="quality", actor="ada", now=now) == 38

    assert [refund.pictures for refund in Refund.objects.order_by("sequence")] == [[1], [2]]


def test_the_queues_last_finish_is_where_the_redo_ends(ready: Order, now: datetime) -> None:
    redo.ask(ready, 1, now)

    new = Shot.objects.get(index=4)
    assert new.virtual_finish == queue_clock.read("free")
    length = new.work * 1000 // TIERS["free"].weight
    assert new.virtual_offset == length
