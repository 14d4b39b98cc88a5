"""The front page of the staff screens: the numbers it shows and when it warns."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.test import Client

from headshots.admin import dashboard
from headshots.admin.base import length
from headshots.models import Dispute, Heartbeat, Order, Shot
from headshots.services import orders, payments, workers
from headshots.services.orders import Placed
from headshots.states import ShotState
from tests.admin.conftest import page_of

pytestmark = pytest.mark.django_db


def rows_of(title: str, now: datetime, *, count_store: bool = False) -> dict[object, object]:
    (table,) = (table for table in dashboard.read(now, count_store=count_store) if table.title == title)
    return {name: value for name, value in table.rows}  # noqa: C416  rows are sequences, not pairs


def note(now: datetime) -> str:
    return dashboard.read(now, count_store=False)[-1].note


def note_of(title: str, now: datetime) -> str:
    (table,) = (table for table in dashboard.read(now, count_store=False) if table.title == title)
    return table.note


def test_orders_are_counted_by_state(make_order: Callable[..., Order], placed: Placed, now: datetime) -> None:
    make_order()
    make_order()

    assert rows_of("Orders by state", now) == {"assessing": 1, "ready": 2}


def test_the_queue_shows_its_oldest_shot_and_lost_leases(placed: Placed, now: datetime) -> None:
    orders.accept(placed.order, now)
    Shot.objects.filter(index=1).update(state=ShotState.LEASED, lease_until=now - timedelta(seconds=1))
    later = placed.order.created_at + timedelta(minutes=5)

    assert rows_of("Queue", later) == {
        "waiting": 2,
        "oldest waiting": "5 min 0 s",
        "being rendered": 1,
        "with a lease that ran out": 1,
    }


def test_a_worker_that_holds_shots_and_stands_still_is_a_warning(placed: Placed, now: datetime) -> None:
    orders.accept(placed.order, now)
    workers.report("gpu-1:7", now)
    workers.report("gpu-2:7", now + timedelta(seconds=70))
    Shot.objects.filter(index=1).update(
        state=ShotState.LEASED, lease_owner="gpu-1:7:ab12", lease_until=now + timedelta(minutes=1)
    )

    tables = dashboard.read(now + timedelta(seconds=75), count_store=False)
    (table,) = (table for table in tables if table.title == "Workers that render")

    assert [*table.rows] == [("gpu-1:7", "1 min 15 s ago", 1), ("gpu-2:7", "5.0 s ago", 0)]
    assert table.note == "1 worker stopped with shots: its device is stuck, or it is gone."


def test_failures_of_the_last_hour_are_counted_by_code(
    make_order: Callable[..., Order], now: datetime
) -> None:
    make_order(failing=2)
    old = make_order(failing=1)
    Shot.objects.filter(order=old, state=ShotState.FAILED).update(finished_at=now - timedelta(hours=2))

    assert rows_of("Failed shots, last hour", now) == {"face_lost": 2}


def test_money_that_needs_a_hand_is_counted_and_warned_of(premium: Order, now: datetime) -> None:
    calm = {"refunds to be sent": 0, "refunds that failed": 0, "open disputes": 0}
    assert rows_of("Money", now) == calm
    assert note_of("Money", now) == ""

    failed = premium.payment.refunds.get()
    payments.fail_refund(failed, "expired_card", now)
    row = {"payment": premium.payment, "provider_id": "du_1", "amount_cents": 1900, "opened_at": now}
    dispute = Dispute.objects.create(state=Dispute.State.OPEN, **row)

    assert rows_of("Money", now) == {**calm, "refunds that failed": 1, "open disputes": 1}
    assert note_of("Money", now) == (
        "1 refund did not arrive, and nothing went back since: give it back another way. "
        "1 dispute waits for an answer at the provider."
    )

    payments.refund(premium, pictures=[10], actor="ada", now=now)  # by hand, for the same picture
    Dispute.objects.filter(pk=dispute.pk).update(state=Dispute.State.WON, closed_at=now)

    assert rows_of("Money", now) == calm
    assert note_of("Money", now) == ""


def test_a_refund_that_a_lost_dispute_ended_needs_no_hand(premium: Order, now: datetime) -> None:
    payments.fail_refund(premium.payment.refunds.get(), "dispute_lost", now)

    assert rows_of("Money", now)["refunds that failed"] == 0


def test_objects_in_the_store_are_counted_on_demand(make_order: Callable[..., Order], now: datetime) -> None:
    make_order()

    plain = rows_of("Deletion", now)
    counted = rows_of("Deletion", now, count_store=True)

    assert plain == {"last round of the purge": "never", "orders due": 0, "objects on record": 7}
    assert counted == {**plain, "objects in the store": 7}


@pytest.mark.parametrize(("seconds", "warns"), [(119, False), (121, True)])
def test_a_purge_that_missed_its_round_is_a_warning(
    db: None, now: datetime, seconds: int, warns: bool
) -> None:
    Heartbeat.objects.create(name="purge", at=now - timedelta(seconds=seconds))

    assert ("missed its round" in note(now)) == warns


def test_overdue_orders_are_a_warning(placed: Placed, now: datetime) -> None:
    later = placed.order.expires_at + timedelta(minutes=3)
    Heartbeat.objects.create(name="purge", at=later)

    assert note(later) == "1 order should have been purged more than 2 minutes ago."
    assert rows_of("Deletion", later)["orders due"] == 1


def test_the_front_page_shows_each_worker_in_a_row_of_its_own(
    boss: Client, placed: Placed, now: datetime
) -> None:
    orders.accept(placed.order, now)
    workers.report("gpu-1:7", now)
    Shot.objects.filter(index=1).update(
        state=ShotState.LEASED, lease_owner="gpu-1:7:ab12", lease_until=now + timedelta(minutes=1)
    )

    page = page_of(boss.get("/admin/"))

    for header in ("Worker", "Last moved", "Shots"):
        assert f'<th scope="col" class="nowrap">{header}</th>' in page
    cells = page.split('<th scope="row">gpu-1:7</th>')[1].split("</tr>")[0]
    assert cells.count("<td>") == 2
    assert "<td>1</td>" in cells


def test_the_front_page_shows_the_tables(boss: Client, make_order: Callable[..., Order]) -> None:
    make_order()

    page = page_of(boss.get("/admin/", {"store": "count"}))

    for text in (
        "Orders by state",
        "oldest waiting",
        "Failed shots, last hour",
        "objects in the store",
        "<title>Headshots",
    ):
        assert text in page


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0.0 s"), (4.21, "4.2 s"), (42, "42 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")],
)
def test_durations_read_as_a_person_says_them(seconds: float, text: str) -> None:
    assert length(timedelta(seconds=seconds)) == text
