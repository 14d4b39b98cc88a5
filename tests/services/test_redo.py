"""Redo: one picture made again, the old one kept until the new one is chosen, and nothing else changed."""

import dataclasses
import io
import json
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connections
from django.db.models import F
from pytest_django import DjangoCaptureOnCommitCallbacks

from headshots.exceptions import NotFound, Refusal
from headshots.hints import Task
from headshots.models import (
    AuditEntry,
    Dispute,
    Mail,
    Order,
    OrderKey,
    Payment,
    Receipt,
    Refund,
    Shot,
    StoredObject,
    Style,
)
from headshots.services import (
    claiming,
    clock,
    delivery,
    export,
    guarantee,
    objects,
    orders,
    payments,
    progress,
    purge,
    queue_clock,
    redo,
    shots,
    staff_refunds,
    styles,
    uploads,
    verification,
)
from headshots.services.orders import Placed
from headshots.services.progress import RedoView
from headshots.states import OrderState, ShotState
from headshots.tiers import TIERS
from headshots.vault.envelope import Kind
from pipelines.gate import LOWEST_RANK
from pipelines.types import FailedShot, FinishedShot, QualityReport

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a photo looks like is no matter here."""
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)


@pytest.fixture
def ready(place: Callable[..., Placed], now: datetime) -> Order:
    """A free order with an address, whose three pictures were delivered at `now`."""
    order = place(address="ada@example.org", now=now).order
    orders.accept(order, now)
    commit_all(now)
    return Order.objects.get()


@pytest.fixture
def pack(place: Callable[..., Placed], now: datetime) -> Order:
    """A paid premium order of which fifty pictures were delivered at `now`; they have no files."""
    order = place(tier_slug="premium", now=now).order
    orders.accept(order, now)
    payments.confirm_test_payment(Order.objects.get(pk=order.pk), now)
    delivered = Shot.objects.filter(order=order, index__lte=order.headshots)
    delivered.update(state=ShotState.DONE)
    orders.finish(order.pk, now)
    found = Order.objects.get(pk=order.pk)
    assert (found.state, found.finished_at) == (OrderState.READY, now)
    return found


def commit_all(now: datetime, *, rank: int = 0) -> None:
    """A worker makes everything that waits."""
    for claimed in claiming.claim("worker", 100, now):
        assert shots.commit(claimed, picture(claimed, rank=rank), now)


def picture(claimed: claiming.Claim, *, rank: int = 0) -> FinishedShot:
    return FinishedShot(
        shot_id=str(claimed.shot.pk),
        seed=claimed.seeds[0],
        jpeg=jpeg_of(claimed.shot.index),
        preview_jpeg=b"small %d" % claimed.shot.index,
        width=896,
        height=1152,
        report=QualityReport(measures={}, rank=rank, likeness="fair likeness" if rank else ""),
        seconds=1.0,
    )


def jpeg_of(index: int) -> bytes:
    return b"picture %d" % index


def fail_one(now: datetime) -> None:
    """The quality gate lets none of a shot's seeds pass."""
    (claimed,) = claiming.claim("worker", 1, now)
    failed = FailedShot(shot_id=str(claimed.shot.pk), code="quality_gate", is_retryable=False)
    shots.fail(claimed, failed, now)


def states(order: Order) -> dict[int, str]:
    """The states of an order's shots by index; of a pack, of its first picture and its redos."""
    found = Shot.objects.filter(order=order).values_list("index", "state")
    return {index: state for index, state in found if index in (1, 2, 3) or index > TIERS[order.tier].planned}


def rows() -> list[Any]:
    """Everything that a refused request could have changed."""
    tables = (Order, Shot, StoredObject, OrderKey, Mail, Payment, Refund, AuditEntry)
    return [list(table.objects.order_by("pk").values()) for table in tables]


def archived(order: Order, now: datetime) -> set[bytes]:
    packed = zipfile.ZipFile(io.BytesIO(b"".join(delivery.stream_archive(order, now))))
    return {packed.read(name) for name in packed.namelist() if name.endswith(".jpg")}


def current(order: Order) -> Order:
    return Order.objects.get(pk=order.pk)


# --- asking -----------------------------------------------------------------------------------------------


def test_a_redo_is_a_new_shot_of_the_same_plan_with_a_fresh_seed(
    ready: Order,
    now: datetime,
    sent: list[tuple[str, tuple[str, ...]]],
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    old = Shot.objects.get(index=2)

    with django_capture_on_commit_callbacks(execute=True):
        redo.ask(ready, 2, now + MINUTE)

    new = Shot.objects.get(index=4)
    assert (new.replaces, new.style_version, new.state) == (old, old.style_version, ShotState.PENDING)
    assert new.seed == orders.seeds_of(ready, old.style_version_id, 4)[0]
    assert new.seed not in Shot.objects.exclude(index=4).values_list("seed", flat=True)
    assert (new.work, new.not_before) == (old.work, now + MINUTE)
    assert current(ready).state == OrderState.QUEUED
    assert sent == [(Task.RENDER, ())]
    entry = AuditEntry.objects.get(event="redo.asked")
    assert (entry.actor, entry.reference) == ("customer", ready.receipt_id)
    assert entry.detail == {"picture": 2, "redo": 4}


def test_a_worker_makes_it_from_seeds_that_no_other_picture_has(ready: Order, now: datetime) -> None:
    redo.ask(ready, 2, now)

    (claimed,) = claiming.claim("worker", 8, now)

    used = {seed for shot in Shot.objects.filter(index__lte=3) for seed in seeds_of(shot)}
    assert (claimed.shot.index, len(claimed.seeds)) == (4, 3)
    assert not used & set(claimed.seeds)


def seeds_of(shot: Shot) -> tuple[int, ...]:
    return orders.seeds_of(shot.order, shot.style_version_id, shot.index)


def test_a_redo_queues_behind_who_came_before_and_moves_nobodys_place(
    ready: Order, place: Callable[..., Placed], now: datetime
) -> None:
    earlier, later = place(now=now).order, place(now=now).order
    orders.accept(earlier, now)
    before = dict(Shot.objects.values_list("pk", "virtual_finish"))

    redo.ask(ready, 1, now)
    orders.accept(later, now)

    of_before = Shot.objects.filter(pk__in=before).exclude(order=later)
    assert of_before.count() == 6
    for pk, virtual_finish in of_before.values_list("pk", "virtual_finish"):
        assert virtual_finish == before[pk]
    assert [claimed.shot.order_id for claimed in claiming.claim("worker", 7, now)] == [
        *[earlier.pk] * 3,
        ready.pk,
        *[later.pk] * 3,
    ]


def test_the_order_is_ready_again_when_the_last_redo_is_made(pack: Order, now: datetime) -> None:
    later = now + MINUTE
    redo.ask(pack, 1, later)
    redo.ask(pack, 2, later)
    first, second = claiming.claim("worker", 2, later)
    assert current(pack).state == OrderState.RENDERING
    redo.ask(pack, 3, later)

    shots.commit(second, picture(second), later)
    shots.commit(first, picture(first), later)
    assert current(pack).state == OrderState.RENDERING
    commit_all(later)

    assert current(pack).state == OrderState.READY
    assert states(pack) == {1: "done", 2: "done", 3: "done", 61: "kept", 62: "kept", 63: "kept"}


# --- what it leaves as it was -------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, LOWEST_RANK])
def test_a_redo_that_passed_waits_for_the_choice_whatever_its_rank(
    ready: Order, now: datetime, rank: int
) -> None:
    redo.ask(ready, 2, now)
    commit_all(now, rank=rank)
    shots.sweep(now)
    orders.finish(ready.pk, now)

    assert states(ready) == {1: "done", 2: "done", 3: "done", 4: "kept"}
    assert archived(ready, now) == {jpeg_of(1), jpeg_of(2), jpeg_of(3)}
    for kind, seen in ((Kind.HEADSHOT, jpeg_of(4)), (Kind.PREVIEW, b"small 4")):
        assert delivery.open_headshot(ready, 4, kind, now) == seen
    assert delivery.place_of(ready, 4) == delivery.place_of(ready, 2) == 2


def test_an_order_that_lacks_pictures_does_not_take_the_redo_for_one_of_them(
    pack: Order, now: datetime
) -> None:
    lost = Shot.objects.filter(order=pack, index__in=(49, 50))
    lost.update(state=ShotState.FAILED, error_code="quality_gate")
    redo.ask(pack, 1, now)
    waiting = progress.view(current(pack), now)
    commit_all(now)

    orders.finish(pack.pk, now)
    made = progress.view(current(pack), now)

    assert states(pack) == {1: "done", 2: "done", 3: "done", 61: "kept"}
    for view in (waiting, made):
        assert (view.done, view.compared, view.failed, view.percent) == (48, 0, 2, 100)


def test_neither_times_nor_mails_nor_counts_change(ready: Order, now: datetime) -> None:
    before = progress.view(ready, now)
    mails = list(Mail.objects.values_list("kind", "created_at"))
    assert Mail.Kind.READY in [kind for kind, _ in mails]

    redo.ask(ready, 2, now + MINUTE)
    waiting = progress.view(current(ready), now)
    commit_all(now + MINUTE)
    made = progress.view(current(ready), now)

    for view in (waiting, made):
        for name in ("headshots", "done", "compared", "failed", "percent", "estimate", "is_delivered"):
            assert getattr(view, name) == getattr(before, name), name
    assert (before.percent, before.is_delivered) == (100, True)
    after = current(ready)
    assert (after.finished_at, after.started_at) == (ready.finished_at, ready.started_at)
    assert list(Mail.objects.values_list("kind", "created_at")) == mails


def test_the_view_says_how_far_a_redo_is(ready: Order, now: datetime) -> None:
    def second() -> tuple[RedoView | None, bool]:
        shot = next(shot for shot in progress.view(current(ready), now).shots if shot.index == 2)
        return shot.redo, shot.can_redo

    assert second() == (None, True)
    redo.ask(ready, 2, now)
    assert second() == (RedoView(index=4, state="waiting", likeness=""), False)
    (claimed,) = claiming.claim("worker", 1, now)
    assert second() == (RedoView(index=4, state="rendering", likeness=""), False)
    shots.commit(claimed, picture(claimed, rank=LOWEST_RANK), now)
    assert second() == (RedoView(index=4, state="ready", likeness="fair likeness"), False)
    view = progress.view(current(ready), now)
    assert [shot.index for shot in view.shots] == [1, 2, 3]
    assert (view.redos_left, view.redo_until, view.photo_until) == (0, now + HOUR, now + HOUR)


def test_no_inspection_finds_anything_about_a_redo_that_waits(ready: Order, now: datetime) -> None:
    redo.ask(ready, 2, now)
    commit_all(now)
    purge.run(clock.now())

    found = {
        finding.code for finding in verification.inspect(clock.now(), is_fixing=True, is_full=True).findings
    }

    assert found <= {"checkpoint_late"}
    assert states(ready)[4] == "kept"


def test_the_export_holds_the_new_picture_and_what_it_replaces(ready: Order, now: datetime) -> None:
    redo.ask(ready, 2, now)
    commit_all(now)

    packed = zipfile.ZipFile(io.BytesIO(b"".join(export.stream(current(ready), now))))

    assert packed.read("headshots/redo-04-corporate.jpg") == jpeg_of(4)
    assert packed.read("previews/redo-04-corporate.jpg") == b"small 4"
    facts = json.loads(packed.read("data.json"))
    assert [shot["replaces"] for shot in facts["shots"]] == [None, None, None, 2]


# --- choosing ---------------------------------------------------------------------------------------------


def test_the_new_one_takes_the_place_of_the_old_one_whose_bytes_are_deleted(
    ready: Order, now: datetime
) -> None:
    redo.ask(ready, 2, now)
    commit_all(now)
    old = Shot.objects.select_related("headshot", "preview").get(index=2)
    names = [objects.name_of(stored).blob_name for stored in (old.headshot, old.preview) if stored]

    redo.keep(ready, 4, now)

    assert states(ready) == {1: "done", 2: "surplus", 3: "done", 4: "done"}
    assert archived(ready, now) == {jpeg_of(1), jpeg_of(4), jpeg_of(3)}
    assert len(names) == 2
    assert not set(names) & set(objects.blobs().list("o/"))
    with pytest.raises(Refusal, match="headshot_not_found"):
        delivery.open_headshot(ready, 2, Kind.HEADSHOT, now)
    entry = AuditEntry.objects.get(event="redo.chosen")
    assert (entry.actor, entry.detail) == ("customer", {"kept": 4, "deleted": 2})
    view = progress.view(current(ready), now)
    assert (view.done, view.failed, sorted(shot.index for shot in view.shots)) == (3, 0, [1, 3, 4])
    assert all(shot.redo is None for shot in view.shots)


def test_the_old_one_stays_and_the_new_one_is_deleted(ready: Order, now: datetime) -> None:
    redo.ask(ready, 2, now)
    commit_all(now)
    before = set(objects.blobs().list("o/"))

    redo.keep(ready, 2, now)

    assert states(ready) == {1: "done", 2: "done", 3: "done", 4: "surplus"}
    assert archived(ready, now) == {jpeg_of(1), jpeg_of(2), jpeg_of(3)}
    assert len(before - set(objects.blobs().list("o/"))) == 2
    assert delivery.open_headshot(ready, 2, Kind.HEADSHOT, now) == jpeg_of(2)


@pytest.mark.parametrize(("first", "second"), [(4, 2), (2, 4)])
def test_a_choice_is_made_once(ready: Order, now: datetime, first: int, second: int) -> None:
    redo.ask(ready, 2, now)
    commit_all(now)
    redo.keep(ready, first, now)
    chosen = rows()

    redo.keep(ready, first, now)
    with pytest.raises(Refusal, match="choice_made"):
        redo.keep(ready, second, now)

    assert rows() == chosen


@pytest.mark.parametrize("index", [0, 4, 9, 10**20])
def test_what_is_no_picture_cannot_be_chosen(ready: Order, now: datetime, index: int) -> None:
    redo.ask(ready, 2, now)  # 4 is not made yet
    before = rows()

    with pytest.raises(Refusal, match="headshot_not_found"):
        redo.keep(ready, index, now)

    assert rows() == before


def test_a_redo_that_was_chosen_can_be_made_again(pack: Order, now: datetime) -> None:
    redo.ask(pack, 1, now)
    commit_all(now)
    redo.keep(pack, 61, now)

    redo.ask(pack, 61, now)
    commit_all(now)
    redo.keep(pack, 62, now)

    assert states(pack) == {1: "surplus", 2: "done", 3: "done", 61: "surplus", 62: "done"}
    assert Shot.objects.filter(order=pack, state=ShotState.DONE).count() == 50
    assert progress.view(current(pack), now).redos_left == 8


def test_the_choice_can_be_made_after_the_photo_is_gone(ready: Order, now: datetime) -> None:
    redo.ask(ready, 2, now)
    commit_all(now)
    purge.run(now + HOUR)
    assert current(ready).selfie_shredded_at == now + HOUR

    redo.keep(current(ready), 4, now + HOUR)

    assert states(ready) == {1: "done", 2: "surplus", 3: "done", 4: "done"}


@pytest.mark.django_db(transaction=True)
def test_of_two_choices_at_once_one_holds(ready: Order, now: datetime) -> None:
    redo.ask(ready, 2, now)
    commit_all(now)

    outcomes = at_once(lambda index: redo.keep(ready, index, now), (2, 4))

    assert sorted(outcomes) == ["choice_made", "done"]
    done = Shot.objects.filter(state=ShotState.DONE)
    assert done.count() == 3
    assert sorted(Shot.objects.filter(index__in=(2, 4)).values_list("state", flat=True)) == [
        "done",
        "surplus",
    ]


@pytest.mark.django_db(transaction=True)
def test_of_two_requests_at_once_a_free_order_gets_one_redo(ready: Order, now: datetime) -> None:
    outcomes = at_once(lambda index: redo.ask(ready, index, now), (1, 2))

    assert sorted(outcomes) == ["done", "redo_limit"]
    assert Shot.objects.filter(replaces__isnull=False).count() == 1


def at_once(step: Callable[[int], None], indexes: tuple[int, int]) -> list[str]:
    """What became of two calls in two threads: "done", or the code of the refusal."""

    def run(index: int) -> str:
        try:
            step(index)
        except Refusal as refused:
            return refused.code
        finally:
            connections.close_all()
        return "done"

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, indexes))


# --- limits -----------------------------------------------------------------------------------------------


def test_each_tier_has_the_redos_of_the_table(ready: Order, pack: Order, now: datetime) -> None:
    for order, limit in ((ready, 1), (pack, 10)):
        for index in range(1, limit + 1):
            assert progress.view(current(order), now).redos_left == limit - index + 1
            redo.ask(order, index, now)
        before = rows()

        with pytest.raises(Refusal, match="redo_limit"):
            redo.ask(order, limit + 1, now)

        assert rows() == before
        assert Shot.objects.filter(order=order, replaces__isnull=False).count() == limit


@pytest.mark.parametrize("kept", [2, 4])
def test_a_free_order_gets_no_second_redo_however_it_chose(ready: Order, now: datetime, kept: int) -> None:
    redo.ask(ready, 2, now)
    commit_all(now)
    redo.keep(ready, kept, now)

    for index in (1, kept, 3):
        with pytest.raises(Refusal, match="redo_limit"):
            redo.ask(ready, index, now)

    assert Shot.objects.count() == 4
    assert not any(shot.can_redo for shot in progress.view(current(ready), now).shots)


def test_a_failed_redo_is_told_and_costs_nothing(ready: Order, now: datetime) -> None:
    redo.ask(ready, 2, now)
    fail_one(now)

    assert states(ready) == {1: "done", 2: "done", 3: "done", 4: "failed"}
    assert current(ready).state == OrderState.READY
    view = progress.view(current(ready), now)
    shot = next(shot for shot in view.shots if shot.index == 2)
    assert (shot.redo, shot.can_redo) == (RedoView(index=4, state="failed", likeness=""), True)
    assert (view.redos_left, view.done, view.failed, view.percent) == (1, 3, 0, 100)

    redo.ask(ready, 2, now)
    commit_all(now)
    redo.keep(ready, 5, now)
    assert states(ready) == {1: "done", 2: "surplus", 3: "done", 4: "failed", 5: "done"}


def test_a_photo_whose_redos_keep_failing_is_not_tried_for_ever(ready: Order, now: datetime) -> None:
    for _ in range(redo.FAILURES_PER_REDO):
        redo.ask(ready, 2, now)
        fail_one(now)

    with pytest.raises(Refusal, match="redo_limit"):
        redo.ask(ready, 2, now)

    assert progress.view(current(ready), now).redos_left == 0


def test_staff_do_not_revive_a_failed_redo(ready: Order, now: datetime) -> None:
    redo.ask(ready, 2, now)
    fail_one(now)
    Shot.objects.filter(index=3).update(state=ShotState.FAILED, error_code="quality_gate")

    assert orders.retry_failed(current(ready), actor="ada", now=now) == 1

    assert states(ready) == {1: "done", 2: "done", 3: "pending", 4: "failed"}


# --- refusals ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """What is changed before the request comes, when it comes, and what it says then."""

    code: str
    index: int = 2
    after: timedelta = MINUTE
    order: dict[str, Any] = dataclasses.field(default_factory=dict)
    shot: dict[str, Any] = dataclasses.field(default_factory=dict)


CASES = {
    "a picture that does not exist": Case("headshot_not_found", index=4),
    "nonsense": Case("headshot_not_found", index=10**20),
    "a picture that is not delivered": Case("headshot_not_found", shot={"state": ShotState.KEPT}),
    "one that was given up": Case("headshot_not_found", shot={"state": ShotState.SURPLUS}),
    "an order that is still made": Case(
        "redo_too_early", order={"state": OrderState.RENDERING, "finished_at": None}
    ),
    "an hour later": Case("selfie_deleted", after=HOUR),
    "a photo that is gone": Case("selfie_deleted", order={"selfie_shredded_at": F("created_at")}),
    "an order that soon ends": Case(
        "redo_too_late", order={"expires_at": F("created_at") + guarantee.DEADLINE + 2 * MINUTE}
    ),
    "an order that is over": Case("order_not_found", order={"state": OrderState.PURGING}),
    "an order that has expired": Case("order_not_found", after=timedelta(hours=25)),
}


@pytest.mark.parametrize("named", CASES)
def test_a_redo_that_cannot_be_is_refused_and_changes_nothing(
    ready: Order, now: datetime, named: str
) -> None:
    case = CASES[named]
    if case.shot:
        Shot.objects.filter(index=2).update(**case.shot)
    if case.order:
        Order.objects.update(**case.order)
    before = rows()

    with pytest.raises(Refusal) as refused:
        redo.ask(ready, case.index, now + case.after)

    assert refused.value.code == case.code
    assert rows() == before
    if case.code in ("selfie_deleted", "redo_too_late"):
        view = progress.view(current(ready), now + case.after)
        assert view.redo_until is None
        assert not any(shot.can_redo for shot in view.shots)


def test_one_picture_is_made_again_once_at_a_time(pack: Order, now: datetime) -> None:
    redo.ask(pack, 1, now)
    for step in (lambda: None, lambda: claiming.claim("worker", 1, now), lambda: commit_leased(now)):
        step()
        before = rows()
        with pytest.raises(Refusal, match="redo_under_way"):
            redo.ask(pack, 1, now)
        assert rows() == before
    assert states(pack)[61] == "kept"

    redo.keep(pack, 1, now)
    redo.ask(pack, 1, now)

    assert states(pack)[62] == "pending"


def commit_leased(now: datetime) -> None:
    shot = Shot.objects.select_related("order", "style_version__style").get(state=ShotState.LEASED)
    claimed = claiming.Claim(shot, shot.lease_token)
    assert shots.commit(claimed, picture(claimed), now)


def test_while_the_payment_is_disputed_nothing_is_made_or_chosen(pack: Order, now: datetime) -> None:
    redo.ask(pack, 1, now)
    commit_all(now)
    Dispute.objects.create(
        payment=Payment.objects.get(),
        provider_id="dp_1",
        state=Dispute.State.OPEN,
        amount_cents=1900,
        opened_at=now,
    )
    before = rows()

    for refused in (
        lambda: redo.ask(pack, 2, now),
        lambda: redo.keep(pack, 61, now),
        lambda: delivery.open_headshot(pack, 61, Kind.PREVIEW, now),
    ):
        with pytest.raises(Refusal, match="payment_disputed"):
            refused()

    assert rows() == before


# --- the ends of things -----------------------------------------------------------------------------------


def test_a_redo_that_waits_when_the_photos_hour_ends_fails(ready: Order, now: datetime) -> None:
    redo.ask(ready, 2, now + 59 * MINUTE)

    purge.run(now + HOUR)
    shots.sweep(now + HOUR)

    assert current(ready).selfie_shredded_at == now + HOUR
    assert not OrderKey.objects.filter(order=ready, role=0).exists()
    assert Shot.objects.get(index=4).error_code == "selfie_deleted"
    assert states(ready) == {1: "done", 2: "done", 3: "done", 4: "failed"}
    assert (current(ready).state, current(ready).finished_at) == (OrderState.READY, now)
    assert claiming.claim("worker", 8, now + HOUR) == []


def test_a_redo_in_a_workers_hands_is_finished_though_the_photo_is_deleted_on_time(
    ready: Order, now: datetime
) -> None:
    late = now + 59 * MINUTE
    redo.ask(ready, 2, late)
    (claimed,) = claiming.claim("worker", 1, late)
    purge.run(now + HOUR)
    claiming.extend("worker", now + HOUR)
    shots.sweep(now + HOUR)
    assert current(ready).selfie_shredded_at == now + HOUR
    with pytest.raises(NotFound):
        uploads.open_selfie(current(ready), now + HOUR)

    assert shots.commit(claimed, picture(claimed), now + HOUR)

    assert states(ready) == {1: "done", 2: "done", 3: "done", 4: "kept"}
    assert current(ready).state == OrderState.READY


def test_a_redo_whose_worker_was_lost_after_the_photos_hour_fails(ready: Order, now: datetime) -> None:
    late = now + 59 * MINUTE
    redo.ask(ready, 2, late)
    claiming.claim("worker", 1, late)

    shots.sweep(now + HOUR + 2 * MINUTE)

    assert Shot.objects.get(index=4).error_code == "selfie_deleted"
    assert current(ready).state == OrderState.READY


def test_pictures_that_the_photos_end_cost_speak_against_no_style(
    ready: Order, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(styles, "FAILING_LEAST_SHOTS", 1)
    monkeypatch.setattr(styles, "FAILING_LEAST_ORDERS", 1)
    monkeypatch.setattr(styles, "FAILING_SHARE", 0.1)
    redo.ask(ready, 2, now + 59 * MINUTE)
    Style.objects.update(published_at=None)

    shots.sweep(now + HOUR)

    assert states(ready)[4] == "failed"
    assert Style.objects.get(slug="corporate").status == Style.Status.PUBLISHED


def test_at_the_deadline_open_redos_are_closed_without_harm(ready: Order, now: datetime) -> None:
    redo.ask(ready, 2, now)
    Order.objects.update(expires_at=now + guarantee.DEADLINE)

    shots.sweep(now)

    assert states(ready) == {1: "done", 2: "done", 3: "done", 4: "failed"}
    assert Shot.objects.get(index=4).error_code == "deadline"
    assert (current(ready).state, current(ready).finished_at) == (OrderState.READY, now)


@pytest.mark.parametrize("is_made", [False, True])
def test_a_deletion_takes_the_redo_with_it(ready: Order, now: datetime, is_made: bool) -> None:
    redo.ask(ready, 2, now)
    (claimed,) = claiming.claim("worker", 1, now)
    if is_made:
        assert shots.commit(claimed, picture(claimed), now)

    purge.request(current(ready), actor="customer", now=now)

    assert not shots.commit(claimed, picture(claimed), now)
    while purge.run(clock.now() + 30 * MINUTE).waiting:
        pass
    assert list(objects.blobs().list("o/")) == []
    assert current(ready).state == OrderState.PURGED
    assert Receipt.objects.count() == 1
    for refused in (lambda: redo.ask(ready, 1, now), lambda: redo.keep(ready, 4, now)):
        with pytest.raises(NotFound):
            refused()


# --- money ------------------------------------------------------------------------------------------------


def test_a_chosen_redo_is_to_the_money_the_picture_it_replaced(pack: Order, now: datetime) -> None:
    """Two of fifty were never made and are paid back; no redo makes them three."""
    Shot.objects.filter(order=pack, index__in=(49, 50)).update(
        state=ShotState.FAILED, error_code="quality_gate"
    )
    assert payments.refund_missing(pack, now) == 76

    redo.ask(pack, 1, now)
    fail_one(now)
    redo.ask(pack, 1, now)
    commit_all(now)
    assert payments.refund_missing(pack, now) == 0
    redo.keep(pack, 62, now)

    assert payments.refund_missing(pack, now) == 0
    purge.request(current(pack), actor="customer", now=now)
    assert [refund.amount_cents for refund in Refund.objects.all()] == [76]


def test_staff_pay_a_picture_back_once_whatever_its_number_was(pack: Order, now: datetime) -> None:
    assert staff_refunds.refund(pack, pictures=[1], reason="quality", actor="ada", now=now) == 38
    redo.ask(pack, 1, now)
    redo.ask(pack, 2, now)
    commit_all(now)
    with pytest.raises(Refusal, match="headshot_not_found"):
        staff_refunds.refund(pack, pictures=[62], reason="quality", actor="ada", now=now)
    redo.keep(pack, 61, now)
    redo.keep(pack, 62, now)

    with pytest.raises(Refusal, match="not_refundable"):
        staff_refunds.refund(pack, pictures=[61], reason="quality", actor="ada", now=now)
    assert staff_refunds.refund(pack, pictures=[62], reason="quality", actor="ada", now=now) == 38

    assert [refund.pictures for refund in Refund.objects.order_by("sequence")] == [[1], [2]]


def test_the_queues_last_finish_is_where_the_redo_ends(ready: Order, now: datetime) -> None:
    redo.ask(ready, 1, now)

    new = Shot.objects.get(index=4)
    assert new.virtual_finish == queue_clock.read("free")
    length = new.work * 1000 // TIERS["free"].weight
    assert new.virtual_offset == length
