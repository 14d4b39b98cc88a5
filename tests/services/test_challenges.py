"""Proof of work: solved once, by its signed words alone, within its time, and used once by all processes."""

import base64
import json
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import altcha
import pytest
from django.db import connections
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from headshots.exceptions import Refusal
from headshots.models import Order, SpentChallenge
from headshots.services import challenges, maintenance
from headshots.services.admission import Visitor
from headshots.services.orders import Placed

STEPS = 3


@pytest.fixture(autouse=True)
def worked_for(settings: Settings) -> None:
    """Free orders cost something here."""
    settings.FREE_WORK = STEPS


def solved(challenge: dict[str, Any], **changes: Any) -> str:
    """What a client sends for a challenge; `changes` replace parts of the solution."""
    solution = altcha.solve_challenge(altcha.Challenge.from_dict(challenge))
    assert solution is not None
    return packed({"challenge": challenge, "solution": {**solution.to_dict(), **changes}})


def packed(content: Any) -> str:
    return base64.b64encode(json.dumps(content).encode()).decode()


def refused(solution: str, now: datetime) -> str:
    """The code that a solution is refused with; nothing is written then."""
    before = SpentChallenge.objects.count()
    with pytest.raises(Refusal) as error:
        challenges.spend(solution, now)
    assert SpentChallenge.objects.count() == before
    return error.value.code


def test_a_challenge_costs_the_set_number_of_derivations_to_twice_as_many(now: datetime) -> None:
    made = [challenges.create(now) for _ in range(20)]

    found = [altcha.solve_challenge(altcha.Challenge.from_dict(each)) for each in made]
    assert {solution.counter for solution in found if solution} <= {3, 4, 5}
    assert {each["parameters"]["data"]["steps"] for each in made} == {6}
    assert {each["parameters"]["cost"] for each in made} == {5000}
    assert len({each["parameters"]["nonce"] for each in made}) == 20


@pytest.mark.django_db
def test_a_solution_is_used_once(now: datetime) -> None:
    solution = solved(challenges.create(now))

    challenges.spend(solution, now)

    assert refused(solution, now) == "challenge_expired"
    assert SpentChallenge.objects.count() == 1


@pytest.mark.django_db
def test_another_way_to_write_a_used_solution_is_used_too(now: datetime) -> None:
    challenge = challenges.create(now)
    challenges.spend(solved(challenge), now)
    parameters = dict(reversed(challenge["parameters"].items()))
    spaced = json.dumps({"challenge": {**challenge, "parameters": {**parameters, "cost": 5000.0}, "more": 1}})

    for other in (solved(challenge, time=7), packed({**json.loads(spaced), **_solution_of(challenge)})):
        assert refused(other, now) == "challenge_expired"


def _solution_of(challenge: dict[str, Any]) -> dict[str, Any]:
    return {"solution": json.loads(base64.b64decode(solved(challenge)))["solution"]}


@pytest.mark.django_db
def test_nothing_is_asked_for_and_nothing_kept_where_it_is_off(now: datetime, settings: Settings) -> None:
    settings.FREE_WORK = 0

    challenges.spend("", now)

    assert not SpentChallenge.objects.exists()
    found = altcha.solve_challenge(altcha.Challenge.from_dict(challenges.create(now)))
    assert found
    assert found.counter == 0


@pytest.mark.django_db
def test_no_solution_at_all_is_told_apart(now: datetime) -> None:
    assert refused("", now) == "challenge_missing"


ALTERED: list[Callable[[dict[str, Any]], None]] = [
    lambda sent: sent["challenge"]["parameters"].update(keyPrefix=""),
    lambda sent: sent["challenge"]["parameters"].update(cost=1),
    lambda sent: sent["challenge"]["parameters"].update(expiresAt=9_999_999_999),
    lambda sent: sent["challenge"]["parameters"].pop("expiresAt"),
    lambda sent: sent["challenge"]["parameters"].pop("keySignature"),
    lambda sent: sent["challenge"].pop("signature"),
    lambda sent: sent["challenge"].update(signature="00" * 32),
    lambda sent: sent["challenge"].update(signature=sent["challenge"]["signature"].upper()),
    lambda sent: sent["solution"].update(derivedKey="00" * 32),
    lambda sent: sent["solution"].update(derivedKey=None),
    lambda sent: sent.pop("solution"),
    lambda sent: sent.update(challenge=[]),
]


@pytest.mark.django_db
@pytest.mark.parametrize("alter", ALTERED)
def test_an_altered_solution_is_wrong(now: datetime, alter: Callable[[dict[str, Any]], None]) -> None:
    sent = json.loads(base64.b64decode(solved(challenges.create(now))))
    alter(sent)

    assert refused(packed(sent), now) == "challenge_wrong"


@pytest.mark.django_db
def test_a_challenge_of_another_installation_is_wrong(now: datetime, settings: Settings) -> None:
    solution = solved(challenges.create(now))
    settings.SECRET_KEY = "another installation's secret key, as long as they are"

    assert refused(solution, now) == "challenge_wrong"


@pytest.mark.django_db
def test_a_challenge_lasts_twenty_minutes_by_the_services_clock(now: datetime) -> None:
    in_time, late = solved(challenges.create(now)), solved(challenges.create(now))

    challenges.spend(in_time, now + timedelta(minutes=19))

    assert refused(late, now + timedelta(minutes=20)) == "challenge_expired"
    assert refused(solved(challenges.create(now - timedelta(minutes=21))), now) == "challenge_expired"


@given(
    st.one_of(st.text(max_size=60), st.binary(max_size=60).map(lambda raw: base64.b64encode(raw).decode()))
)
def test_whatever_a_stranger_sends_is_wrong_and_breaks_nothing(text: str) -> None:
    with pytest.raises(Refusal):
        challenges._read(text or "x")


@pytest.mark.django_db
@pytest.mark.parametrize(
    "sent",
    ["x" * 5000, packed("[" * 50), packed([1]), packed({"challenge": {"parameters": []}, "solution": []})],
)
def test_no_shape_of_it_breaks_anything(now: datetime, sent: str) -> None:
    assert refused(sent, now) == "challenge_wrong"


@pytest.mark.django_db
def test_used_ones_are_forgotten_when_they_have_run_out(now: datetime) -> None:
    challenges.spend(solved(challenges.create(now)), now)

    assert challenges.prune(now + timedelta(minutes=19)) == 0
    maintenance.run_pass(now + timedelta(minutes=21))

    assert not SpentChallenge.objects.exists()


@pytest.mark.django_db
def test_a_free_order_costs_a_solution_and_a_premium_one_none(
    place: Callable[..., Placed], now: datetime
) -> None:
    visitor = Visitor(network="192.0.2.1/32", solution=solved(challenges.create(now)))
    place(visitor=visitor, now=now)

    with pytest.raises(Refusal, match="challenge_expired"):
        place(visitor=visitor, now=now)
    with pytest.raises(Refusal, match="challenge_missing"):
        place(visitor=Visitor(network="192.0.2.1/32"), now=now)

    place(tier_slug="premium", visitor=Visitor(network="192.0.2.1/32"), now=now)
    assert list(Order.objects.order_by("created_at", "tier").values_list("tier", flat=True)) == [
        "free",
        "premium",
    ]


@pytest.fixture
def threads(transactional_db: None) -> Callable[[Callable[[], None], int], list[str]]:
    """Runs the same in several threads with connections of their own; what each was refused with."""

    def run(work: Callable[[], None], count: int) -> list[str]:
        gate, said = threading.Barrier(count), []

        def one() -> None:
            gate.wait()
            try:
                work()
                said.append("")
            except Refusal as refusal:
                said.append(refusal.code)
            finally:
                connections.close_all()

        started = [threading.Thread(target=one) for _ in range(count)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()
        return sorted(said)

    return run


def test_of_many_who_send_the_same_solution_at_once_one_has_used_it(
    threads: Callable[[Callable[[], None], int], list[str]], now: datetime
) -> None:
    solution = solved(challenges.create(now))

    assert threads(lambda: challenges.spend(solution, now), 6) == ["", *["challenge_expired"] * 5]
