"""The bench of the overlap, small: its sections run, every picture is delivered, beside the steps."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from django.utils import timezone

from headshots.models import Shot
from headshots.services import orders
from headshots.services.orders import Placed
from tests.bench.overlap import Costs, Device, measure_finishing, measure_overlap

FAST = Costs(step=0.001, decode=0.001, enlarge=0.001)


def device() -> Device:
    small = np.full((48, 37, 3), 127, np.uint8)
    return Device(FAST, small, small)


@pytest.mark.django_db(transaction=True)
def test_a_pack_is_delivered_by_threads_beside_the_steps(place: Callable[..., Placed]) -> None:
    orders.accept(place().order, timezone.now())

    found: dict[str, Any] = measure_overlap(device(), steps=3)

    assert found["pictures"] == 3
    assert found["delivering_threads"] >= 1
    assert found["wall_over_device"] >= 1
    assert set(Shot.objects.values_list("state", flat=True)) == {"done"}


def test_finishing_is_measured_against_both_peers() -> None:
    found = measure_finishing(np.full((64, 48, 3), 127, np.uint8), turns=1)

    assert all(rate > 0 for rate in found.values())
