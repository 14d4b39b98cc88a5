"""Asking for a redo, and what it leaves as it was."""

import io
import json
import zipfile
from collections.abc import Callable
from datetime import datetime

import pytest
from pytest_django import DjangoCaptureOnCommitCallbacks

from headshots.hints import Task
from headshots.models import AuditEntry, Mail, Order, Shot
from headshots.services import (
    claiming,
    clock,
    delivery,
    export,
    orders,
    progress,
    purge,
    redo,
    shots,
    verification,
)
from headshots.services.orders import Placed
from headshots.services.progress import RedoView
from headshots.states import OrderState, ShotState
from headshots.vault.envelope import Kind
from pipelines.gate import LOWEST_RANK
from tests.services.redo.making import HOUR, MINUTE, archived, commit_all, current, jpeg_of, picture, states

pytestmark = pytest.mark.django_db

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
