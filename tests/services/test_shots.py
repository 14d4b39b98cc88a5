"""The queue: claims, leases, fences, late workers, and what the sweep mends."""

import dataclasses
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.db import DatabaseError
from django.utils import timezone

from headshots.models import Order, Shot, StoredObject
from headshots.services import claiming, fencing, objects, orders, purge, queue_clock, shots
from headshots.services.orders import Placed
from headshots.states import OrderState, ShotState
from headshots.vault.envelope import Kind
from pipelines.types import FailedShot
from tests.rendered import rendered

pytestmark = [pytest.mark.django_db, pytest.mark.slow]
MINUTE = timedelta(minutes=1)


@pytest.fixture
def queued(placed: Placed) -> Order:
    """A free order whose three shots wait for a worker."""
    orders.accept(placed.order, timezone.now())
    return Order.objects.get()


def failure(claimed: claiming.Claim, *, is_retryable: bool) -> FailedShot:
    return FailedShot(shot_id=str(claimed.shot.pk), code="engine_error", is_retryable=is_retryable)


def stored_names() -> list[str]:
    return sorted(objects.blobs().list("o/"))


def test_a_claim_leases_the_shot_and_starts_the_order(queued: Order, now: datetime) -> None:
    (claimed,) = claiming.claim("worker-1", 1, now)

    shot = Shot.objects.get(pk=claimed.shot.pk)
    assert (shot.index, shot.state, shot.attempts, shot.lease_token) == (1, ShotState.LEASED, 1, 1)
    assert shot.lease_until == now + timedelta(seconds=60)
    assert Order.objects.get().state == OrderState.RENDERING


def test_two_workers_never_hold_one_shot(queued: Order, now: datetime) -> None:
    first = claiming.claim("worker-1", 2, now)
    second = claiming.claim("worker-2", 2, now)

    assert [c.shot.index for c in first] == [1, 2]
    assert [c.shot.index for c in second] == [3]
    assert claiming.claim("worker-3", 2, now) == []


def test_three_free_pictures_do_not_wait_for_a_pack_of_fifty(
    place: Callable[..., Placed], now: datetime
) -> None:
    pack, free = place(tier_slug="premium", now=now - MINUTE).order, place(now=now).order
    for order in (pack, free):
        Order.objects.filter(pk=order.pk).update(state=OrderState.QUEUED)
        queue_clock.enter(order, now)

    claimed = claiming.claim("worker", 6, now)

    assert [(c.shot.order_id == pack.pk, c.shot.index) for c in claimed] == [
        *((False, index) for index in (1, 2, 3)),
        *((True, index) for index in (1, 2, 3)),
    ]


def test_a_delivered_picture_is_sealed_and_readable(queued: Order, now: datetime) -> None:
    (claimed,) = claiming.claim("worker", 1, now)

    assert shots.commit(claimed, rendered(claimed, b"the picture", seconds=1.5), now)

    shot = Shot.objects.select_related("headshot__order", "preview__order").get(pk=claimed.shot.pk)
    assert shot.state == ShotState.DONE
    assert shot.headshot is not None
    assert shot.preview is not None
    assert objects.read(shot.headshot, now) == b"the picture"
    assert objects.read(shot.preview, now) == b"a small picture"
    assert (shot.width, shot.height, shot.render_seconds) == (896, 1152, 1.5)


def test_the_order_is_ready_when_its_last_shot_is_delivered(queued: Order, now: datetime) -> None:
    for claimed in claiming.claim("worker", 3, now):
        assert Order.objects.get().state == OrderState.RENDERING
        shots.commit(claimed, rendered(claimed), now)

    assert Order.objects.get().state == OrderState.READY


def test_a_lost_lease_is_claimed_again_and_a_late_worker_leaves_nothing(queued: Order, now: datetime) -> None:
    (late,) = claiming.claim("worker-1", 1, now)
    (second,) = claiming.claim("worker-2", 1, now + 2 * MINUTE)
    assert second.shot.pk == late.shot.pk
    shots.commit(second, rendered(second, b"the second"), now + 2 * MINUTE)
    before = stored_names()

    assert not shots.commit(late, rendered(late, b"the late one"), now + 3 * MINUTE)

    assert stored_names() == before
    shot = Shot.objects.select_related("headshot__order").get(pk=late.shot.pk)
    assert shot.headshot is not None
    assert objects.read(shot.headshot, now) == b"the second"


def test_a_heartbeat_keeps_the_lease(queued: Order, now: datetime) -> None:
    claiming.claim("worker-1", 3, now)

    kept = claiming.extend("worker-1", now + MINUTE / 2)

    assert kept == 3
    assert claiming.claim("worker-2", 3, now + MINUTE) == []


def test_a_commit_after_the_purge_leaves_no_object(queued: Order, now: datetime) -> None:
    (claimed,) = claiming.claim("worker", 1, now)
    fencing.begin(queued, reason="customer", now=now)
    purge.erase_contents(queued, now)

    assert not shots.commit(claimed, rendered(claimed), now)

    assert stored_names() == []
    assert claiming.wanted([claimed]) == set()


def test_a_store_that_fails_leaves_the_shot_with_its_worker(
    queued: Order, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    (claimed,) = claiming.claim("worker", 1, now)
    before = stored_names()

    def refuse(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(objects.blobs(), "put", refuse)
    with pytest.raises(OSError, match="disk full"):
        shots.commit(claimed, rendered(claimed), now)

    assert stored_names() == before
    assert StoredObject.objects.filter(kind=Kind.HEADSHOT).count() == 0
    assert Shot.objects.get(pk=claimed.shot.pk).state == ShotState.LEASED


def test_a_retryable_failure_waits_five_seconds(queued: Order, now: datetime) -> None:
    claimed = claiming.claim("worker", 3, now)[0]

    shots.fail(claimed, failure(claimed, is_retryable=True), now)

    assert claiming.claim("worker", 1, now + timedelta(seconds=4)) == []
    assert [c.shot.pk for c in claiming.claim("worker", 1, now + timedelta(seconds=5))] == [claimed.shot.pk]


def test_the_third_failure_is_final(queued: Order, now: datetime) -> None:
    at = now
    for _ in range(3):
        claimed = claiming.claim("worker", 1, at)[0]
        Shot.objects.exclude(pk=claimed.shot.pk).update(not_before=now + timedelta(hours=1))
        shots.fail(claimed, failure(claimed, is_retryable=True), at)
        at += timedelta(seconds=5)

    shot = Shot.objects.get(index=1)
    assert (shot.state, shot.attempts, shot.error_code) == (ShotState.FAILED, 3, "engine_error")


def test_a_final_failure_is_not_tried_again(queued: Order, now: datetime) -> None:
    claimed = claiming.claim("worker", 3, now)
    for one in claimed[:2]:
        shots.commit(one, rendered(one), now)

    shots.fail(claimed[2], failure(claimed[2], is_retryable=False), now)

    assert Shot.objects.get(index=3).state == ShotState.FAILED
    assert Order.objects.get().state == OrderState.READY


def test_a_worker_that_stops_gives_back_what_it_holds(queued: Order, now: datetime) -> None:
    claiming.claim("worker-1", 2, now)

    assert claiming.release("worker-1") == 2

    assert set(Shot.objects.values_list("state", "attempts")) == {("pending", 0)}


def test_nothing_new_starts_shortly_before_the_end(queued: Order) -> None:
    assert claiming.claim("worker", 3, queued.expires_at - timedelta(minutes=2)) == []


def test_a_retry_uses_the_same_seeds(queued: Order, now: datetime) -> None:
    first = claiming.claim("worker-1", 1, now)[0].seeds
    again = claiming.claim("worker-2", 1, now + 2 * MINUTE)[0].seeds

    assert first == again
    assert len(set(first)) == 3
    assert all(0 <= seed < 2**63 for seed in first)


def test_the_sweep_sends_lost_hints_again(
    placed: Placed,
    sent: list[tuple[str, tuple[str, ...]]],
    now: datetime,
    django_capture_on_commit_callbacks: Callable[..., object],
) -> None:
    with django_capture_on_commit_callbacks(execute=True):  # type: ignore[attr-defined]
        swept = shots.sweep(now + MINUTE)

    assert dataclasses.astuple(swept) == (1, 0, 0, 0)
    assert sent == [("headshots.assess", (str(placed.order.pk),))]


def test_the_sweep_wakes_workers_for_waiting_shots(queued: Order, now: datetime) -> None:
    assert shots.sweep(now + MINUTE).render_hints == 3


def test_a_shot_that_killed_three_workers_is_given_up(queued: Order, now: datetime) -> None:
    for minute in (0, 2):
        assert len(claiming.claim("doomed", 3, now + minute * MINUTE)) == 3
    for alone in ("first", "second", "third"):
        assert len(claiming.claim(alone, 3, now + 4 * MINUTE)) == 1

    swept = shots.sweep(now + 6 * MINUTE)

    assert swept.given_up == 3
    assert set(Shot.objects.values_list("state", "error_code")) == {("failed", "worker_lost")}
    assert Order.objects.get().state == OrderState.FAILED


def test_a_photo_that_killed_three_assessments_is_refused(placed: Placed, now: datetime) -> None:
    for minute in (0, 2, 4):
        assert orders.begin_assessment(placed.order.pk, now + minute * MINUTE) is not None

    shots.sweep(now + 6 * MINUTE)

    order = Order.objects.get()
    assert (order.state, order.refusal_code) == (OrderState.REFUSED, "photo_unusable")
    assert stored_names() == []


def test_an_upload_that_died_half_way_is_erased(placed: Placed, now: datetime) -> None:
    placed.order.selfies.all().delete()

    assert shots.sweep(now + MINUTE).abandoned == 0
    assert shots.sweep(now + 3 * MINUTE).abandoned == 1

    assert Order.objects.get().state == OrderState.PURGING


def test_an_order_whose_last_step_was_lost_is_closed_by_the_sweep(queued: Order, now: datetime) -> None:
    Order.objects.update(state=OrderState.RENDERING)
    Shot.objects.update(state=ShotState.DONE)

    shots.sweep(now)

    assert Order.objects.get().state == OrderState.READY


def test_the_database_refuses_a_lease_without_an_end(queued: Order) -> None:
    with pytest.raises(DatabaseError):
        Shot.objects.update(state=ShotState.LEASED, lease_until=None)
