"""A healthy system, and what is planted into it."""

from datetime import datetime

import pytest

from headshots.models import Order
from headshots.services import objects, purge, verification
from headshots.services.orders import Placed


def found(now: datetime, *, is_fixing: bool = False) -> dict[str, int]:
    """The counts of one full look, by code; every check could look."""
    report = verification.inspect(now, is_fixing=is_fixing, is_full=True)
    assert report.blind == ()
    return {finding.code: finding.count for finding in report.findings}


@pytest.fixture
def healthy(placed: Placed, now: datetime) -> Order:
    """A living order whose photo is stored, in a house whose purge has just made its round."""
    purge.run(now)
    assert found(now) == {}
    return placed.order


def plant(name: str, data: bytes = b"HSE1 whose is this") -> str:
    objects.blobs().put(name, data)
    return name
