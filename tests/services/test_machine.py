"""The purge against everything that can happen at the same time, in any order, on real stores.

Hypothesis draws uploads, workers, deletions, failing stores, restored databases, wrong clocks and new root
keys; after each step the invariants of the deletion hold. HEADSHOTS_MACHINE_STEPS sets how many steps are
done, and then other ones are drawn each time; without it the same 20 000 are done.
"""

import logging
import os
import sqlite3
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count
from typing import Any, Final

import pytest
from django.db import connection
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from headshots.exceptions import Refusal
from headshots.models import Order, OrderKey, Receipt, Shot, StoredObject
from headshots.services import (
    claiming,
    clock,
    delivery,
    incarnation,
    objects,
    orders,
    purge,
    receipts,
    redo,
    restore,
    shots,
    uploads,
    verification,
)
from headshots.services.consent import Consent
from headshots.states import OrderState
from headshots.vault.envelope import Kind
from headshots.vault.keys import not_after_of
from pipelines.types import FailedShot, FinishedShot, QualityReport
from tests.services.unreliable import OPERATIONS
from tests.services.witness import CANARY, EXPECTED, Known, Witness
from tests.services.world import START, World, files_with, pristine_database

STEPS: Final = int(os.environ.get("HEADSHOTS_MACHINE_STEPS", "20000"))
IS_NIGHTLY: Final = "HEADSHOTS_MACHINE_STEPS" in os.environ
STEPS_PER_WORLD: Final = 100  # at most; seven tenths of it at least, on average
AGREED: Final = Consent(is_given=True, is_adult=True)
OWNERS: Final = ("one", "two")

picks = st.integers(0, 63)
owners = st.sampled_from(OWNERS)
RACES: Final = ("delete", "expire", "restart", "settle", "restore")
races = st.sampled_from(RACES)


class Machine(RuleBasedStateMachine):
    """Each rule is something that somebody does; each invariant is looked at after each of them."""

    pristine: sqlite3.Connection
    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.pristine)
        self.witness = Witness(self.world)
        self.claims: list[claiming.Claim] = []
        self.assessing: list[Order] = []
        self.rotated_at = START
        self.serial = count(1)

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
                address="ada@example.org",
                now=clock.now(),
            )
            self.witness.known[placed.order.pk] = Known(
                order=placed.order,
                token=placed.token,
                placed_at=self.world.true_time,
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
            for view in range(1, 6):  # three pictures, and what was made again of them
                with suppress(Refusal):
                    jpeg = delivery.open_headshot(order, view, Kind.HEADSHOT, clock.now())
                    assert jpeg.startswith(CANARY + b"%s/%d " % (known.order.pk.hex.encode(), view))
                    assert not known.is_gone, "I4: a picture was shown after the fence"

    @rule(pick=picks, index=st.integers(1, 4), chosen=st.integers(1, 4), is_made=st.booleans())
    def ask_for_a_redo(self, pick: int, index: int, chosen: int, is_made: bool) -> None:
        if not self._pick_ready(pick):
            self.work_undisturbed()
        if known := self._pick_ready(pick):
            with suppress(*EXPECTED):
                order = orders.find(known.order.pk, known.token, clock.now())
                redo.ask(order, index, clock.now())
                assert not known.is_gone, "I4: a picture was to be made again after the fence"
                if is_made:
                    self._make_what_waits()
                    self._choose(known, chosen)

    @rule(pick=picks, index=st.integers(1, 4))
    def choose(self, pick: int, index: int) -> None:
        if known := self._pick_ready(pick):
            with suppress(*EXPECTED):
                self._choose(known, index)

    def _choose(self, known: Known, index: int) -> None:
        order = orders.find(known.order.pk, known.token, clock.now())
        redo.keep(order, index, clock.now())
        assert not known.is_gone, "I4: a picture was chosen after the fence"

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
            assert photo == self.witness.known[order.pk].photo
            if is_usable:
                orders.accept(order, clock.now())
            else:
                orders.refuse(order, "no_face", clock.now())

    @rule(owner=owners, limit=st.integers(1, 4))
    def claim(self, owner: str, limit: int) -> None:
        if incarnation.is_restored():
            return
        for claimed in claiming.claim(owner, limit, clock.now()):
            known = self.witness.known.get(claimed.shot.order_id)
            assert known is None or not known.is_gone, "I4: a shot was claimed after the fence"
            self.claims.append(claimed)

    @rule(owner=owners)
    def heartbeat(self, owner: str) -> None:
        claiming.extend(owner, clock.now())

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
            assert was == ("leased", claimed.lease_token) or self.witness.is_racing, (
                "a stale claim was delivered"
            )
            if known := self.witness.known.get(claimed.shot.order_id):
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

    @rule()
    def work_undisturbed(self) -> None:
        """Place an order where nothing is awry and make all that waits: else hardly one would be drawn."""
        self.world.store.faults.failing = set()
        self.place()
        self.begin_assessment(len(self.witness.known) - 1)
        if self.assessing:
            self.end_assessment(len(self.assessing) - 1, True)
        self._make_what_waits()

    def _make_what_waits(self) -> None:
        held = len(self.claims)
        self.claim("one", 4)
        for place in range(held, len(self.claims)):
            self.commit(place)

    @rule(owner=owners)
    def release(self, owner: str) -> None:
        claiming.release(owner)

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
            self.witness.hold_i3_and_i5(now)

    @rule(is_fixing=st.booleans())
    def inspect(self, is_fixing: bool) -> None:
        before = self._rows()
        report = verification.inspect(clock.now(), is_fixing=is_fixing, is_full=True)
        if not is_fixing:
            assert self._rows() == before, "an inspection changed a row"
        if incarnation.is_restored() or self.witness.is_restored:
            return
        wrong = {finding.code for finding in report.findings} - WAITING
        if is_fixing and not self.world.store.faults.failing:
            self.witness.late.clear()
        if self.witness.late:
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
        self.witness.last_now = clock.take_back()
        purge.end_orders_of_the_future(clock.now())

    @rule(what=st.sampled_from(("restart", "rotate", "drop")))
    def restart_or_rotate(self, what: str) -> None:
        if self.world.are_epoch_keys_away:
            return
        match what:
            case "restart":
                self.world.restart()
            case "rotate":
                self.world.rotate_root_key()
                self.rotated_at = self.world.true_time
            case "drop" if self.world.true_time > self.rotated_at + timedelta(hours=25):
                self.world.drop_old_root_keys()

    @rule()
    def back_up(self) -> None:
        if self.world.copies < 3:
            self.world.back_up()

    @precondition(lambda self: self.world.copies)
    @rule(pick=picks)
    def put_back(self, pick: int) -> None:
        self.witness.see_rows()
        self.world.put_back(pick % self.world.copies)
        self.witness.is_restored = True

    @rule()
    def reconcile(self) -> None:
        with suppress(*EXPECTED):
            restore.reconcile(clock.now())
            self.witness.is_restored = False

    # --- what must hold after each step -------------------------------------------------------------------

    @invariant()
    def nothing_is_violated(self) -> None:
        type(self).steps += 1
        self.witness.hold_all()

    @contextmanager
    def _race(self, race: str, order_id: uuid.UUID | None = None) -> Iterator[None]:
        """While the body's first put is under way, something else happens."""

        def happen() -> None:
            self.witness.is_racing = True
            chosen = Order.objects.filter(pk=order_id) if order_id else Order.objects.order_by("-created_at")
            order = chosen.first()
            match race:
                case "delete" if order:
                    purge.request(order, actor="customer", now=clock.now())
                case "expire":
                    self.world.pass_time(timedelta(hours=24))
                    purge.run(clock.now())
                case "restart" if not self.world.are_epoch_keys_away:
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
            self.witness.is_racing = False

    def _finished(self, claimed: claiming.Claim) -> FinishedShot:
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
        every = list(self.witness.known.values())
        return every[number % len(every)] if every else None

    def _pick_ready(self, number: int) -> Known | None:
        ready = Order.objects.filter(state=OrderState.READY, pk__in=self.witness.known).order_by("created_at")
        every = list(ready.values_list("pk", flat=True))
        return self.witness.known[every[number % len(every)]] if every else None

    def _rows(self) -> list[Any]:
        return [
            list(table.objects.order_by("pk").values()) for table in (Order, OrderKey, StoredObject, Shot)
        ]

    def _come_to_rest(self) -> None:
        """I14 and I6: once everything works again, every order ends in time, absent and with a receipt."""
        self.world.bring_epoch_keys_back()
        self.world.store.faults.failing = set()
        if self.witness.is_restored or incarnation.is_restored():
            restore.reconcile(clock.now())
            self.witness.is_restored = False
        ends = [not_after_of(epoch) for epoch in objects.epochs().epochs()]
        last = max([clock.now(), *ends, *Order.objects.values_list("not_after", flat=True)])
        self.world.pass_time(last - clock.now())
        for _ in range(3):
            purge.run(clock.now())
            self.world.pass_time(timedelta(minutes=25))
        assert not Order.objects.exclude(state=OrderState.PURGED).exists(), "I14: an order did not end"
        for receipt in Receipt.objects.all():
            receipts.read(receipt.text)
        purge.run(clock.now())
        assert verification.inspect(clock.now(), is_fixing=True, is_full=True).is_clean
        assert not list(self.world.store.real.list("o/")), "I6: an object is left"
        assert not objects.epochs().epochs(), "I3: an epoch key is left"
        assert not files_with(self.world.folder, CANARY), "I1: a picture in clear"
        for known in self.witness.known.values():
            self.witness.hold_unreadable(known)


# What may be found while somebody has yet to do something, and nothing is wrong with what is there.
WAITING: Final = {
    "purge_silent",
    "checkpoint_late",
    "deletion_late",
    "lease_past_due",
    "order_nobody_looked_at",
    "epoch_key_past_its_end",
    "key_past_its_end",
    "address_past_its_end",
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
    started = time.process_time()
    try:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            Machine,
            settings=settings(
                max_examples=-(-STEPS // 80),  # a world has 88 steps on average
                stateful_step_count=STEPS_PER_WORLD,
                derandomize=not IS_NIGHTLY,
                database=None,
                deadline=None,
                print_blob=True,
                report_multiple_bugs=False,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        logging.disable(logging.NOTSET)
        Machine.pristine.close()
        with capsys.disabled():
            seconds = time.process_time() - started
            sys.stdout.write(f"\n{Machine.steps} steps in {seconds:.0f} s of processor time\n")
    assert Machine.steps >= STEPS
