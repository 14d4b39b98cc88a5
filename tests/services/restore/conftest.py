"""A copy of the database, and putting it back."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from django.db import connection, connections

from headshots.models import Order, OrderKey, Receipt
from headshots.services import claiming, clock, incarnation, orders, purge, shots
from headshots.services.orders import Placed
from headshots.states import OrderState
from tests.rendered import rendered


def finish(placed: Placed) -> None:
    """Three pictures, without an engine."""
    at = clock.now()
    orders.accept(placed.order, at)
    for claimed in claiming.claim("worker", 3, at):
        assert shots.commit(claimed, rendered(claimed), at)


def back_up(to: Path) -> None:
    """A consistent copy of the database, as an operator's backup makes it."""
    with closing(sqlite3.connect(to)) as copy:
        assert connection.connection is not None or connection.ensure_connection() is None
        connection.connection.backup(copy)


def put_back(copy: Path) -> None:
    """The old copy in the place of the database, under a service that goes on running."""
    with closing(sqlite3.connect(copy)) as source:
        source.backup(connection.connection)
    connections.close_all()


@pytest.fixture
def put_back_after_purge(placed: Placed, tmp_path: Path, purge_all: Callable[[], None]) -> Placed:
    """An order with pictures, purged and receipted; then the database of before."""
    finish(placed)
    incarnation.observe()
    back_up(tmp_path / "copy.sqlite3")
    purge.request(placed.order, actor="customer", now=clock.now())
    purge_all()
    assert Receipt.objects.count() == 1
    put_back(tmp_path / "copy.sqlite3")
    assert Order.objects.get().state == OrderState.READY
    assert OrderKey.objects.count() == 2
    return placed
