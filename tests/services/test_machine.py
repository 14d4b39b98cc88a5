"""The purge against everything that can happen at the same time, in any order, on real stores.

Hypothesis draws uploads, workers, deletions, failing stores, restored databases, wrong clocks and rotated keys;
after each step the invariants of the deletion hold. HEADSHOTS_MACHINE_STEPS sets how many steps are done and
then draws other ones each time; without it the same 20 000 are done.
"""

import logging
import os
import sqlite3
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Any, Final

import pytest
from django.db import connection
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from headshots.exceptions import NotFound, Refusal
from headshots.models import Order, OrderKey, Receipt, Shot, StoredObject
from headshots.services import (
    clock,
    delivery,
    incarnation,
    objects,
    orders,
    purge,
    receipts,
    restore,
    shots,
    uploads,
    verification,
)
from headshots.services.consent import Consent
from headshots.states import LIVE_STATES, OrderState
from headshots.vault.envelope import Kind, Role
from headshots.vault.errors import KeyGone, StoreAway
from headshots.vault.keys import not_after_of, open_order_key
from pipelines.errors import Retryable
from pipelines.types import FailedShot, FinishedShot, QualityReport
from tests.services.unreliable import OPERATIONS
from tests.services.world import START, World, files_with, pristine_database

STEPS: Final = int(os.environ.get("HEADSHOTS_MACHINE_STEPS", "20000"))
IS_NIGHTLY: Final = "HEADSHOTS_MACHINE_STEPS" in os.environ
STEPS_PER_WORLD: Final = 80
CANARY: Final = b"\xff\xd8\xff\xe0 a picture in clear "
MAGICS: Final = (b"HSE1", b"HST1")
EXPECTED: Final = (Refusal, NotFound, Retryable, StoreAway)  # what callers are told to expect
AGREED: Final = Consent(is_given=True, is_adult=True)
OWNERS: Final = ("one", "two")

picks = st.integers(0, 63)
owners = st.sampled_from(OWNERS)
RACES: Final = ("delete", "expire", "restart", "settle", "restore")
races = st.sampled_from(RACES)


@dataclass(slots=True, kw_only=True)
class Known:
    """What the world outside the database knows of an order."""

    order: Order
    token: str
    placed_at: datetime  # in true time
    wrapped: tuple[tuple[int, bytes], ...]
    photo: bytes
    stored: list[StoredObject] = field(default_factory=list)
    is_gone: bool = False  # somebody saw its deletion begun
    is_selfie_gone: bool = False

    @property
    def prefix(self) -> str:
        return f"o/{self.order.pk.hex}/"


class Machine(RuleBasedStateMachine):
    """Each rule is something that somebody does; each invariant is looked at after each of them."""

    pristine: sqlite3.Connection
    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.pristine)
        self.world.store.on_put = self._saw_put
        self.world.store.on_list = self._saw_list
        self.known: dict[uuid.UUID, Known] = {}
        self.claims: list[shots.Claim] = []
        self.assessing: list[Order] = []
        self.violations: list[str] = []
        self.late: set[str] = set()  # written by who was checked before the order had ended
        self.looks: defaultdict[str, list[datetime]] = defaultdict(list)  # empty ones since the last other
        self.receipts: set[str] = set()
        self.is_racing = False
        self.is_restored = False  # a copy was put back, and nothing was reconciled since
        self.last_now = clock.now()
        self.serial = count(1)
        self.turn = 0

    def teardown(self) -> None:
        try:
            self._come_to_rest()
        finally:
            self.world.close()

    # --- what happens: customers --------------------------------------------------------------------------

    @rule()
    def place(self) -> None:
        photo = CANARY + b"photo %d" % next(self.serial)
        with suppress(*EXPECTED):
            placed = orders.place(
                raw=photo,
                tier_slug="free",
                style_slugs=(),
                agreed=AGREED,
                upload_id=None,
                now=clock.now(),
            )
            self.known[placed.order.pk] = Known(
                order=placed.order,
                token=placed.token,
                placed_at=self._true_now(),
                wrapped=tuple(
                    (key.role, bytes(key.wrapped)) for key in OrderKey.objects.filter(order=placed.order)
                ),
                photo=photo,
                stored=list(StoredObject.objects.filter(order=placed.order).select_related("order")),
            )

    @rule(race=races)
    def place_in_a_race(self, race: str) -> None:
        with self._race(race):
            self.place()

    @rule(pick=picks)
    def delete(self, pick: int) -> None:
        if known := self._pick(pick):
            with suppress(*EXPECTED):
                order = orders.find(known.order.pk, known.token, clock.now())
                purge.request(order, actor="customer", now=clock.now())
                known.is_gone = True

    @rule(pick=picks)
    def watch_the_receipt(self, pick: int) -> None:
        if known := self._pick(pick):
            with suppress(*EXPECTED):
                purge.find_deletion(known.order.receipt_id, clock.now())

    @rule(pick=picks)
    def look_at_pictures(self, pick: int) -> None:
        known = self._pick(pick)
        if known is None:
            return
        with suppress(*EXPECTED):
            order = orders.find(known.order.pk, known.token, clock.now())
            for view in range(1, 4):
                with suppress(Refusal):
                    jpeg = delivery.open_headshot(order, view, Kind.HEADSHOT, clock.now())
                    assert jpeg.startswith(CANARY + b"%s/%d " % (known.order.pk.hex.encode(), view))
                    assert not known.is_gone, "I4: a picture was shown after the fence"

    # --- what happens: workers ----------------------------------------------------------------------------

    @rule(pick=picks)
    def begin_assessment(self, pick: int) -> None:
        known = self._pick(pick)
        if known and not incarnation.is_restored():
            order = orders.begin_assessment(known.order.pk, clock.now())
            if order is not None:
                assert not known.is_gone, "I4: a photo was taken to be looked at after the fence"
                self.assessing.append(order)

    @precondition(lambda self: self.assessing)
    @rule(pick=picks, is_usable=st.sampled_from((True, True, True, False)))
    def end_assessment(self, pick: int, is_usable: bool) -> None:
        order = self.assessing[pick % len(self.assessing)]
        with suppress(*EXPECTED):
            photo = uploads.open_selfie(order, clock.now())
            assert photo == self.known[order.pk].photo
            if is_usable:
                orders.accept(order, clock.now())
            else:
                orders.refuse(order, "no_face", clock.now())

    @rule(owner=owners, limit=st.integers(1, 4))
    def claim(self, owner: str, limit: int) -> None:
        if incarnation.is_restored():
            return
        for claimed in shots.claim(owner, limit, clock.now()):
            known = self.known.get(claimed.shot.order_id)
            assert known is None or not known.is_gone, "I4: a shot was claimed after the fence"
            self.claims.append(claimed)

    @rule(owner=owners)
    def heartbeat(self, owner: str) -> None:
        shots.extend(owner, clock.now())

    @precondition(lambda self: self.claims)
    @rule(pick=picks)
    def commit(self, pick: int) -> None:
        claimed = self.claims[pick % len(self.claims)]
        was = Shot.objects.filter(pk=claimed.shot.pk).values_list("state", "lease_token").first()
        finished = self._finished(claimed)
        before = set(StoredObject.objects.values_list("pk", flat=True))
        is_delivered = False
        with suppress(*EXPECTED):
            is_delivered = shots.commit(claimed, finished, clock.now())
        if is_delivered:
            assert was == ("leased", claimed.lease_token) or self.is_racing, "a stale claim was delivered"
            if known := self.known.get(claimed.shot.order_id):
                assert not known.is_gone, "I4: a picture was delivered after the fence"
                fresh = StoredObject.objects.filter(order=known.order).exclude(pk__in=before)
                known.stored += fresh.select_related("order")

    @precondition(lambda self: self.claims)
    @rule(pick=picks, race=races)
    def commit_in_a_race(self, pick: int, race: str) -> None:
        with self._race(race, self.claims[pick % len(self.claims)].shot.order_id):
            self.commit(pick)

    @precondition(lambda self: self.claims)
    @rule(pick=picks, is_retryable=st.booleans())
    def fail(self, pick: int, is_retryable: bool) -> None:
        claimed = self.claims[pick % len(self.claims)]
        failed = FailedShot(shot_id=str(claimed.shot.pk), code="no_likeness", is_retryable=is_retryable)
        shots.fail(claimed, failed, clock.now())

    @rule(owner=owners)
    def release(self, owner: str) -> None:
        shots.release(owner)

    @rule(pick=picks)
    def retry_failed(self, pick: int) -> None:
        if (known := self._pick(pick)) and not incarnation.is_restored():
            with suppress(*EXPECTED):
                orders.retry_failed(known.order, actor="staff", now=clock.now())

    @rule()
    def sweep(self) -> None:
        if not incarnation.is_restored():
            with suppress(*EXPECTED):
                shots.sweep(clock.now())

    # --- what happens: the purge and its inspection -------------------------------------------------------

    @rule()
    def run_pass(self) -> None:
        faults = self.world.store.faults
        before = {order.pk: order for order in Order.objects.due(clock.now())}
        now = clock.now()
        tally = purge.run(now)
        if faults.failing and not faults.only:
            assert tally.failed <= len(before)
            return
        for order in Order.objects.filter(pk__in=before):
            if faults.failing and faults.only in order.pk.hex:
                continue
            assert order.state in (OrderState.PURGING, OrderState.PURGED), "I14: a due order was not begun"
            assert order.shredded_at, "I14: a due order was not shredded"
            assert order.absent_at or order.late_writes > before[order.pk].late_writes, (
                "I7: a due order was held up"
            )
        if not self.world.are_epoch_keys_away:
            self._hold_i3_and_i5(now)

    @rule(is_fixing=st.booleans())
    def inspect(self, is_fixing: bool) -> None:
        before = self._rows()
        report = verification.inspect(clock.now(), is_fixing=is_fixing, is_full=True)
        if not is_fixing:
            assert self._rows() == before, "an inspection changed a row"
        if incarnation.is_restored() or self.is_restored:
            return
        wrong = {finding.code for finding in report.findings} - WAITING
        if is_fixing and not self.world.store.faults.failing:
            self.late.clear()
        if self.late:
            wrong.discard("object_of_ended_order")
        if self.world.store.faults.failing or self.world.are_epoch_keys_away:
            wrong -= UNREPAIRED
        assert not wrong, str(report)

    # --- what happens: to the machines --------------------------------------------------------------------

    @rule(
        failing=st.sets(st.sampled_from(OPERATIONS), min_size=1),
        is_after_effect=st.booleans(),
        only=st.none() | picks,
    )
    def fail_the_store(self, failing: set[str], is_after_effect: bool, only: int | None) -> None:
        faults = self.world.store.faults
        faults.failing, faults.is_after_effect, faults.only = failing, is_after_effect, ""
        if only is not None and (known := self._pick(only)):
            faults.only = known.order.pk.hex

    @rule()
    def mend_the_store(self) -> None:
        self.world.store.faults.failing = set()

    @rule(is_away=st.booleans())
    def take_the_epoch_keys_away_or_bring_them_back(self, is_away: bool) -> None:
        if not is_away:
            self.world.bring_epoch_keys_back()
        elif not self.world.are_epoch_keys_away:
            self.world.take_epoch_keys_away()

    @rule(seconds=st.sampled_from((1, 10, 61, 130, 600)))
    def wait(self, seconds: int) -> None:
        self.world.pass_time(timedelta(seconds=seconds))

    @rule(hours=st.sampled_from((1, 3, 12, 25)))
    def wait_long(self, hours: int) -> None:
        self.world.pass_time(timedelta(hours=hours))

    @rule(hours=st.sampled_from((0, 0, 1, 30, -1, -30)))
    def set_the_clock_wrong_or_right(self, hours: int) -> None:
        self.world.clock_error = timedelta(hours=hours)

    @precondition(lambda self: not self.world.clock_error)
    @rule()
    def reset_the_clock(self) -> None:
        purge.run(clock.now())
        self.last_now = clock.take_back()

    @rule(what=st.sampled_from(("restart", "rotate", "drop")))
    def restart_or_rotate(self, what: str) -> None:
        if self.world.are_epoch_keys_away:
            return
        match what:
            case "restart":
                self.world.restart()
            case "rotate":
                self.world.rotate_root_key()
                self.rotated_at = self._true_now()
            case "drop" if self._true_now() > getattr(self, "rotated_at", START) + timedelta(hours=25):
                self.world.drop_old_root_keys()

    @rule()
    def back_up(self) -> None:
        if self.world.copies < 3:
            self.world.back_up()

    @precondition(lambda self: self.world.copies)
    @rule(pick=picks)
    def put_back(self, pick: int) -> None:
        self._see_the_gone()
        self.world.put_back(pick % self.world.copies)
        self.is_restored = True

    @rule()
    def reconcile(self) -> None:
        with suppress(*EXPECTED):
            restore.reconcile(clock.now())
            self.is_restored = False

    # --- what must hold after each step -------------------------------------------------------------------

    @invariant()
    def nothing_was_violated(self) -> None:
        type(self).steps += 1
        assert not self.violations, self.violations

    @invariant()
    def time_does_not_go_back(self) -> None:
        now = clock.now()
        assert now >= self.last_now - clock.MARK_STEP
        self.last_now = now

    @invariant()
    def i2_every_object_has_a_row(self) -> None:
        if self.is_restored:
            return
        there = set(self.world.store.real.list("o/"))
        self.late &= there
        rows = {
            f"o/{order.hex}/{pk.hex}" for order, pk in StoredObject.objects.values_list("order_id", "pk")
        }
        assert there <= rows | self.late, "I2: an object has no row"

    @invariant()
    def i4_and_i11_what_is_gone_stays_gone(self) -> None:
        self._see_the_gone()
        if not self.known:
            return
        self.turn += 1
        known = self._pick(self.turn)
        assert known is not None
        if known.is_gone or self._true_now() >= known.placed_at + timedelta(hours=24):
            self._hold_unreadable(known)
        elif known.is_selfie_gone:
            self._hold_refused(lambda: uploads.open_selfie(known.order, clock.now()))

    @invariant()
    def i12_a_receipt_means_that_everything_was_seen(self) -> None:
        rows = dict(Receipt.objects.values_list("order_id", "id"))
        purged = set(Order.objects.filter(state=OrderState.PURGED).values_list("pk", flat=True))
        assert set(rows) == purged, "I12: receipts and purged orders differ"
        for order_id in [pk for pk, receipt_id in rows.items() if receipt_id not in self.receipts]:
            self._hold_i12(Order.objects.get(pk=order_id))
        self.receipts |= set(rows.values())

    # --- how it is looked at ------------------------------------------------------------------------------

    def _hold_i12(self, order: Order) -> None:
        prefix = f"o/{order.pk.hex}/"
        assert not OrderKey.objects.filter(order=order).exists(), "I12: a receipt beside a key"
        assert set(self.world.store.real.list(prefix)) <= self.late, "I12: a receipt beside an object"
        looks = self.looks[prefix]
        assert looks, "I12: a receipt without a look"
        assert order.settles_at
        assert order.absent_at
        assert order.absent_again_at
        assert looks[-1] >= order.settles_at, "I12: the second look was too early"
        settled = order.absent_again_at - order.absent_at
        assert settled >= timedelta(seconds=120), f"I12: both looks were one, {settled} apart"

    def _hold_i3_and_i5(self, now: datetime) -> None:
        assert all(not_after_of(epoch) > now for epoch in objects.epochs().epochs()), "I3: an epoch key"
        assert not OrderKey.objects.filter(order__not_after__lte=now).exists(), "I3: an order key"
        for known in [known for known in self.known.values() if known.order.not_after <= now][-2:]:
            for role, wrapped in known.wrapped:
                with pytest.raises(KeyGone):
                    open_order_key(
                        objects.epochs(),
                        wrapped,
                        order_id=known.order.pk,
                        role=Role(role),
                        epoch=known.order.epoch,
                        not_after=known.order.not_after,
                    )

    def _hold_unreadable(self, known: Known) -> None:
        now = clock.now()
        self._hold_refused(lambda: orders.find(known.order.pk, known.token, now))
        self._hold_refused(lambda: uploads.open_selfie(known.order, now))
        self._hold_refused(lambda: delivery.stream_archive(known.order, now))
        for stored in known.stored[-2:]:
            self._hold_refused(lambda stored=stored: objects.read(stored, now))
        self._hold_refused(lambda: objects.intend(known.order, Kind.HEADSHOT, 1, now))

    @staticmethod
    def _hold_refused(read: Callable[[], object]) -> None:
        try:
            read()
        except EXPECTED:
            return
        raise AssertionError("I4 or I11: something of an ended order can be read or written")

    def _see_the_gone(self) -> None:
        if self.is_restored:
            return
        ended = Order.objects.filter(state__in=(OrderState.PURGING, OrderState.PURGED))
        for pk in ended.values_list("pk", flat=True):
            if pk in self.known:
                self.known[pk].is_gone = True
        for pk in Order.objects.filter(selfie_shredded_at__isnull=False).values_list("pk", flat=True):
            if pk in self.known:
                self.known[pk].is_selfie_gone = True

    def _saw_put(self, name: str, data: bytes) -> None:
        if not data.startswith(MAGICS) or CANARY in data:
            self.violations.append(f"I1: {name} is not sealed")
        if not name.startswith("o/"):
            return
        order_id, object_id = (uuid.UUID(hex=part) for part in name.split("/")[1:])
        self.looks[f"o/{order_id.hex}/"].clear()
        state = Order.objects.filter(pk=order_id).values_list("state", flat=True).first()
        if self.is_racing and state not in LIVE_STATES:
            self.late.add(name)
        elif state not in LIVE_STATES and not self.is_restored:
            self.violations.append(f"I4: {name} was written while its order was {state}")
        elif not StoredObject.objects.filter(pk=object_id).exists() and not self.is_restored:
            self.violations.append(f"I2: {name} was written before its row")

    def _saw_list(self, prefix: str, names: Sequence[str]) -> None:
        if names:
            self.looks[prefix].clear()
        else:
            self.looks[prefix].append(clock.now())

    @contextmanager
    def _race(self, race: str, order_id: uuid.UUID | None = None) -> Iterator[None]:
        """While the body's first put is under way, something else happens."""

        def happen() -> None:
            self.is_racing = True
            chosen = Order.objects.filter(pk=order_id) if order_id else Order.objects.order_by("-created_at")
            order = chosen.first()
            match race:
                case "delete" if order:
                    purge.request(order, actor="customer", now=clock.now())
                case "expire":
                    self.world.pass_time(timedelta(hours=24))
                    purge.run(clock.now())
                case "restart":
                    self.world.restart()
                case "settle" if order:
                    purge.request(order, actor="customer", now=clock.now())
                    self.world.pass_time(timedelta(hours=1))
                    purge.run(clock.now())
                case "restore" if self.world.copies:
                    self.put_back(0)

        self.world.store.races.append(happen)
        try:
            yield
        finally:
            self.world.store.races.clear()
            self.is_racing = False

    def _finished(self, claimed: shots.Claim) -> FinishedShot:
        name = b"%s/%d " % (claimed.shot.order_id.hex.encode(), claimed.shot.index)
        return FinishedShot(
            shot_id=str(claimed.shot.pk),
            seed=1,
            jpeg=CANARY + name + b"%d" % next(self.serial),
            preview_jpeg=CANARY + b"small " + name,
            width=896,
            height=1152,
            report=QualityReport(measures={}),
            seconds=1.0,
        )

    def _pick(self, number: int) -> Known | None:
        every = list(self.known.values())
        return every[number % len(every)] if every else None

    def _true_now(self) -> datetime:
        return START + self.world.elapsed

    def _rows(self) -> list[Any]:
        return [list(table.objects.order_by("pk").values()) for table in (Order, OrderKey, StoredObject, Shot)]

    def _come_to_rest(self) -> None:
        """I14 and I6: once everything works again, every order ends in time, absent and with a receipt."""
        self.world.bring_epoch_keys_back()
        self.world.store.faults.failing = set()
        if self.is_restored or incarnation.is_restored():
            restore.reconcile(clock.now())
            self.is_restored = False
        last = max([clock.now(), *Order.objects.values_list("not_after", flat=True)])
        self.world.pass_time(last - clock.now())
        for _ in range(4):
            purge.run(clock.now())
            self.world.pass_time(timedelta(minutes=10))
        assert not Order.objects.exclude(state=OrderState.PURGED).exists(), "I14: an order did not end"
        for receipt in Receipt.objects.all():
            receipts.read(receipt.text)
        purge.run(clock.now())
        assert verification.inspect(clock.now(), is_fixing=True, is_full=True).is_clean
        assert not list(self.world.store.real.list("o/")), "I6: an object is left"
        assert not objects.epochs().epochs(), "I3: an epoch key is left"
        assert not files_with(self.world.folder, CANARY), "I1: a picture in clear"
        for known in self.known.values():
            self._hold_unreadable(known)


# What may be found while somebody has yet to do something, and nothing is wrong with what is there.
WAITING: Final = {
    "purge_silent",
    "checkpoint_late",
    "deletion_late",
    "lease_past_due",
    "order_nobody_looked_at",
    "epoch_key_past_its_end",
    "key_past_its_end",
    "object_older_than_a_day",
}
# What stays where it is while a store does not do what it is asked.
UNREPAIRED: Final = {"row_without_object", "object_without_row", "object_of_ended_order", "epoch_key_missing"}


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor != "sqlite", reason="copies the database's file")
def test_the_purge_against_everything(capsys: pytest.CaptureFixture[str]) -> None:
    Machine.pristine = pristine_database()
    Machine.steps = 0
    logging.disable(logging.CRITICAL)
    started = time.monotonic()
    try:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            Machine,
            settings=settings(
                max_examples=-(-STEPS // STEPS_PER_WORLD),
                stateful_step_count=STEPS_PER_WORLD,
                derandomize=not IS_NIGHTLY,
                database=None,
                deadline=None,
                print_blob=True,
                report_multiple_bugs=False,
                phases=(Phase.generate,) if 'EXPLORE' in os.environ else (Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        logging.disable(logging.NOTSET)
        Machine.pristine.close()
        with capsys.disabled():
            sys.stdout.write(f"\n{Machine.steps} steps in {time.monotonic() - started:.0f} s\n")
    assert Machine.steps >= STEPS


