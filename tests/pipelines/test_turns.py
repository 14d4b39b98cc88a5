"""Urgent shots overtake the others between two steps, for as long as one picture takes."""

from pipelines.turns import ALONE_STEPS, Turns

MIXED = ("free", "pack", "free", "pack")


def is_urgent(flight: str) -> bool:
    return flight == "free"


def movers(turns: Turns, flights: tuple[str, ...]) -> list[str]:
    return turns.split(flights, is_urgent)[0]


def test_urgent_shots_go_alone_and_the_others_wait() -> None:
    assert Turns().split(MIXED, is_urgent) == (["free", "free"], ["pack", "pack"])


def test_shots_of_one_kind_go_together() -> None:
    turns = Turns()
    for flights in (("pack", "pack"), ("free", "free", "free"), ()):
        assert turns.split(flights, is_urgent) == (list(flights), [])


def test_nobody_waits_for_longer_than_a_picture_takes() -> None:
    turns = Turns()
    steps = [len(movers(turns, MIXED)) for _ in range(3 * ALONE_STEPS)]

    assert steps == [2] * ALONE_STEPS + [4] * ALONE_STEPS + [2] * ALONE_STEPS


def test_an_urgent_order_after_a_pause_goes_alone_again() -> None:
    turns = Turns()
    for _ in range(ALONE_STEPS):
        movers(turns, MIXED)
    assert movers(turns, MIXED) == list(MIXED)

    movers(turns, ("pack", "pack"))

    assert movers(turns, MIXED) == ["free", "free"]
