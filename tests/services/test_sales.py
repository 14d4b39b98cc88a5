"""What is made with research weights is shown and not sold until a licence for it is recorded."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.test import Client
from pytest_django import Settings

from headshots import worker
from headshots.checks import (
    customers_can_be_told_apart,
    what_is_sold_is_licensed,
    what_would_be_sold_is_licensed,
)
from headshots.env import ROOT, Environment, parse_licences
from headshots.exceptions import TEXTS, Refusal
from headshots.models import Order, Payment
from headshots.services import checkouts, doctor, orders, payments, sales
from headshots.services.networks import parse_networks
from headshots.services.orders import Placed
from headshots.tiers import TIERS
from pipelines.errors import Final
from pipelines.weights import Locked, write_lock
from tests.api.conftest import assert_refused
from tests.web.conftest import Send, code_of, hold, nothing_is_stored, send

__all__ = ["send"]  # a fixture of the pages' tests

BOTH = {"antelopev2": "contract of 2026-05", "instantid": "letter of 2026-06"}
HALF = {"antelopev2": "contract of 2026-05"}
WHY = TEXTS["not_on_sale"].advice


@pytest.fixture
def unlicensed(settings: Settings, tmp_path: Path) -> Settings:
    """The InstantID engine, over weights that nobody has recorded a licence for."""
    settings.ENGINE, settings.WEIGHTS, settings.WEIGHTS_LICENCES = "instantid", tmp_path, {}
    return settings


# --- what is missing ----------------------------------------------------------------------------------------


def test_the_preview_engine_needs_no_licence(settings: Settings) -> None:
    assert settings.ENGINE == "preview"
    assert (sales.missing(), sales.problem()) == ((), "")


@pytest.mark.parametrize(
    ("recorded", "left"),
    [
        ({}, ("antelopev2", "instantid")),
        (HALF, ("instantid",)),
        (BOTH, ()),
        ({"sdxl-base": "not needed"}, ("antelopev2", "instantid")),
    ],
)
def test_instantid_needs_one_for_each_of_its_research_weights(
    unlicensed: Settings, recorded: dict[str, str], left: tuple[str, ...]
) -> None:
    unlicensed.WEIGHTS_LICENCES = recorded

    assert sales.missing() == left
    assert bool(sales.problem()) is bool(left)
    assert all(key in sales.problem() for key in left)


def test_an_optional_network_needs_one_where_the_bundle_has_it(unlicensed: Settings) -> None:
    unlicensed.WEIGHTS_LICENCES = BOTH

    assert sales.missing({"vae", "antelopev2"}) == ()
    assert sales.missing({"vae", "antelopev2", "safety-checker"}) == ("safety-checker",)
    assert sales.missing() == ()


def test_only_the_paid_tier_is_held_back(unlicensed: Settings) -> None:
    assert sales.reason_against(TIERS["free"]) == ""
    assert sales.reason_against(TIERS["premium"]) == WHY
    sales.require_on_sale(TIERS["free"])
    with pytest.raises(Refusal, match="not_on_sale"):
        sales.require_on_sale(TIERS["premium"])


# --- the setting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("", {}),
        ("antelopev2=contract of 2026-05, instantid = letter of 2026-06,", BOTH),
        ("instantid=contract no. 7=8", {"instantid": "contract no. 7=8"}),
    ],
)
def test_licences_are_written_as_name_and_words(text: str, parsed: dict[str, str]) -> None:
    assert parse_licences(text) == parsed


@pytest.mark.parametrize("text", ["antelope=contract", "instantid", "instantid=", "yes", "=contract"])
def test_a_licence_of_no_weights_or_without_words_is_a_wrong_setting(text: str) -> None:
    with pytest.raises(ValueError, match="WEIGHTS_LICENCES"):
        Environment.model_validate({"WEIGHTS_LICENCES": text})


@pytest.mark.parametrize("text", ["10.0.0.1/8", "proxy", "10.0.0.0/8; fd00::/8"])
def test_a_proxy_that_is_no_network_is_a_wrong_setting(text: str) -> None:
    with pytest.raises(ValueError, match="TRUSTED_PROXIES"):
        Environment.model_validate({"TRUSTED_PROXIES": text})


def test_free_orders_cost_work_and_all_are_limited_unless_somebody_turns_it_off(tmp_path: Path) -> None:
    names = ("FREE_WORK", "FREE_PER_HOUR", "FREE_PER_DAY", "PREMIUM_PER_HOUR", "PREMIUM_PER_DAY")
    asked = f"from django.conf import settings as s; print([{', '.join(f's.{name}' for name in names)}])"
    left = {name: value for name, value in os.environ.items() if name not in names}
    ended = subprocess.run(
        [sys.executable, "-c", asked],
        env={**left, "DJANGO_SETTINGS_MODULE": "headshots.settings", "HEADSHOTS_DATA": str(tmp_path / "d")},
        capture_output=True,
        check=True,
        cwd=ROOT,
    )

    assert json.loads(ended.stdout) == [500, 6, 20, 12, 40]


# --- what customers see -------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_the_pages_say_so_instead_of_failing(client: Client, built_in: None, unlicensed: Settings) -> None:
    landing, form = (client.get(path).content.decode() for path in ("/", "/new?tier=premium"))

    assert f"<strong>Not on sale here yet.</strong> {WHY}" in landing
    assert "?tier=premium" not in landing
    assert f"Premium is not on sale here yet. {WHY}" in form
    assert 'id="tier-premium" disabled' in form
    assert 'id="tier-free" checked' in form

    unlicensed.WEIGHTS_LICENCES = BOTH
    landing, form = (client.get(path).content.decode() for path in ("/", "/new?tier=premium"))
    assert "?tier=premium" in landing
    assert 'id="tier-premium" checked' in form
    assert "not on sale" not in (landing + form).lower()


def test_a_posted_premium_order_is_refused_and_nothing_is_written(send: Send, unlicensed: Settings) -> None:
    response = send(tier="premium")

    assert (response.status_code, code_of(response)) == (409, "not_on_sale")
    assert nothing_is_stored()
    assert not Payment.objects.exists()
    assert send(tier="free").status_code == 302


@pytest.mark.django_db
def test_the_api_says_so_and_refuses(
    client: Client, built_in: None, selfie: bytes, unlicensed: Settings
) -> None:
    shown = {tier["slug"]: tier["not_on_sale"] for tier in client.get("/api/v1/tiers").json()}
    photo = SimpleUploadedFile("me.jpg", selfie, "image/jpeg")
    response = client.post("/api/v1/orders", {"tier": "premium", "consent": "true", "selfie": photo})

    assert shown == {"free": None, "premium": WHY}
    assert_refused(response, "not_on_sale")
    assert nothing_is_stored()

    unlicensed.WEIGHTS_LICENCES = BOTH
    assert {tier["not_on_sale"] for tier in client.get("/api/v1/tiers").json()} == {None}


@pytest.mark.django_db
def test_an_order_placed_before_cannot_be_paid_any_more(
    client: Client, place: Callable[..., Placed], settings: Settings, tmp_path: Path
) -> None:
    placed = place(tier_slug="premium")
    orders.accept(placed.order, placed.order.created_at)
    order = Order.objects.get()
    hold(client, placed)
    settings.ENGINE, settings.WEIGHTS, settings.WEIGHTS_LICENCES = "instantid", tmp_path, HALF

    for method in ("get", "post"):
        response = getattr(client, method)(f"/orders/{order.pk}/checkout")
        assert response.status_code == 409
        assert TEXTS["not_on_sale"].message in response.content.decode()
    with pytest.raises(Refusal, match="not_on_sale"):
        checkouts.require_open(order, order.created_at)
    assert payments.payment_of(order).state == Payment.State.OPEN


# --- what operators see -------------------------------------------------------------------------------------


def test_a_missing_licence_warns_in_development_and_is_an_error_in_production(unlicensed: Settings) -> None:
    assert what_is_sold_is_licensed(None) == []
    assert [found.id for found in what_would_be_sold_is_licensed(None)] == ["headshots.W005"]

    unlicensed.IS_PRODUCTION = True
    assert what_would_be_sold_is_licensed(None) == []
    (error,) = what_is_sold_is_licensed(None)
    assert (error.id, error.is_serious()) == ("headshots.E005", True)
    assert "antelopev2 (insightface models: non-commercial research only, unless licensed)" in error.msg

    unlicensed.WEIGHTS_LICENCES = BOTH
    assert what_is_sold_is_licensed(None) == []
    unlicensed.IS_PRODUCTION = False
    assert what_would_be_sold_is_licensed(None) == []


def test_production_must_know_its_proxies(settings: Settings) -> None:
    assert customers_can_be_told_apart(None) == []

    settings.IS_PRODUCTION = True
    assert [error.id for error in customers_can_be_told_apart(None)] == ["headshots.E006"]

    settings.TRUSTED_PROXIES = parse_networks("10.0.0.0/8")
    assert customers_can_be_told_apart(None) == []


@pytest.mark.django_db
def test_the_doctor_lists_it_once(unlicensed: Settings) -> None:
    locked = Locked(key="safety-checker", size_bytes=1, sha256="0", licence="accepted")
    write_lock(unlicensed.WEIGHTS, {"safety/model.safetensors": locked})
    out = io.StringIO()

    with pytest.raises(CommandError):
        call_command("doctor", "--json", stdout=out)

    findings = json.loads(out.getvalue())["findings"]
    found = [finding for finding in findings if "non-commercial research only" in finding["message"]]
    assert [(finding["check"], finding["promise"]) for finding in found] == [("licences", doctor.LICENSED)]
    for key in ("antelopev2 (", "instantid (", "safety-checker ("):
        assert key in found[0]["message"]


@pytest.mark.parametrize(
    ("recorded", "is_production", "is_refused"),
    [({}, False, False), (HALF, False, True), (BOTH, False, False), ({}, True, True), (BOTH, True, False)],
)
def test_a_worker_with_a_wrong_licence_setting_does_not_start(
    unlicensed: Settings, recorded: dict[str, str], is_production: bool, is_refused: bool
) -> None:
    unlicensed.WEIGHTS_LICENCES, unlicensed.IS_PRODUCTION = recorded, is_production

    if not is_refused:
        sales.require_licences(())
        return
    with pytest.raises(Final) as error:
        sales.require_licences(())
    assert error.value.code == "weights_unlicensed"


def test_the_workers_child_says_one_line_and_loads_nothing(
    unlicensed: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unlicensed.WEIGHTS_LICENCES = HALF
    loaded: list[str] = []
    monkeypatch.setattr("headshots.tasks.warm_engine", lambda: loaded.append("engine"))
    before = worker._engine_state[0]
    try:
        worker._load_engine()
        state = worker._engine_state[0]
    finally:
        worker._engine_state[0] = before

    assert (state, loaded) == (worker._FAILED, [])
    assert [record.getMessage() for record in caplog.records] == [
        "the engine cannot start: Final: WEIGHTS_LICENCES names no licence for instantid "
        "(Apache-2.0 by its card, research only by its authors' README)"
    ]
