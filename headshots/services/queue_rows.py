"""The statements of the queue, as SQL: to ask for eight shots must cost a worker less than to make one step.

Django's query builder takes ten times as long for these as SQLite and Postgres do. They are the same for
both, but for the locks, which SQLite has no use for: there a claim holds the whole file.
"""

import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any, Final, TypeVar

from django.db import connection
from django.db.models import Model

from headshots.models import Order, Shot, Style, StyleVersion
from headshots.services import guarantee
from headshots.services.fair_queue import InFlight, Waiting
from headshots.states import ORDER_MOVES, SHOT_MOVES, WORKING_STATES, OrderState, ShotState, sources_of
from headshots.tiers import TIERS

MAX_ATTEMPTS: Final = 3
# What a shot came back with when nobody could say whether it was its own fault or that of one beside it.
ENGINE_BROKEN: Final = "engine_broken"
UNBLAMED_CODES: Final = (ENGINE_BROKEN, "out_of_memory")
CLOSING_TIME: Final = timedelta(minutes=2)  # nothing new is started this shortly before an order's deadline

_WORKING: Final = ", ".join(f"'{state}'" for state in WORKING_STATES)
# The same as `claiming.claimable`, in two parts: each then reads its index in order and stops.
_FREE: Final = {
    ShotState.LEASED: f"s.state = '{ShotState.LEASED}' AND s.lease_until < %(now)s",  # its worker was lost
    ShotState.PENDING: f"s.state = '{ShotState.PENDING}'",
}
# The order is looked up for each shot, so that no statistics lead a planner away from the index of the shots.
_TIER: Final = f"""
    (SELECT o.tier FROM headshots_order o WHERE o.id = s.order_id
    AND o.state IN ({_WORKING}) AND o.expires_at > %(closing)s)"""
_QUEUED: Final = f"""
    FROM headshots_shot s
    WHERE s.virtual_finish IS NOT NULL AND s.attempts < {MAX_ATTEMPTS} AND s.not_before <= %(now)s"""

# Made with nothing beside it: after something that nobody could be blamed for, and at its last attempt, so
# that one which kills its worker is given up for deaths of its own, and who was beside it is not.
_IS_APART: Final = f"""
    CASE WHEN s.attempts >= {MAX_ATTEMPTS - 1} OR s.error_code IN {UNBLAMED_CODES} THEN 1 ELSE 0 END"""

_ANY: Final = "SELECT " + " OR ".join(
    f"EXISTS (SELECT 1 {_QUEUED} AND {free} AND {_TIER} IS NOT NULL)" for free in _FREE.values()
)

_IN_FLIGHT: Final = f"""
    SELECT s.order_id, o.tier, count(*), sum(CASE WHEN s.lease_owner = %(owner)s THEN 1 ELSE 0 END)
    FROM headshots_shot s JOIN headshots_order o ON o.id = s.order_id
    WHERE s.state = '{ShotState.LEASED}' AND s.lease_until >= %(now)s
    GROUP BY s.order_id, o.tier"""

# Its conditions are columns of the shot alone: a second writer that waited for the row then looks at them
# again, which no database does for conditions on a joined table. The moves are those of `states.SHOT_MOVES`.
_IS_FREE: Final = " OR ".join(f"({_FREE[state]})" for state in sources_of(SHOT_MOVES, ShotState.LEASED))
_LEASE: Final = f"""
    UPDATE {{table}} AS s
    SET state = '{ShotState.LEASED}', attempts = attempts + 1, lease_token = lease_token + 1,
    lease_owner = %(owner)s, lease_until = %(lease_until)s
    WHERE s.id IN ({{ids}}) AND ({_IS_FREE}) RETURNING {{columns}}"""
_LEASES: Final = f"""
    SELECT s.id, s.lease_token, o.generation
    FROM headshots_shot s JOIN headshots_order o ON o.id = s.order_id
    WHERE s.id IN ({{ids}}) AND s.state = '{ShotState.LEASED}' AND o.state IN ({_WORKING})"""
_BEGINNABLE: Final = ", ".join(f"'{state}'" for state in sources_of(ORDER_MOVES, OrderState.RENDERING))
_BEGIN: Final = f"""
    UPDATE headshots_order SET state = '{OrderState.RENDERING}', started_at = coalesce(started_at, %(now)s)
    WHERE id = %(order)s AND state IN ({_BEGINNABLE})"""
_ALL_OF: Final = "SELECT {columns} FROM {table} WHERE id IN ({ids})"

RowT = TypeVar("RowT", Shot, Order, StyleVersion, Style)


def any_waiting(now: datetime) -> bool:
    """Whether any shot waits for a worker."""
    with connection.cursor() as cursor:
        cursor.execute(_ANY, _adapted(_times(now)))
        return bool(cursor.fetchone()[0])


def in_flight(owner: str, now: datetime) -> InFlight:
    """What is leased now."""
    by_order: Counter[uuid.UUID] = Counter()
    here_by_tier: Counter[str] = Counter()
    with connection.cursor() as cursor:
        cursor.execute(_IN_FLIGHT, _adapted({"now": now, "owner": owner}))
        for order_id, tier, anywhere, here in cursor.fetchall():
            by_order[_uuid(order_id)] += anywhere
            here_by_tier[tier] += here
    return InFlight(by_order=by_order, here_by_tier=here_by_tier)


def waiting(limit: int, held: InFlight, now: datetime, *, skip_locked: bool) -> dict[str, list[Waiting]]:
    """The first shots of each tier, locked where the database can: enough for `choose` to take `limit`.

    Those are `limit` of the lost ones and of the pending ones, and as many again behind each order that its
    cap would stop among these. With `skip_locked` rows that another worker is just looking at are left out,
    else they are waited for.
    """
    found: dict[str, dict[int, Waiting]] = {slug: {} for slug in TIERS}
    lanes = [_Lane(tier=slug, state=state) for slug in TIERS for state in _FREE]
    while lanes:
        further = []
        for lane, heads in zip(lanes, _heads(lanes, limit, now, skip_locked=skip_locked), strict=True):
            found[lane.tier] |= {each.shot: each for each in heads}
            stopped = lane.stopped_by_cap(heads, held)
            if stopped and len(heads) == limit:
                further.append(replace(lane, passed_over=lane.passed_over | stopped))
        lanes = further
    return {slug: sorted(shots.values(), key=_place) for slug, shots in found.items()}


def lease(shots: Collection[int], owner: str, now: datetime, until: datetime) -> list[Shot]:
    """One conditional UPDATE; the shots that are `owner`'s from here on, with order, style version, style."""
    if not shots:
        return []
    times = {"now": now, "lease_until": until, "owner": owner}
    won = _rows(Shot, _LEASE, shots, times)
    orders = {order.pk: order for order in _rows(Order, _ALL_OF, {shot.order_id for shot in won})}
    versions = {row.pk: row for row in _rows(StyleVersion, _ALL_OF, {shot.style_version_id for shot in won})}
    styles = {style.pk: style for style in _rows(Style, _ALL_OF, {row.style_id for row in versions.values()})}
    for version in versions.values():
        version.style = styles[version.style_id]
    for shot in won:
        shot.order, shot.style_version = orders[shot.order_id], versions[shot.style_version_id]
    return won


def leases(shots: Collection[int]) -> set[tuple[int, int, int]]:
    """Shot, lease token and its order's generation, of those of the shots that somebody may be working on."""
    if not shots:
        return set()
    names = {f"id{place}": shot for place, shot in enumerate(shots)}
    with connection.cursor() as cursor:
        cursor.execute(_LEASES.format(ids=_placeholders(names)), names)
        return set(cursor.fetchall())


def begin(orders: Collection[uuid.UUID], now: datetime) -> None:
    """Record that the first shot of queued orders was claimed.

    One after the other, so that two workers that begin the same ones never wait for each other.
    """
    with connection.cursor() as cursor:
        for order in orders:
            cursor.execute(_BEGIN, _adapted({"order": order, "now": now}))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lane:
    """The shots of a tier in one state, without those of some orders."""

    tier: str
    state: ShotState
    passed_over: frozenset[uuid.UUID] = frozenset()

    def stopped_by_cap(self, heads: Collection[Waiting], held: InFlight) -> set[uuid.UUID]:
        """The orders of which `heads` hold more than may be in flight while others wait."""
        if self.state != ShotState.PENDING:
            return set()
        counts = Counter(each.order for each in heads)
        cap = TIERS[self.tier].in_flight_cap
        return {order for order, count in counts.items() if held.by_order.get(order, 0) + count > cap}


def _heads(lanes: Sequence[_Lane], limit: int, now: datetime, *, skip_locked: bool) -> list[list[Waiting]]:
    """The first `limit` shots of each of the lanes, in one query; no two of a tier have one virtual time."""
    parts, parameters = [], _times(now) | {"limit": limit}
    for number, lane in enumerate(lanes):
        names = {f"order{number}_{place}": order for place, order in enumerate(lane.passed_over)}
        parameters |= names
        without = f"AND s.order_id NOT IN ({_placeholders(names)})" if names else ""
        parts.append(
            f"""SELECT * FROM (
            SELECT {number} AS lane, s.id, s.order_id, s.work, s.virtual_finish, s.not_before, {_IS_APART}
            {_QUEUED}
            AND {_FREE[lane.state]} AND {_TIER} = '{lane.tier}' {without}
            ORDER BY s.virtual_finish LIMIT %(limit)s {_lock(skip_locked)}) AS lane{number}"""
        )
    heads: list[list[Waiting]] = [[] for _ in lanes]
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(parts), _adapted(parameters))
        for number, shot, order, work, virtual_finish, since, is_apart in cursor.fetchall():
            heads[number].append(
                Waiting(
                    shot=shot,
                    order=_uuid(order),
                    tier=lanes[number].tier,
                    work=work,
                    virtual_finish=virtual_finish,
                    since=_time(since),
                    is_apart=bool(is_apart),
                )
            )
    return heads


def _lock(skip_locked: bool) -> str:
    if not connection.features.has_select_for_update:
        return ""
    return "FOR NO KEY UPDATE SKIP LOCKED" if skip_locked else "FOR NO KEY UPDATE"


def _place(each: Waiting) -> tuple[int, int]:
    return each.virtual_finish, each.shot


def _rows(
    model: type[RowT], statement: str, ids: Collection[Any], parameters: Mapping[str, Any] | None = None
) -> list[RowT]:
    """The rows that a statement about these ids gives back, as they are after it."""
    reading = _reading(model, connection.vendor)
    names = {f"id{place}": each for place, each in enumerate(ids)}
    text = statement.format(table=reading.table, columns=reading.columns, ids=_placeholders(names))
    with connection.cursor() as cursor:
        cursor.execute(text, _adapted({**(parameters or {}), **names}))
        return [
            model.from_db(connection.alias, reading.names, reading.read(row)) for row in cursor.fetchall()
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """How a model's rows are read from one kind of database: `Model.objects.raw` finds this out each time."""

    table: str
    columns: str
    names: list[str]
    conversions: Sequence[tuple[int, Callable[[Any], Any]]]

    def read(self, row: Sequence[Any]) -> list[Any]:
        """The row's values as the model's fields hold them."""
        values = list(row)
        for place, convert in self.conversions:
            values[place] = convert(values[place])
        return values


@cache
def _reading(model: type[Model], vendor: str) -> _Reading:
    fields = model._meta.concrete_fields
    table = model._meta.db_table
    columns = [field.get_col(table) for field in fields]
    conversions = [
        (place, partial(convert, expression=column, connection=connection))
        for place, column in enumerate(columns)
        for convert in connection.ops.get_db_converters(column) + column.get_db_converters(connection)
    ]
    return _Reading(
        table=connection.ops.quote_name(table),
        columns=", ".join(connection.ops.quote_name(str(field.column)) for field in fields),
        names=[field.attname for field in fields],
        conversions=conversions,
    )


def _placeholders(names: Iterable[str]) -> str:
    return ", ".join(f"%({name})s" for name in names)


def _times(now: datetime) -> dict[str, Any]:
    return {"now": now, "closing": now + guarantee.DEADLINE + CLOSING_TIME}


# Values as the driver takes and gives them: SQLite knows neither times nor UUIDs.


def _adapted(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _adapt(value) for name, value in parameters.items()}


def _adapt(value: Any) -> Any:
    if isinstance(value, uuid.UUID):
        return value if connection.features.has_native_uuid_field else value.hex
    return connection.ops.adapt_unknown_value(value)


def _uuid(value: uuid.UUID | str) -> uuid.UUID:
    return uuid.UUID(value) if isinstance(value, str) else value


def _time(value: datetime | str) -> datetime:
    found = datetime.fromisoformat(value) if isinstance(value, str) else value
    return found if found.tzinfo else found.replace(tzinfo=UTC)
