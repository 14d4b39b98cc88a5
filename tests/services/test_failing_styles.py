"""Styles that fail too often: switched off by the sweep, said to staff, switched on again by them alone."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from headshots.admin import dashboard
from headshots.exceptions import Refusal
from headshots.models import PRESET_FIELDS, AuditEntry, Order, Shot, Style
from headshots.services import claiming, orders, shots, styles, uploads
from headshots.services.orders import Placed
from headshots.states import OrderState, ShotState
from headshots.tiers import TIERS

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)
Finish = Callable[..., list[Order]]


@pytest.fixture(autouse=True)
def unlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are taken as they are: the process that cleans them has tests of its own, and takes its time."""
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)


@pytest.fixture
def finish(place: Callable[..., Placed], now: datetime) -> Finish:
    """Free orders in the corporate style whose shots all ended at `at`; the first `failed` ones failed."""

    def finish_all(
        count: int = 4, *, failed: int, spread: int = 2, at: datetime = now, code: str = "quality_gate"
    ) -> list[Order]:
        made = [place().order for _ in range(count)]
        Order.objects.filter(pk__in=[order.pk for order in made]).update(state=OrderState.READY)
        by_turns = [shot for index in (1, 2, 3) for order in made[:spread] for shot in [(order, index)]]
        Shot.objects.filter(order__in=made).update(state=ShotState.DONE, finished_at=at)
        for order, index in by_turns[:failed]:
            Shot.objects.filter(order=order, index=index).update(state=ShotState.FAILED, error_code=code)
        return made

    return finish_all


def status() -> str:
    return Style.objects.get(slug="corporate").status


def off_table(now: datetime) -> tuple[list[object], str]:
    (table,) = (
        each
        for each in dashboard.read(now, count_store=False)
        if each.title == "Styles switched off by the service"
    )
    return [tuple(row) for row in table.rows], table.note


def test_a_style_that_fails_on_more_than_a_fifth_is_switched_off(finish: Finish, now: datetime) -> None:
    finish(failed=3)

    shots.sweep(now)

    assert status() == Style.Status.RETIRED
    entry = AuditEntry.objects.get(event="style.switched_off")
    assert (entry.actor, entry.reference) == ("service", "corporate")
    assert entry.detail == {"shots": 12, "failed": 3}
    assert styles.published(TIERS["free"]) == []
    assert styles.switch_off_failing(now) == []


@pytest.mark.parametrize(
    ("count", "failed", "spread", "minutes", "code"),
    [
        (5, 3, 2, 0, "quality_gate"),  # a fifth is not more than a fifth
        (3, 3, 2, 0, "quality_gate"),  # nine shots say nothing
        (4, 3, 1, 0, "quality_gate"),  # one order alone: it may be the photo
        (4, 6, 2, 11, "quality_gate"),  # too long ago
        (4, 6, 2, 0, "worker_lost"),  # not the style's fault
        (4, 6, 2, 0, "engine_broken"),
        (4, 6, 2, 0, "out_of_memory"),
        (4, 6, 2, 0, "deadline"),  # nor this
    ],
)
def test_a_style_stays_on_when_that_says_nothing_about_it(
    finish: Finish, now: datetime, count: int, failed: int, spread: int, minutes: int, code: str
) -> None:
    finish(count, failed=failed, spread=spread, at=now - minutes * MINUTE, code=code)

    assert styles.switch_off_failing(now) == []
    assert status() == Style.Status.PUBLISHED


def test_a_style_that_is_switched_off_cannot_be_chosen_and_running_orders_go_on(
    finish: Finish, place: Callable[..., Placed], now: datetime
) -> None:
    running = place().order
    orders.accept(running, now)
    finish(failed=3)

    assert styles.switch_off_failing(now) == ["corporate"]

    with pytest.raises(Refusal, match="no_style_left"):
        place()
    with pytest.raises(Refusal, match="unknown_style"):
        place(tier_slug="premium", style_slugs=("corporate",))
    assert len(place(tier_slug="premium").order.shots.exclude(style_version__style__slug="corporate")) == 60
    assert len(claiming.claim("worker", 3, now)) == 3


def test_staff_see_it_and_switch_it_on_again(finish: Finish, now: datetime) -> None:
    finish(failed=3)
    styles.switch_off_failing(now)
    rows, note = off_table(now + 5 * MINUTE)
    assert rows == [("Corporate", "5 min 0 s ago")]
    assert "publish them again" in note

    later = now + 6 * MINUTE
    corporate = Style.objects.get(slug="corporate")
    assert styles.set_status(corporate, Style.Status.PUBLISHED, actor="anna", now=later)

    assert off_table(later) == ([], "")
    assert styles.switch_off_failing(later) == []  # what failed before counts no more
    assert status() == Style.Status.PUBLISHED
    finish(failed=3, at=later + MINUTE)
    assert styles.switch_off_failing(later + MINUTE) == ["corporate"]


def test_failures_of_an_older_version_do_not_count(finish: Finish, now: datetime) -> None:
    finish(failed=3)
    style = Style.objects.get(slug="corporate")
    assert style.current is not None
    fields = {name: getattr(style.current.preset(), name) for name in PRESET_FIELDS}
    styles.add_version(style, {**fields, "guidance_scale": 11.0}, actor="anna", now=now)

    assert styles.switch_off_failing(now) == []
