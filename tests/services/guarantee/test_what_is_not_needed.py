"""Pictures that are not needed are called off or deleted at once, whoever dies or comes late."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from django.db import connection, connections
from django.utils import timezone

from headshots import faults
from headshots.exceptions import Refusal
from headshots.models import Order, OrderKey, Receipt, Refund, Shot, StoredObject
from headshots.services import claiming, delivery, objects, purge, shots
from headshots.states import OrderState, ShotState
from headshots.vault.envelope import Kind
from tests.services.guarantee.conftest import PROMISED, SPARES, JudgedEngine, finished, judged, states

pytestmark = pytest.mark.slow


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
