"""The promised number that passed: which pictures are delivered, what is deleted, and what is paid back."""

import io
import random
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from django.db import DatabaseError, connection, connections
from django.utils import timezone
from PIL import Image

from headshots import faults, tasks
from headshots.exceptions import Refusal
from headshots.models import Order, OrderKey, Payment, Receipt, Refund, Shot, StoredObject
from headshots.services import (
    claiming,
    delivery,
    guarantee,
    objects,
    orders,
    payments,
    progress,
    purge,
    shots,
    uploads,
)
from headshots.services.orders import Placed
from headshots.states import OrderState, ShotState
from headshots.tiers import TIERS
from headshots.vault.envelope import Kind
from pipelines import gate
from pipelines.gate import Thresholds
from pipelines.provenance import SourceType, mark
from pipelines.types import Cancelled, FailedShot, FinishedShot, QualityReport, ShotRequest, Sink, Source
from tests.paying import pay

PROMISED, SPARES = TIERS["premium"].headshots, TIERS["premium"].spares


# --- engines behind the real protocol -----------------------------------------------------------------------


def jpeg_of(seed: int) -> bytes:
    """A small picture that no other seed has."""
    out = io.BytesIO()
    Image.frombytes("RGB", (16, 16), random.Random(seed).randbytes(16 * 16 * 3)).save(out, "JPEG")
    return mark(out.getvalue(), SourceType.GENERATED)


class JudgedEngine:
    """Draws the face of somebody else in a share of its pictures; the product's gate judges each of them."""

    name = "judged"
    proof: Mapping[str, str] = {}

    def __init__(self, wrong_share: float, *, best_similarity: float = 0.75) -> None:
        self.wrong_share = wrong_share
        self.best_similarity = best_similarity
        self.dice = random.Random(2026)
        self.right: set[int] = set()  # seeds
        self.wrong_count = 0
        self.rendered: list[str] = []

    def run(self, source: Source, sink: Sink, cancelled: Cancelled) -> None:
        """Render one shot at a time, each from its seeds in order until one passes."""
        while requests := source(1):
            for request in requests:
                if not cancelled(request.shot_id):
                    sink(self._shot(request))

    def _shot(self, request: ShotRequest) -> FinishedShot | FailedShot:
        self.rendered.append(request.shot_id)
        for seed in request.seeds:
            is_wrong = self.dice.random() < self.wrong_share
            similarity = 0.1 if is_wrong else self.dice.uniform(0.42, self.best_similarity)
            report = judged(similarity)
            if report.problems:
                self.wrong_count += 1
                continue
            self.right.add(seed)
            return finished(request.shot_id, seed, report)
        return FailedShot(shot_id=request.shot_id, code="quality_gate", is_retryable=False)


def judged(similarity: float) -> QualityReport:
    """What the gate says of a picture with one face, sharp and of natural skin."""
    bounds = Thresholds()
    measures = {"faces": 1.0, "similarity": similarity, "sharpness": 200.0, "skin_texture": 1.0}
    if problems := gate.problems(measures, bounds):
        return QualityReport(measures=measures, problems=problems)
    return QualityReport(
        measures=measures, likeness=gate.likeness(similarity, bounds), rank=gate.rank(measures, bounds)
    )


def finished(shot_id: str, seed: int, report: QualityReport) -> FinishedShot:
    return FinishedShot(
        shot_id=shot_id,
        seed=seed,
        jpeg=jpeg_of(seed),
        preview_jpeg=jpeg_of(seed + 1),
        width=16,
        height=16,
        report=report,
        seconds=0.5,
    )


@pytest.fixture(autouse=True)
def _no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a photo looks like is no matter here."""
    monkeypatch.setattr(uploads, "clean_portrait_in_sandbox", lambda raw, **options: raw)


@pytest.fixture
def rendered_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[JudgedEngine], JudgedEngine]:
    """Let a worker with that engine drain the queue, and then look again, as a second hint would."""

    def render(engine: JudgedEngine) -> JudgedEngine:
        monkeypatch.setattr(tasks, "_engine", lambda: engine)
        tasks.render()
        shots.sweep(timezone.now())
        tasks.render()
        return engine

    return render


@pytest.fixture
def pack_order(place: Callable[..., Placed], now: datetime) -> Order:
    """A paid premium order whose shots wait for a worker."""
    order = place(tier_slug="premium").order
    orders.accept(order, now)
    pay(Order.objects.get(), now)
    return Order.objects.get()


@pytest.fixture
def free_order(placed: Placed, now: datetime) -> Order:
    """A free order whose shots wait for a worker."""
    orders.accept(placed.order, now)
    return Order.objects.get()


def archive_of(order: Order) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(b"".join(delivery.stream_archive(order, timezone.now()))))


def states() -> Counter[str]:
    return Counter(Shot.objects.values_list("state", flat=True))


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


# --- the best first -----------------------------------------------------------------------------------------


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


# --- what is not needed -------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_picture_that_is_not_needed_is_deleted_at_once_and_was_never_shown(
    pack_order: Order, rendered_by: Callable[[JudgedEngine], JudgedEngine]
) -> None:
    rendered_by(JudgedEngine(0.0))

    surplus = list(Shot.objects.filter(state=ShotState.SURPLUS))
    assert len(surplus) == SPARES
    made = [shot for shot in surplus if shot.render_seconds is not None]
    assert len(made) == SPARES
    order = Order.objects.get()
    assert {(shot.headshot_id, shot.preview_id) for shot in surplus} == {(None, None)}
    for shot in surplus:
        with pytest.raises(Refusal, match="headshot_not_found"):
            delivery.open_headshot(order, shot.index, Kind.HEADSHOT, timezone.now())
    assert len(list(objects.blobs().list("o/"))) == 1 + 2 * PROMISED
    deleted = StoredObject.objects.filter(state=StoredObject.State.DELETED)
    assert deleted.count() == 2 * len(made)
    assert OrderKey.objects.count() == 2


@pytest.mark.django_db
def test_the_receipt_counts_every_picture_that_was_ever_stored(
    pack_order: Order,
    rendered_by: Callable[[JudgedEngine], JudgedEngine],
    purge_all: Callable[[], None],
) -> None:
    rendered_by(JudgedEngine(0.0))
    made = Shot.objects.filter(render_seconds__isnull=False).count()

    purge.request(Order.objects.get(), actor="customer", now=timezone.now())
    purge_all()

    assert f"headshots={made} previews={made}" in Receipt.objects.get().text
    assert set(Shot.objects.values_list("likeness", "rank")) == {("", 0)}


@pytest.fixture
def failing_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Lets the process stumble at a point, once; without an argument, at none."""

    def stumble(point: str) -> None:
        monkeypatch.setenv(faults.VARIABLE, f"{point}=raise" if point else "")
        faults.read_environment()

    yield stumble
    monkeypatch.delenv(faults.VARIABLE)
    faults.read_environment()


@pytest.mark.django_db
@pytest.mark.parametrize("point", ["settle.decided", "surplus.erasing", "surplus.erased"])
def test_a_worker_that_stumbles_over_a_decision_leaves_it_to_the_sweep(
    free_order: Order, now: datetime, failing_at: Callable[[str], None], point: str
) -> None:
    claims = claiming.claim("worker", 3, now)
    Order.objects.update(headshots=2)  # the third is a spare
    for claimed in claims[:2]:
        shots.commit(claimed, finished(str(claimed.shot.pk), claimed.seeds[0], judged(0.55)), now)
    failing_at(point)
    try:
        shots.commit(claims[2], finished(str(claims[2].shot.pk), claims[2].seeds[0], judged(0.45)), now)
    except faults.InjectedFault:
        assert point == "settle.decided"
    failing_at("")

    shots.sweep(now)

    assert [shot.state for shot in Shot.objects.order_by("index")] == ["done", "done", "surplus"]
    assert Order.objects.get().state == OrderState.READY
    assert len(list(objects.blobs().list("o/"))) == 1 + 2 * 2
    assert StoredObject.objects.filter(state=StoredObject.State.DELETED).count() == 2


@pytest.mark.django_db
def test_a_spare_that_is_still_being_made_is_called_off_and_its_late_picture_leaves_nothing(
    free_order: Order, now: datetime
) -> None:
    claims = claiming.claim("worker", 3, now)
    Order.objects.update(headshots=2)
    for claimed in claims[:2]:
        shots.commit(claimed, finished(str(claimed.shot.pk), claimed.seeds[0], judged(0.7)), now)
    before = sorted(objects.blobs().list("o/"))

    assert claiming.wanted(claims) == set()
    late = claims[2]
    assert not shots.commit(late, finished(str(late.shot.pk), late.seeds[0], judged(0.7)), now)

    assert sorted(objects.blobs().list("o/")) == before
    assert [shot.state for shot in Shot.objects.order_by("index")] == ["done", "done", "surplus"]
    assert not StoredObject.objects.filter(state=StoredObject.State.INTENDED).exists()


@pytest.mark.skipif(
    connection.vendor != "postgresql", reason="SQLite has one writer: infra/dev test runs this on Postgres"
)
@pytest.mark.django_db(transaction=True)
def test_workers_that_finish_at_once_deliver_the_promised_number_and_no_more(
    pack_order: Order, now: datetime
) -> None:
    def commit(claimed: claiming.Claim) -> bool:
        report = judged((0.45, 0.55, 0.7)[claimed.shot.index % 3])
        try:
            return shots.commit(claimed, finished(str(claimed.shot.pk), claimed.seeds[0], report), now)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as workers:
        list(workers.map(commit, claiming.claim("worker", PROMISED + SPARES, now)))
    shots.sweep(now)

    assert states() == {"done": PROMISED, "surplus": SPARES}
    assert Order.objects.get().state == OrderState.READY
    assert len(list(objects.blobs().list("o/"))) == 1 + 2 * PROMISED
    assert not Refund.objects.exists()


# --- the deadline -------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_at_its_deadline_an_order_gets_what_is_there_and_the_rest_back(
    pack_order: Order, now: datetime
) -> None:
    """Twelve pictures are made, seven of them certain; then every worker dies."""
    for number, claimed in enumerate(claiming.claim("worker", 12, now)):
        report = judged(0.7 if number < 7 else 0.55)
        shots.commit(claimed, finished(str(claimed.shot.pk), claimed.seeds[0], report), now)
    claiming.claim("worker", 3, now)
    before = states()
    deadline = pack_order.expires_at - guarantee.DEADLINE

    shots.sweep(deadline)

    assert before["kept"] > 0
    order = Order.objects.get()
    assert order.state == OrderState.READY
    assert states() == {"done": 12, "failed": 48}
    assert Refund.objects.get().amount_cents == 1444  # 38 of 50 at 38 cents
    assert set(Shot.objects.filter(state=ShotState.FAILED).values_list("error_code", flat=True)) == {
        "deadline"
    }
    assert orders.retry_failed(order, actor="anna", now=deadline) == 0


@pytest.mark.django_db
def test_an_order_that_nobody_began_is_paid_back_at_its_deadline(pack_order: Order) -> None:
    shots.sweep(pack_order.expires_at - guarantee.DEADLINE)

    assert Order.objects.get().state == OrderState.FAILED
    assert Refund.objects.get().amount_cents == 1900
    assert claiming.claim("worker", 1, pack_order.expires_at - guarantee.DEADLINE) == []


# --- money --------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_downloading_voids_nothing(
    pack_order: Order, rendered_by: Callable[[JudgedEngine], JudgedEngine], now: datetime
) -> None:
    """All that came is downloaded before the end; what is missing comes back all the same, and more."""
    claimed = claiming.claim("worker", 1, now)[0]
    shots.commit(claimed, finished(str(claimed.shot.pk), claimed.seeds[0], judged(0.7)), now)
    delivery.open_headshot(pack_order, claimed.shot.index, Kind.HEADSHOT, now)
    assert len(archive_of(pack_order).namelist()) == 2

    rendered_by(JudgedEngine(0.7))
    order = Order.objects.get()
    delivered = Shot.objects.filter(state=ShotState.DONE).count()
    archive_of(order)

    assert delivered == 40
    assert Refund.objects.get().amount_cents == (50 - delivered) * 38
    assert payments.refund(order, pictures=[claimed.shot.index], actor="anna", now=timezone.now()) == 38
    assert payments.refund(order, actor="anna", now=timezone.now()) == 39 * 38


@pytest.mark.django_db
def test_a_delivered_spare_has_its_price_and_the_shot_it_stands_in_for_has_none(
    pack_order: Order, now: datetime
) -> None:
    Order.objects.update(state=OrderState.RENDERING)
    Shot.objects.filter(index__in=(7, 8)).update(state=ShotState.FAILED, error_code="quality_gate")
    Shot.objects.filter(index__gt=51).update(state=ShotState.FAILED, error_code="quality_gate")
    Shot.objects.exclude(state=ShotState.FAILED).update(state=ShotState.DONE)

    orders.finish(pack_order.pk, now)  # 49 pictures, one of them the spare 51

    assert [(refund.amount_cents, refund.pictures) for refund in Refund.objects.all()] == [(38, [7])]
    with pytest.raises(Refusal, match="headshot_not_found"):
        payments.refund(pack_order, pictures=[8], actor="anna", now=now)
    assert payments.refund(pack_order, pictures=[51], actor="anna", now=now) == 38
    assert payments.refund(pack_order, actor="anna", now=now) == 1900 - 2 * 38


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("promised", "price", "parts"),
    [(3, 1000, [334, 333, 333]), (7, 1000, [143, 143, 143, 143, 143, 143, 142]), (50, 1900, [38] * 50)],
)
def test_parts_are_rounded_for_the_customer_and_never_sum_to_more_than_the_price(
    pack_order: Order, now: datetime, promised: int, price: int, parts: list[int]
) -> None:
    Order.objects.update(state=OrderState.READY, headshots=promised)
    Payment.objects.update(amount_cents=price)
    Shot.objects.filter(index__lte=promised).update(state=ShotState.DONE)
    Shot.objects.filter(index__gt=promised).update(state=ShotState.SURPLUS)
    order = Order.objects.get()

    given = [
        payments.refund(order, pictures=[index], actor="anna", now=now) for index in range(1, promised + 1)
    ]

    assert given == parts
    assert sum(given) == price
    with pytest.raises(Refusal, match="not_refundable"):
        payments.refund(order, actor="anna", now=now)
