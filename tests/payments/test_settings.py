"""Who takes the money is said in full, or the service does not start."""

import pytest

from headshots.env import Environment, embedded_defaults, is_live, payment_problem

STRIPE = {"PAYMENTS": "stripe", "STRIPE_SECRET_KEY": "sk_test_1", "STRIPE_WEBHOOK_SECRET": "whsec_1"}


def environment(**values: str) -> Environment:
    return Environment.model_validate(values)


def test_the_default_is_the_test_provider() -> None:
    assert environment().payments == "test"
    assert payment_problem(environment()) == ""
    assert "PAYMENTS" in embedded_defaults(environment())


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"PAYMENTS": "stripe"}, "PAYMENTS=stripe needs STRIPE_SECRET_KEY and STRIPE_WEBHOOK_SECRET"),
        ({**STRIPE, "STRIPE_WEBHOOK_SECRET": ""}, "PAYMENTS=stripe needs STRIPE_WEBHOOK_SECRET"),
        (
            {"STRIPE_SECRET_KEY": "sk_live_1", "STRIPE_WEBHOOK_SECRET": "whsec_1"},
            "PAYMENTS=test takes no money, but these are set: STRIPE_SECRET_KEY, STRIPE_WEBHOOK_SECRET",
        ),
        (
            {**STRIPE, "STRIPE_SECRET_KEY": "rk_live_1", "STRIPE_API_BASE": "http://127.0.0.1:1"},
            "STRIPE_API_BASE would be given a live STRIPE_SECRET_KEY",
        ),
        (STRIPE, ""),
        ({**STRIPE, "STRIPE_API_BASE": "http://127.0.0.1:12111"}, ""),
    ],
)
def test_what_does_not_go_together_is_named(values: dict[str, str], problem: str) -> None:
    assert payment_problem(environment(**values)) == problem


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STRIPE_SECRET_KEY", "pk_live_1"),
        ("STRIPE_SECRET_KEY", "sk_live_"),
        ("STRIPE_WEBHOOK_SECRET", "sk_live_1"),
        ("STRIPE_API_BASE", "127.0.0.1:80"),
        ("STRIPE_API_BASE", "http://127.0.0.1/path"),
        ("PAYMENTS", "none"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=name):
        environment(**{**STRIPE, name: value})


@pytest.mark.parametrize(
    ("values", "left"),
    [
        (STRIPE, {"STRIPE_SECRET_KEY"}),
        ({**STRIPE, "STRIPE_API_BASE": "https://x"}, {"STRIPE_SECRET_KEY", "STRIPE_API_BASE"}),
        ({**STRIPE, "STRIPE_SECRET_KEY": "sk_live_1"}, set()),
    ],
)
def test_production_takes_real_money_from_the_real_address(values: dict[str, str], left: set[str]) -> None:
    mine = {"PAYMENTS", "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET", "STRIPE_API_BASE"}

    assert set(embedded_defaults(environment(**values))) & mine == left


@pytest.mark.parametrize(
    ("key", "expected"), [("sk_live_a", True), ("rk_live_a", True), ("sk_test_live_", False), ("", False)]
)
def test_real_money_is_known_by_the_key(key: str, expected: bool) -> None:
    assert is_live(environment(STRIPE_SECRET_KEY=key)) is expected
