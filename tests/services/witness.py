"""Who watches the purge from outside the database, and knows what must hold whatever has happened.

The numbers are those of the invariants: I1 nothing in clear, I2 no object without a row, I3 no key past its
end, I4 nothing readable or writable behind the fence, I5 nothing readable past the end, I6 nothing stored
past the end, I7 no order held up by another, I11 no copy of the database makes anything readable again, I12 a
receipt if and only if everything was seen to be gone, I14 all of it within 24 hours.
"""

import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import pytest
from django.db import connection

from headshots.exceptions import NotFound, Refusal
from headshots.models import Order, OrderKey, StoredObject
from headshots.services import clock, delivery, objects, orders, uploads
from headshots.states import LIVE_STATES, OrderState
from headshots.vault.envelope import Kind, Role
from headshots.vault.errors import KeyGone, StoreAway
from headshots.vault.keys import not_after_of, open_order_key
from pipelines.errors import Retryable
from tests.services.world import SETTLE_SECONDS, World

CANARY: Final = b"\xff\xd8\xff\xe0 a picture in clear "
MAGICS: Final = (b"HSE1", b"HST1")
EXPECTED: Final = (Refusal, NotFound, Retryable, StoreAway)  # what callers are told to expect
DAY: Final = timedelta(hours=24)


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


class Witness:
    """Sees every put and every listing of the store, and remembers what any database ever said."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.known: dict[uuid.UUID, Known] = {}
        self.late: set[str] = set()  # objects written by who was checked before the order had ended
        self.is_racing = False
        self.is_restored = False  # a copy was put back, and nothing was reconciled since
        self.last_now = clock.now()
        self._violations: list[str] = []
        self._empty_looks: defaultdict[str, list[datetime]] = defaultdict(list)  # since the last other one
        self._receipts: set[str] = set()
        self._changes = -1
        self._turn = 0
        world.store.on_put = self._saw_put
        world.store.on_list = self._saw_list

    def hold_all(self) -> None:
        """Raises AssertionError, which names the invariant, when one does not hold now."""
        assert not self._violations, self._violations
        now = clock.now()
        assert now >= self.last_now - clock.MARK_STEP, "time went back"
        self.last_now = now
        changes = connection.connection.total_changes
        if changes != self._changes:
            self._changes = changes
            self.see_rows()
            self._hold_i2()
        self._hold_one_order()

    def see_rows(self) -> None:
        """Remember what the database says, and hold every new receipt against what was seen."""
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT o.id, o.state, o.selfie_shredded_at IS NOT NULL, r.id FROM headshots_order o"
                " LEFT JOIN headshots_receipt r ON r.order_id = o.id"
            )
            rows = cursor.fetchall()
        for order_id, state, has_no_selfie, receipt_id in rows:
            assert (state == OrderState.PURGED) == (receipt_id is not None), "I12: receipt or end alone"
            known = self.known.get(uuid.UUID(hex=order_id))
            if known and not self.is_restored:
                known.is_gone |= state not in LIVE_STATES
                known.is_selfie_gone |= bool(has_no_selfie)
            if receipt_id is not None and receipt_id not in self._receipts:
                self._hold_i12(Order.objects.get(pk=uuid.UUID(hex=order_id)))
                self._receipts.add(receipt_id)

    def hold_i3_and_i5(self, now: datetime) -> None:
        """After a pass: no key is past its end, and a copy of one opens nothing."""
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

    def hold_unreadable(self, known: Known) -> None:
        """I4, I5 and I11 for one order: nobody is shown, opens or writes anything of it."""
        for attempt in self._attempts(known):
            _hold_refused(attempt)

    def _attempts(self, known: Known) -> list[Callable[[], object]]:
        now = clock.now()
        return [
            lambda: orders.find(known.order.pk, known.token, now),
            lambda: uploads.open_selfie(known.order, now),
            lambda: delivery.stream_archive(known.order, now),
            lambda: _write(known.order, now),
            *(lambda stored=stored: objects.read(stored, now) for stored in known.stored[-2:]),
        ]

    def _hold_one_order(self) -> None:
        """One order and one way to it at each step, in turn: each costs some milliseconds."""
        if not self.known:
            return
        self._turn += 1
        round_, place = divmod(self._turn, len(self.known))
        known = [*self.known.values()][place]
        if known.is_gone or self.world.true_time >= known.placed_at + DAY:
            attempts = self._attempts(known)
            _hold_refused(attempts[round_ % len(attempts)])
        elif known.is_selfie_gone:
            _hold_refused(lambda: uploads.open_selfie(known.order, clock.now()))

    def _hold_i2(self) -> None:
        if self.is_restored:
            return
        there = set(self.world.store.real.list("o/"))
        self.late &= there
        ids = StoredObject.objects.values_list("order_id", "pk")
        assert there <= {f"o/{order.hex}/{pk.hex}" for order, pk in ids} | self.late, (
            "I2: an object has no row"
        )

    def _hold_i12(self, order: Order) -> None:
        prefix = f"o/{order.pk.hex}/"
        assert not OrderKey.objects.filter(order=order).exists(), "I12: a receipt beside a key"
        assert set(self.world.store.real.list(prefix)) <= self.late, "I12: a receipt beside an object"
        looks = self._empty_looks[prefix]
        assert looks, "I12: a receipt without a look"
        assert order.settles_at
        assert order.absent_at
        assert order.absent_again_at
        assert order.shredded_at
        assert order.swept_at
        assert order.shredded_at <= order.swept_at <= order.absent_at, "I12: a step before the one it proves"
        assert order.absent_again_at >= order.settles_at, "I12: the second look was too early"
        apart = order.absent_again_at - order.absent_at
        assert apart >= timedelta(seconds=SETTLE_SECONDS), f"I12: both looks were one, {apart} apart"

    def _saw_put(self, name: str, data: bytes) -> None:
        if not data.startswith(MAGICS) or CANARY in data:
            self._violations.append(f"I1: {name} is not sealed")
        if not name.startswith("o/"):
            return
        self._changes = -1
        order_id, object_id = (uuid.UUID(hex=part) for part in name.split("/")[1:])
        state = Order.objects.filter(pk=order_id).values_list("state", flat=True).first()
        if state != OrderState.PURGED:
            self._empty_looks[f"o/{order_id.hex}/"].clear()
        if self.is_racing and state not in LIVE_STATES:
            self.late.add(name)
        elif state not in LIVE_STATES and not self.is_restored:
            self._violations.append(f"I4: {name} was written while its order was {state}")
        elif not StoredObject.objects.filter(pk=object_id).exists() and not self.is_restored:
            self._violations.append(f"I2: {name} was written before its row")

    def _saw_list(self, prefix: str, names: Sequence[str]) -> None:
        if names:
            self._empty_looks[prefix].clear()
        else:
            self._empty_looks[prefix].append(clock.now())


def _hold_refused(read: Callable[[], object]) -> None:
    try:
        read()
    except EXPECTED:
        return
    raise AssertionError("I4 or I11: something of an ended order can be read or written")


def _write(order: Order, now: datetime) -> None:
    stored = objects.intend(order, Kind.HEADSHOT, 1, now)
    try:
        objects.put(stored, CANARY, now)
    except EXPECTED:
        objects.discard(stored)
        raise
