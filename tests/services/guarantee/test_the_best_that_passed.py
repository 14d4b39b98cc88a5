"""The promised number that passed: which pictures are delivered, in which order, and what is kept of it."""

from collections import Counter
from collections.abc import Callable

import pytest
from django.db import DatabaseError
from django.utils import timezone

from headshots.models import Order, Payment, Refund, Shot, StoredObject
from headshots.services import payments, progress
from headshots.services.orders import Placed
from headshots.states import OrderState, ShotState
from headshots.vault.envelope import Kind
from pipelines import gate
from tests.services.guarantee.conftest import PROMISED, SPARES, JudgedEngine, archive_of, states

pytestmark = pytest.mark.slow


def assert_only_right_ones_and_each_once(order: Order, engine: JudgedEngine, count: int) -> None:
    delivered = list(Shot.objects.filter(order=order, state=ShotState.DONE))
    assert len(delivered) == count
    assert {shot.seed for shot in delivered} <= engine.right
    assert len({shot.seed for shot in delivered}) == count
    pictures = [name for name in archive_of(order).namelist() if name.endswith(".jpg")]
    assert len(set(pictures)) == len(pictures) == count
    contents = {archive_of(order).read(name) for name in pictures}
    assert len(contents) == count
    assert len(engine.rendered) == len(set(engine.rendered))


@pytest.mark.django_db
def test_an_engine_that_draws_the_wrong_face_in_three_of_ten_delivers_fifty_right_ones(
    pack_order: Order, rendered_by: Callable[[JudgedEngine], JudgedEngine]
) -> None:
    engine = rendered_by(JudgedEngine(0.3))

    order = Order.objects.get()
    assert order.state == OrderState.READY
    assert_only_right_ones_and_each_once(order, engine, PROMISED)
    assert engine.wrong_count == 21
    assert states() == {"done": 50, "failed": 1, "surplus": 9}
    assert not Refund.objects.exists()
    per_style = Counter(
        Shot.objects.filter(state=ShotState.DONE).values_list("style_version__style__slug", flat=True)
    )
    assert sorted(per_style.values()) == [6, 6, 6, 6, 6, 6, 7, 7]


@pytest.mark.django_db
def test_an_engine_that_draws_the_wrong_face_in_seven_of_ten_delivers_the_rest_and_refunds_to_the_cent(
    pack_order: Order, rendered_by: Callable[[JudgedEngine], JudgedEngine]
) -> None:
    engine = rendered_by(JudgedEngine(0.7))

    order = Order.objects.get()
    assert order.state == OrderState.READY
    assert_only_right_ones_and_each_once(order, engine, 39)
    assert states() == {"done": 39, "failed": 21}
    assert [refund.amount_cents for refund in Refund.objects.all()] == [418]  # 11 of 50 at 38 cents
    assert progress.view(order, timezone.now()).failed == 11
    assert payments.refund_missing(order, timezone.now()) == 0


@pytest.mark.django_db
@pytest.mark.parametrize(("wrong_share", "delivered"), [(0.3, 3), (0.7, 1)])
def test_a_free_order_gets_what_passed_and_costs_nothing(
    free_order: Order,
    rendered_by: Callable[[JudgedEngine], JudgedEngine],
    wrong_share: float,
    delivered: int,
) -> None:
    engine = rendered_by(JudgedEngine(wrong_share))

    order = Order.objects.get()
    assert order.state == OrderState.READY
    assert_only_right_ones_and_each_once(order, engine, delivered)
    assert Shot.objects.count() == 3
    assert not Payment.objects.exists()


@pytest.mark.django_db
def test_an_engine_whose_every_picture_is_of_somebody_else_delivers_none_and_gives_all_back(
    pack_order: Order, rendered_by: Callable[[JudgedEngine], JudgedEngine]
) -> None:
    engine = rendered_by(JudgedEngine(1.0))

    assert Order.objects.get().state == OrderState.FAILED
    assert engine.wrong_count == 3 * (PROMISED + SPARES)
    assert Refund.objects.get().amount_cents == 1900
    assert StoredObject.objects.exclude(kind=Kind.SELFIE).count() == 0


@pytest.mark.django_db
def test_spares_are_not_made_when_nothing_could_be_better(
    pack_order: Order, rendered_by: Callable[[JudgedEngine], JudgedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = JudgedEngine(0.0)
    monkeypatch.setattr(engine.dice, "uniform", lambda low, high: 0.7)

    rendered_by(engine)

    assert len(engine.rendered) == PROMISED
    assert states() == {"done": 50, "surplus": 10}
    assert Order.objects.get().state == OrderState.READY


@pytest.mark.django_db
def test_page_and_zip_begin_with_the_best_and_take_styles_in_turn(
    pack_order: Order, rendered_by: Callable[[JudgedEngine], JudgedEngine]
) -> None:
    rendered_by(JudgedEngine(0.3))

    order = Order.objects.get()
    view = progress.view(order, timezone.now())
    ranks = [Shot.objects.get(order=order, index=shot.index).rank for shot in view.shots]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == 3
    assert [shot.place for shot in view.shots] == list(range(1, 51))
    best = [shot.style for shot, rank in zip(view.shots, ranks, strict=True) if rank == ranks[0]]
    style_count = len(set(best))
    assert style_count >= 7
    assert len(set(best[:style_count])) == style_count
    assert [name for name in archive_of(order).namelist() if name.endswith(".jpg")] == [
        f"headshot-{shot.place:02d}-{shot.style}.jpg" for shot in view.shots
    ]


@pytest.mark.django_db
def test_what_is_kept_of_the_judgement_is_a_word_and_a_coarse_rank(
    pack_order: Order, rendered_by: Callable[[JudgedEngine], JudgedEngine]
) -> None:
    rendered_by(JudgedEngine(0.3))

    words = {1: "strong likeness", 3: "good likeness", 5: "fair likeness"}
    made = Shot.objects.filter(render_seconds__isnull=False)
    assert {shot.rank for shot in made} == set(words)
    assert all(shot.likeness == words[shot.rank] for shot in made)
    view = progress.view(Order.objects.get(), timezone.now())
    assert {shot.likeness for shot in view.shots} == set(words.values())


@pytest.mark.django_db
@pytest.mark.parametrize("finer", [{"likeness": "0.7312"}, {"rank": gate.LOWEST_RANK + 1}])
def test_the_database_takes_no_finer_judgement(placed: Placed, finer: dict[str, object]) -> None:
    with pytest.raises(DatabaseError):
        Shot.objects.update(**finer)
