"""Money: nothing is had without paying, nothing is paid without being made, and what is short is said."""

import hmac
import io
import itertools
import json
import logging
import zipfile
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from django.core import mail
from django.test import Client
from django.utils import timezone

from headshots.models import Order, Payment, PaymentEvent, Refund, Shot
from headshots.payments.stripe_events import KINDS
from headshots.services import checkouts, claiming, mails, orders, settlement, shots
from headshots.services.orders import Placed
from headshots.states import OrderState, ShotState
from headshots.tiers import TIERS
from tests.api.conftest import bearer, plain_picture
from tests.paying import tell_paid
from tests.payments.conftest import finish_with, post_event
from tests.payments.stand_in import SECRET_KEY, WEBHOOK_SECRET, StandIn, signed
from tests.payments.test_webhook import everything
from tests.public_bugs.conftest import ORDER_ROUTES, held_of_all
from tests.web.test_free_tier import WISHES, post
from tests.web.test_routes import content_of, filled

pytestmark = pytest.mark.django_db
Deliver = Callable[..., str]
Sent = list[tuple[str, tuple[str, ...]]]


def session() -> str:
    """The provider's page that the customer was sent to."""
    return Payment.objects.get().checkout_id


@pytest.mark.parametrize("path", ["/new", "/api/v1/orders"])
def test_no_field_of_a_form_makes_an_order_larger_cheaper_or_paid(
    as_sent: None, built_in: None, path: str
) -> None:
    wishes = {name: value for name, value in WISHES.items() if name != "styles"}
    for tier in TIERS.values():
        wanted = {**wishes, "tier": tier.slug}
        headers = {f"X-{name.replace('_', '-')}": value for name, value in wanted.items()}

        assert post(path, wanted, urlencode(wanted), headers).status_code in (201, 302)

        order = Order.objects.get(tier=tier.slug)
        orders.accept(order, timezone.now())
        plan = (order.headshots, order.long_edge, order.is_watermarked, order.price_cents)
        assert plan == (tier.headshots, tier.long_edge, tier.is_watermarked, tier.price_cents)
    assert Order.objects.get(tier="premium").state == OrderState.AWAITING_PAYMENT
    assert not Payment.objects.exclude(state="open", amount_cents=1900).exists()


def test_no_route_lets_customers_change_what_they_ordered_or_say_that_they_paid(
    bought: Placed, client: Client
) -> None:
    client.raise_request_exception = False
    before = held_of_all()
    form = urlencode(WISHES)
    carriers = ((form, "application/x-www-form-urlencoded"), (json.dumps(WISHES), "application/json"))
    asked = itertools.product(ORDER_ROUTES, ("GET", "POST", "PUT", "PATCH"), carriers)
    for route, method, (data, kind) in asked:
        if route.endswith("/delete"):
            continue
        path = filled(route, order_id=str(bought.order.pk))
        client.generic(method, path, data, kind, headers=bearer(bought.token), QUERY_STRING=f"{form}&order=1")

    assert held_of_all() == before
    assert Payment.objects.get().state == "open"


def test_the_test_checkout_pays_for_nothing_where_money_is_real(bought: Placed, account: StandIn) -> None:
    assert tell_paid(Payment.objects.get().reference, timezone.now()) == "foreign"

    assert Payment.objects.get().state == "open"
    assert [each["payment_status"] for each in account.sessions.values()] == ["unpaid"]


def test_the_secret_of_the_webhook_is_in_no_address_and_in_no_log(
    bought: Placed, account: StandIn, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    body, signature = signed(account.pay(session()))
    for query in (f"secret={WEBHOOK_SECRET}", f"signature={quote(signature)}&Stripe-Signature={signature}"):
        by_address = client.post(f"/webhooks/stripe?{query}", body, content_type="application/json")
        assert by_address.status_code == 400
    assert Payment.objects.get().state == "open"

    assert post_event(client, body, signature).status_code == 200

    for secret in (WEBHOOK_SECRET, SECRET_KEY, signature, signature.rpartition("=")[2]):
        assert secret not in caplog.text


def test_a_signature_is_compared_in_constant_time_and_to_the_letter(
    bought: Placed, account: StandIn, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[str, str]] = []
    compare = hmac.compare_digest

    def compare_noted(first: Any, second: Any) -> bool:
        compared.append((first, second))
        return compare(first, second)

    monkeypatch.setattr(hmac, "compare_digest", compare_noted)
    body, signature = signed(account.pay(session()))
    scheme, _, code = signature.rpartition("=")

    assert post_event(client, body, f"{scheme}={code.upper()}").status_code == 400
    assert (code, code.upper()) in compared or (code.upper(), code) in compared
    assert post_event(client, body, signature).status_code == 200


def test_a_signature_over_other_bytes_than_the_raw_body_is_refused(
    bought: Placed, account: StandIn, client: Client
) -> None:
    """The same content written again: with other spaces, in another order, with a byte at its end."""
    body, signature = signed(account.pay(session()))
    event = json.loads(body)
    before = everything()

    for rewritten in (
        json.dumps(event).encode(),
        json.dumps(event, separators=(",", ":"), sort_keys=True).encode(),
        body + b"\n",
    ):
        assert rewritten != body
        assert post_event(client, rewritten, signature).status_code == 400

    assert everything() == before


def test_a_webhook_that_comes_again_charges_starts_and_plans_nothing_twice(
    bought: Placed, account: StandIn, deliver: Deliver, sent: Sent
) -> None:
    event = account.pay(session())
    assert deliver(event) == "taken"
    before, hints = (held_of_all(), everything()), list(sent)

    second = account.event("checkout.session.completed", account.sessions[session()])

    assert [deliver(event), deliver(event), deliver(second)] == ["repeated", "repeated", "nothing_new"]
    assert everything()[0] == before[1][0]
    assert held_of_all() == before[0]
    assert sent == hints


def test_an_unknown_event_is_taken_so_that_its_sender_stops(
    bought: Placed, account: StandIn, client: Client
) -> None:
    for kind in ("customer.created", "invoice.paid", "checkout.session.unheard_of", "x"):
        assert kind not in KINDS
        answer = post_event(client, *signed(account.event(kind, {"id": "x_1", "object": "x"})))
        assert answer.status_code == 200

    assert not PaymentEvent.objects.exists()


def test_an_order_starts_though_its_customer_never_comes_back_from_paying(
    bought: Placed, account: StandIn, deliver: Deliver, django_capture_on_commit_callbacks: Any, sent: Sent
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        deliver(account.pay(session()))

    assert Order.objects.get().state == OrderState.QUEUED
    assert ("headshots.render", ()) in sent


def test_an_order_starts_though_its_webhook_never_comes(bought: Placed, account: StandIn) -> None:
    account.pay(session())

    assert settlement.run(timezone.now() + checkouts.LOOK_AFTER).found_paid == 1

    assert Order.objects.get().state == OrderState.QUEUED


def test_a_short_order_says_how_many_came_and_what_goes_back(
    bought: Placed, account: StandIn, client: Client, deliver: Deliver, now: datetime
) -> None:
    deliver(account.pay(session()))

    finish_with(bought.order, 47, now)

    page = client.get(f"/orders/{bought.order.pk}/").content.decode()
    assert "<h1>Ready: 47 of 50 headshots</h1>" in page
    assert "3 pictures did not come out well enough to give to you. $1.14 are refunded to you." in page
    told = client.get(f"/api/v1/orders/{bought.order.pk}", headers=bearer(bought.token)).json()
    assert (told["headshots"], told["done"], told["failed"], told["refunded_cents"]) == (50, 47, 3, 114)
    mails.run(timezone.now())
    texts = [message.body for message in mail.outbox]
    assert any(text.startswith("47 headshots are ready") and "the price goes back" in text for text in texts)
    assert any("We are giving back $1.14" in text for text in texts)


def test_looking_and_downloading_ends_no_refund(
    bought: Placed, account: StandIn, client: Client, deliver: Deliver, now: datetime
) -> None:
    deliver(account.pay(session()))
    for claimed in claiming.claim("worker", 2, timezone.now()):
        assert shots.commit(claimed, plain_picture(claimed), timezone.now())
    done = Shot.objects.filter(state=ShotState.DONE).values_list("index", flat=True)
    at = f"/orders/{bought.order.pk}/"
    taken = [client.get(f"{at}headshots/{index}/{name}") for index in done for name in ("full", "download")]
    taken.append(client.get(f"{at}archive.zip"))

    assert len(done) == 2
    assert {answer.status_code for answer in taken} == {200}
    assert zipfile.ZipFile(io.BytesIO(content_of(taken[-1]))).testzip() is None
    finish_with(bought.order, 40, now)
    assert Refund.objects.get().amount_cents == 10 * 1900 // 50
