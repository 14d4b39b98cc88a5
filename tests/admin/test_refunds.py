"""Refunds by staff: asked for with a reason, audited under their name, given once."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from headshots.models import AuditEntry, Order, Refund
from headshots.services import payments
from tests.admin.conftest import client_for, messages_of, page_of

pytestmark = [pytest.mark.django_db, pytest.mark.slow]
CHANGELIST = "/admin/headshots/order/"


def do(client: Client, *chosen: Order, **fields: str) -> Any:
    ids = [order.pk for order in chosen]
    return client.post(CHANGELIST, {"action": "refund", "_selected_action": ids, **fields})


def confirm(client: Client, *chosen: Order, **fields: str) -> Any:
    return do(client, *chosen, **{"confirmed": "yes", "reason": "goodwill", "scope": "all", **fields})


def given_by_staff() -> list[tuple[int, list[int]]]:
    rows = Refund.objects.filter(reason=Refund.Reason.STAFF).order_by("sequence")
    return list(rows.values_list("amount_cents", "pictures"))


def decisions() -> list[tuple[str, dict[str, Any]]]:
    rows = AuditEntry.objects.filter(event="refund.decided").order_by("id")
    return list(rows.values_list("actor", "detail"))


def test_the_page_asks_first_and_gives_nothing(boss: Client, premium: Order) -> None:
    page = page_of(do(boss, premium))

    assert premium.receipt_id in page
    assert "$17.10" in page  # one of ten pictures failed and went back by itself
    assert "The pictures do not look like the customer" in page
    assert (given_by_staff(), decisions()) == ([], [])


def test_all_that_is_left_goes_back_with_a_reason_and_a_name(boss: Client, premium: Order) -> None:
    response = confirm(boss, premium, reason="likeness")

    assert messages_of(response) == [f"{premium.receipt_id}: $17.10 will be given back."]
    assert [cents for cents, _ in given_by_staff()] == [1710]
    assert decisions() == [("ada", {"reason": "likeness", "pictures": 10, "cents": 1710})]
    given = AuditEntry.objects.filter(event="payment.refunded", actor="ada")
    assert [entry.detail for entry in given] == [{"cents": 1710}]


def test_single_pictures_go_back_by_their_numbers(boss: Client, premium: Order) -> None:
    response = confirm(boss, premium, scope="pictures", pictures="1, 3-4 3")

    assert messages_of(response) == [f"{premium.receipt_id}: $5.70 will be given back."]
    assert given_by_staff() == [(570, [1, 3, 4])]
    assert decisions() == [("ada", {"reason": "goodwill", "pictures": 3, "cents": 570})]


def test_what_was_given_back_is_not_given_twice(boss: Client, premium: Order) -> None:
    confirm(boss, premium, scope="pictures", pictures="1")
    boss.get("/admin/")  # shows, and so forgets, the first answer

    response = confirm(boss, premium, scope="pictures", pictures="1")

    assert messages_of(response) == [f"{premium.receipt_id}: Nothing of this is left to give back."]
    assert given_by_staff() == [(190, [1])]
    assert len(decisions()) == 1


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"reason": ""}, "Choose a reason."),
        ({"reason": "because"}, "Choose a reason."),
        ({"scope": "pictures", "pictures": ""}, "Name pictures by their numbers, as in 1, 4-6."),
        ({"scope": "pictures", "pictures": "one"}, "Name pictures by their numbers, as in 1, 4-6."),
        ({"scope": "pictures", "pictures": "6-4"}, "Name pictures by their numbers, as in 1, 4-6."),
        ({"scope": ""}, "Name pictures by their numbers, as in 1, 4-6."),
    ],
)
def test_a_page_filled_in_wrongly_is_shown_again(
    boss: Client, premium: Order, fields: dict[str, str], problem: str
) -> None:
    page = page_of(confirm(boss, premium, **fields))

    assert f"{problem} Nothing was given back." in page
    assert (given_by_staff(), decisions()) == ([], [])


def test_a_picture_that_the_order_does_not_have_is_refused(boss: Client, premium: Order) -> None:
    response = confirm(boss, premium, scope="pictures", pictures="1, 999")

    assert messages_of(response) == [f"{premium.receipt_id}: This picture does not exist yet."]
    assert (given_by_staff(), decisions()) == ([], [])


def test_several_orders_are_refunded_whole_and_one_that_cannot_be_stops_none(
    boss: Client, premium: Order, make_order: Callable[..., Order]
) -> None:
    free = make_order()
    assert "Only these pictures" not in page_of(do(boss, free, premium))

    response = confirm(boss, free, premium)

    assert sorted(messages_of(response)) == sorted(
        [
            f"{free.receipt_id}: Nothing of this is left to give back.",
            f"{premium.receipt_id}: $17.10 will be given back.",
        ]
    )
    page = page_of(confirm(boss, free, premium, scope="pictures", pictures="1"))
    assert "Single pictures are refunded order by order." in page


def test_a_database_that_breaks_gives_nothing_and_says_so(
    boss: Client, premium: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **options: Any) -> int:
        raise RuntimeError

    monkeypatch.setattr(payments, "refund", broken)

    response = confirm(boss, premium)

    assert messages_of(response) == [
        f"{premium.receipt_id}: the refund failed (RuntimeError). Nothing was given back."
    ]
    assert (given_by_staff(), decisions()) == ([], [])


def test_too_many_orders_at_once_are_refused(
    boss: Client, premium: Order, make_order: Callable[..., Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headshots.admin.refunds.MAX_REFUNDS", 1)

    response = confirm(boss, premium, make_order())

    assert messages_of(response) == ["Choose at most 1 orders at a time. Nothing was given back."]
    assert given_by_staff() == []


@pytest.mark.parametrize("permission", ["change_order", "delete_order", "add_refund"])
def test_only_who_may_add_refunds_may_refund(premium: Order, permission: str) -> None:
    client = client_for("sam", "view_order", permission, is_staff=True)
    may = permission == "add_refund"

    page = page_of(client.get(reverse("admin:headshots_order_change", args=(premium.pk,))))
    confirm(client, premium)

    assert ('value="refund"' in page) is may
    assert bool(given_by_staff()) is may


def test_the_button_is_gone_once_nothing_is_left(boss: Client, premium: Order) -> None:
    confirm(boss, premium)

    page = page_of(boss.get(reverse("admin:headshots_order_change", args=(premium.pk,))))

    assert 'value="refund"' not in page
    assert "refund.decided" in page


def test_a_free_order_has_no_button(boss: Client, make_order: Callable[..., Order]) -> None:
    page = page_of(boss.get(reverse("admin:headshots_order_change", args=(make_order().pk,))))

    assert 'value="refund"' not in page
