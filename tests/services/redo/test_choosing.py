"""Choosing one of the two."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from django.db import connections

from headshots.exceptions import Refusal
from headshots.models import AuditEntry, Order, Shot
from headshots.services import delivery, objects, progress, purge, redo
from headshots.states import ShotState
from headshots.vault.envelope import Kind
from tests.services.redo.making import HOUR, archived, commit_all, current, jpeg_of, rows, states

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


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
