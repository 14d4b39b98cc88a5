"""The write-ahead log is cut off after keys were deleted, and a slow reader holds nobody up for long."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from headshots.models import Order
from headshots.services import shredding

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "sqlite", reason="Postgres has no such journal"),
]


def journal_bytes() -> int:
    return Path(f"{connection.settings_dict['NAME']}-wal").stat().st_size


def milliseconds_of_waiting() -> int:
    """For how long a statement on this connection waits for others."""
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout")
        return int(cursor.fetchone()[0])


def waiting_while_it_truncates() -> list[int]:
    waits = []

    def watch(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        if "wal_checkpoint" in sql:
            assert isinstance(connection.connection, sqlite3.Connection)
            waits.append(connection.connection.execute("PRAGMA busy_timeout").fetchone()[0])
        return execute(sql, *rest)

    with connection.execute_wrapper(watch):
        shredding.truncate_journal()
    return waits


@pytest.mark.usefixtures("placed")
def test_a_reader_holds_a_deletion_up_for_half_a_second_at_most() -> None:
    before = milliseconds_of_waiting()
    reader = sqlite3.connect(str(connection.settings_dict["NAME"]), isolation_level=None)
    try:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM headshots_order").fetchone()
        Order.objects.update(generation=7)  # written after what the reader sees, so it cannot be cut off

        assert waiting_while_it_truncates() == [500]
        assert journal_bytes() > 0
        assert milliseconds_of_waiting() == before == 20_000
    finally:
        reader.close()

    shredding.truncate_journal()
    assert journal_bytes() == 0
