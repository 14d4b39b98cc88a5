"""Which pictures are delivered, and when: the choice as a pure function."""

import random
from collections import Counter
from collections.abc import Mapping

import pytest

from headshots.services.guarantee import Candidate, choose
from headshots.states import ShotState
from pipelines import gate

STRONG, GOOD, FAIR = 1, 3, 5


def pack(states: Mapping[int, tuple[ShotState, int]], *, styles: int, count: int) -> list[Candidate]:
    """`count` shots, styles in turn; those not named are pending."""
    return [
        Candidate(
            shot=index,
            index=index,
            style=index % styles,
            state=states.get(index, (ShotState.PENDING, 0))[0],
            rank=states.get(index, (ShotState.PENDING, 0))[1],
        )
        for index in range(1, count + 1)
    ]


def kept(**ranks: int) -> dict[int, tuple[ShotState, int]]:
    return {int(name[1:]): (ShotState.KEPT, rank) for name, rank in ranks.items()}


def test_a_picture_of_the_best_rank_is_delivered_at_once() -> None:
    assert choose(pack(kept(s5=STRONG), styles=1, count=6), promised=5) == [5]


def test_a_picture_of_an_engine_that_measures_no_likeness_is_delivered_at_once() -> None:
    assert choose(pack(kept(s5=gate.UNRANKED), styles=1, count=6), promised=5) == [5]


def test_a_good_picture_waits_until_no_better_one_can_take_its_place() -> None:
    """Of six shots five are promised: with one other picture that is no better, it is certain."""
    assert choose(pack(kept(s1=GOOD), styles=1, count=6), promised=5) == []
    assert choose(pack(kept(s1=GOOD, s2=GOOD), styles=1, count=6), promised=5) == [1]
    assert choose(pack(kept(s1=FAIR, s2=GOOD), styles=1, count=6), promised=5) == [2]


def test_without_spares_every_picture_is_delivered_at_once() -> None:
    assert choose(pack(kept(s3=6), styles=1, count=3), promised=3) == [3]


def test_the_worst_of_a_style_is_left_when_all_are_there() -> None:
    all_kept = kept(s1=GOOD, s2=FAIR, s3=GOOD, s4=STRONG)

    assert choose(pack(all_kept, styles=1, count=4), promised=3) == [4, 1, 3]


def test_a_style_keeps_its_places_against_better_pictures_of_another() -> None:
    """Indexes 1, 3, 5 are of one style and all fair, 2, 4, 6 of another and all good; four are promised."""
    all_kept = kept(s1=FAIR, s3=FAIR, s5=FAIR, s2=GOOD, s4=GOOD, s6=GOOD)

    assert sorted(choose(pack(all_kept, styles=2, count=6), promised=4)) == [1, 2, 3, 4]


def test_places_that_a_style_cannot_fill_go_to_the_best_of_the_others() -> None:
    failed = dict.fromkeys((1, 3, 5), (ShotState.FAILED, 0))
    all_kept = kept(s2=GOOD, s4=FAIR, s6=GOOD)

    assert choose(pack(failed | all_kept, styles=2, count=6), promised=4) == [2, 6, 4]


def test_a_spare_does_not_fill_in_for_another_style_while_that_may_still_come() -> None:
    open_and_kept = kept(s2=STRONG, s4=STRONG, s6=STRONG)

    assert choose(pack(open_and_kept, styles=2, count=6), promised=4) == [2, 4]


@pytest.mark.parametrize("seed", range(200))
def test_whatever_comes_when_no_more_than_promised_is_delivered_and_nothing_is_withheld(seed: int) -> None:
    """Played to its end, the choice has the best of each style, and every place that could be filled is."""
    dice = random.Random(seed)
    promised, spares, styles = dice.randint(1, 12), dice.randint(0, 5), dice.randint(1, 4)
    count = promised + spares
    states: dict[int, tuple[ShotState, int]] = {}
    for index in dice.sample(range(1, count + 1), count):
        passed = dice.random() < 0.8
        states[index] = (ShotState.KEPT, dice.randint(1, 6)) if passed else (ShotState.FAILED, 0)
        for shot in choose(pack(states, styles=styles, count=count), promised):
            states[shot] = (ShotState.DONE, states[shot][1])
        assert sum(state == ShotState.DONE for state, _ in states.values()) <= promised

    done = {index for index, (state, _) in states.items() if state == ShotState.DONE}
    left = {index for index, (state, _) in states.items() if state == ShotState.KEPT}
    assert len(done) == min(promised, len(done | left))
    places = Counter(index % styles for index in range(1, promised + 1))
    for style, share in places.items():
        passed_ranks = sorted(states[i][1] for i in done | left if i % styles == style)
        done_ranks = sorted(states[i][1] for i in done if i % styles == style)
        assert done_ranks[:share] == passed_ranks[:share]
