"""Orders in the staff screens: what is shown, and the two actions with permissions and audit entries."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from headshots.models import AuditEntry, Dispute, Order, OrderKey, Payment, Refund, Shot
from headshots.services import fencing, objects, orders, purge
from headshots.states import OrderState, ShotState
from tests.admin.conftest import client_for, messages_of, page_of

pytestmark = [pytest.mark.django_db, pytest.mark.slow]
CHANGELIST = "/admin/headshots/order/"


def url_of(order: Order) -> str:
    return reverse("admin:headshots_order_change", args=(order.pk,))


def do(client: Client, action: str, *chosen: Order, **more: str) -> Any:
    return client.post(
        CHANGELIST, {"action": action, "_selected_action": [order.pk for order in chosen], **more}
    )


def entries_of(order: Order, *events: str) -> list[tuple[str, str, dict[str, Any]]]:
    rows = AuditEntry.objects.filter(reference=order.receipt_id, event__in=events).order_by("id")
    return list(rows.values_list("actor", "event", "detail"))


def test_the_list_shows_progress_and_times(boss: Client, make_order: Callable[..., Order]) -> None:
    order = make_order(failing=1)

    page = page_of(boss.get(CHANGELIST))

    assert order.receipt_id in page
    assert "2 / 1 / 3" in page
    assert page.count(" s</td>") == 2  # first picture, finished


@pytest.mark.parametrize("written", ["receipt", "uuid", "hex"])
def test_an_order_is_found_by_its_receipt_or_its_id(
    boss: Client, make_order: Callable[..., Order], written: str
) -> None:
    wanted, other = make_order(), make_order()
    term = {"receipt": wanted.receipt_id, "uuid": f" {wanted.pk}", "hex": wanted.pk.hex}[written]

    page = page_of(boss.get(CHANGELIST, {"q": term}))

    assert wanted.receipt_id in page
    assert other.receipt_id not in page


def test_filters_by_state_and_tier(boss: Client, make_order: Callable[..., Order], premium: Order) -> None:
    free = make_order()

    assert free.receipt_id not in page_of(boss.get(CHANGELIST, {"tier__exact": "premium"}))
    assert premium.receipt_id in page_of(boss.get(CHANGELIST, {"state__exact": "ready"}))


def test_the_page_of_an_order_shows_shots_money_and_audit_log(boss: Client, premium: Order) -> None:
    page = page_of(boss.get(url_of(premium)))

    assert page.count("corporate v1") == 2  # 10 shots over 8 styles in turn
    assert "face_lost" in page
    assert "1900 usd" in page
    assert "-190 usd" in page
    assert "first picture" in page
    assert 'value="retry_failed"' not in page  # refunded
    for event in ("order.placed", "payment.paid", "payment.refunded"):
        assert event in page


@pytest.mark.parametrize(
    ("state", "fields", "shown"),
    [
        ("sent", {}, "<td>refunded</td><td>-190 usd</td>"),
        ("due", {"sent_at": None}, "<td>to be refunded</td><td>-190 usd</td>"),
        (
            "failed",
            {"error_code": "expired_card"},
            "<td>refund failed: expired_card</td><td>0 of -190 usd</td>",
        ),
    ],
)
def test_a_refund_is_shown_as_far_as_it_came(
    boss: Client, premium: Order, state: str, fields: dict[str, Any], shown: str
) -> None:
    Refund.objects.update(state=state, **fields)

    page = page_of(boss.get(url_of(premium)))

    assert shown in page
    assert page.count("-190 usd") == 1


def test_a_dispute_is_shown_with_the_money(boss: Client, premium: Order, now: datetime) -> None:
    row = {"payment": premium.payment, "provider_id": "du_1", "amount_cents": 1931, "opened_at": now}
    Dispute.objects.create(state=Dispute.State.OPEN, **row)

    page = page_of(boss.get(url_of(premium)))

    assert "<td>dispute open</td><td>1931</td><td>du_1</td>" in page


def test_an_order_cannot_be_edited_added_or_deleted(boss: Client, make_order: Callable[..., Order]) -> None:
    order = make_order()

    assert boss.post(url_of(order), {"state": "failed"}).status_code == 403
    assert boss.get(reverse("admin:headshots_order_add")).status_code == 403
    assert (
        boss.post(reverse("admin:headshots_order_delete", args=(order.pk,)), {"post": "yes"}).status_code
        == 403
    )
    assert Order.objects.get().state == OrderState.READY


def test_retry_revives_the_failed_shots_of_several_orders(
    boss: Client, make_order: Callable[..., Order]
) -> None:
    first, second, whole = make_order(failing=1), make_order(failing=2), make_order()

    response = do(boss, "retry_failed", first, second, whole)

    assert messages_of(response) == [
        "3 shots will be tried again.",
        "1 order left as before: nothing failed, at work, refunded or over.",
    ]
    assert Shot.objects.filter(state=ShotState.PENDING).count() == 3
    assert entries_of(first, "order.retried") == [("ada", "order.retried", {"shots": 1})]
    assert entries_of(second, "order.retried") == [("ada", "order.retried", {"shots": 2})]
    assert entries_of(whole, "order.retried") == []


def test_retry_of_a_refunded_order_changes_nothing(boss: Client, premium: Order) -> None:
    response = do(boss, "retry_failed", premium)

    assert messages_of(response) == ["1 order left as before: nothing failed, at work, refunded or over."]
    assert Order.objects.get().state == OrderState.READY
    assert entries_of(premium, "order.retried") == []


def test_one_order_that_cannot_be_retried_does_not_stop_the_others(
    boss: Client, make_order: Callable[..., Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, sound = make_order(failing=1), make_order(failing=1)
    plain = orders.retry_failed

    def retry(order: Order, **options: Any) -> int:
        if order == broken:
            raise RuntimeError
        return plain(order, **options)

    monkeypatch.setattr(orders, "retry_failed", retry)

    response = do(boss, "retry_failed", broken, sound)

    assert messages_of(response) == [
        f"{broken.receipt_id}: the retry failed (RuntimeError). Try again.",
        "1 shot will be tried again.",
    ]
    assert entries_of(broken, "order.retried") == []
    assert len(entries_of(sound, "order.retried")) == 1


def test_purge_asks_first_and_changes_nothing(boss: Client, make_order: Callable[..., Order]) -> None:
    order = make_order()

    page = page_of(do(boss, "purge_now", order))

    assert order.receipt_id in page
    assert "Purge 1 order now" in page
    assert Order.objects.get().state == OrderState.READY
    assert entries_of(order, "purge.requested", "purge.begun") == []


def test_the_page_before_a_purge_tells_what_goes_back_and_so_it_does(
    boss: Client, premium: Order, make_order: Callable[..., Order]
) -> None:
    free, refunded = make_order(), premium.payment.refunds.get()
    Shot.objects.filter(order=premium, index__in=(1, 2)).update(state=ShotState.FAILED, error_code="gate")

    page = page_of(do(boss, "purge_now", free, premium))

    assert "gives no money back" not in page
    assert "What was paid for pictures that are not there goes back by itself" in page
    assert page.count("<td>$0.00</td>") == 1  # the free one
    assert page.count("<td>$3.80</td>") == 1  # two of ten; the third went back before
    assert [*premium.payment.refunds.all()] == [refunded]

    do(boss, "purge_now", free, premium, confirmed="yes")

    cents = premium.payment.refunds.order_by("sequence").values_list("amount_cents", flat=True)
    assert [*cents] == [refunded.amount_cents, 380]


def test_a_confirmed_purge_erases_several_orders_and_names_who_asked(
    boss: Client, make_order: Callable[..., Order]
) -> None:
    first, second, kept = make_order(), make_order(), make_order()

    response = do(boss, "purge_now", first, second, confirmed="yes")

    assert messages_of(response) == ["2 orders can no longer be read; receipts follow the second look."]
    assert set(OrderKey.objects.values_list("order_id", flat=True)) == {kept.pk}
    assert {name.split("/")[1] for name in objects.blobs().list("o/")} == {kept.pk.hex}
    for order in (first, second):
        assert entries_of(order, "purge.requested", "purge.begun") == [
            ("ada", "purge.requested", {}),
            ("staff", "purge.begun", {}),
        ]


def test_an_order_whose_purge_had_begun_is_left_and_not_audited(
    boss: Client, make_order: Callable[..., Order]
) -> None:
    order = make_order()
    do(boss, "purge_now", order, confirmed="yes")
    boss.get("/admin/")  # shows, and so forgets, the first answer

    response = do(boss, "purge_now", order, confirmed="yes")

    assert messages_of(response) == ["1 order left as before: the purge had begun already."]
    assert len(entries_of(order, "purge.requested")) == 1


def test_one_order_that_cannot_be_purged_does_not_stop_the_others(
    boss: Client, make_order: Callable[..., Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, sound = make_order(), make_order()
    plain = fencing.begin

    def begin(order: Order, **options: Any) -> bool:
        if order == broken:
            raise OSError
        return plain(order, **options)

    monkeypatch.setattr(fencing, "begin", begin)

    response = do(boss, "purge_now", broken, sound, confirmed="yes")

    assert messages_of(response) == [
        f"{broken.receipt_id}: the purge failed (OSError). Try again.",
        "1 order can no longer be read; receipts follow the second look.",
    ]
    assert set(OrderKey.objects.values_list("order_id", flat=True)) == {broken.pk}


def test_too_many_orders_at_once_are_refused(
    boss: Client, make_order: Callable[..., Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headshots.admin.orders.MAX_AT_ONCE", 1)
    first, second = make_order(), make_order()

    response = do(boss, "purge_now", first, second, confirmed="yes")

    assert messages_of(response) == ["Choose at most 1 orders at a time. Nothing was deleted."]
    assert not Order.objects.filter(fenced_at__isnull=False).exists()


@pytest.mark.parametrize(
    ("permissions", "allowed"),
    [
        (("view_order",), set()),
        (("view_order", "change_order"), {"retry_failed"}),
        (("view_order", "delete_order"), {"purge_now"}),
    ],
)
def test_each_action_needs_its_permission(
    make_order: Callable[..., Order], permissions: tuple[str, ...], allowed: set[str]
) -> None:
    order = make_order(failing=1)
    client = client_for("sam", *permissions, is_staff=True)
    page = page_of(client.get(url_of(order)))

    for action in {"retry_failed", "purge_now"}:
        assert (f'value="{action}"' in page) == (action in allowed)
    for action in {"retry_failed", "purge_now"} - allowed:
        do(client, action, order, confirmed="yes")
        after = Order.objects.get()
        assert (after.state, after.fenced_at) == (OrderState.READY, None)
    assert entries_of(order, "order.retried", "purge.requested") == []


def test_the_page_of_a_purged_order_shows_each_step(boss: Client, make_order: Callable[..., Order]) -> None:
    order = make_order()
    do(boss, "purge_now", order, confirmed="yes")
    while purge.run(order.not_after).waiting:
        pass

    page = page_of(boss.get(url_of(order)))

    assert "6 of 6: receipt written" in page
    assert "purge.done" in page
    assert 'value="purge_now"' not in page
    assert not Payment.objects.exists()
