"""A finished order and an engine's pictures, for the tests of the export."""

import io
import json
import zipfile
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from django.utils import timezone
from PIL import Image

from headshots.models import Order
from headshots.services import claiming, export, orders, shots
from headshots.services.orders import Placed
from pipelines.types import FinishedShot, QualityReport


def exported(order: Order, now: datetime | None = None) -> zipfile.ZipFile:
    """The whole ZIP of a fresh look at the order."""
    fresh = Order.objects.get(pk=order.pk)
    pieces = export.stream(fresh, now or timezone.now())
    return zipfile.ZipFile(io.BytesIO(b"".join(pieces)))


def data_of(archive: zipfile.ZipFile) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(archive.read("data.json"))
    return shown


def iso(moment: datetime | None) -> str | None:
    """As the export writes it: UTC, to the millisecond, or to the second where there is nothing beyond."""
    if moment is None:
        return None
    precision = "milliseconds" if moment.microsecond else "seconds"
    return moment.isoformat(timespec=precision).replace("+00:00", "Z")


def noise_jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (96, 64, 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=92)
    return file.getvalue()


def deliver(order: Order, count: int) -> list[tuple[bytes, bytes]]:
    """Let `count` pictures of the order exist; their (headshot, preview) by index."""
    made = []
    for claimed in claiming.claim("machine-07:worker", count, timezone.now()):
        pair = noise_jpeg(claimed.shot.index), noise_jpeg(100 + claimed.shot.index)
        finished = FinishedShot(
            shot_id=str(claimed.shot.pk),
            seed=claimed.seeds[0],
            jpeg=pair[0],
            preview_jpeg=pair[1],
            width=896,
            height=1152,
            report=QualityReport(measures={}),
            seconds=1.5,
        )
        assert shots.commit(claimed, finished, timezone.now())
        made.append(pair)
    return made


@pytest.fixture
def ready(placed: Placed) -> tuple[Order, list[tuple[bytes, bytes]]]:
    """A free order with its three pictures."""
    orders.accept(placed.order, timezone.now())
    return Order.objects.get(pk=placed.order.pk), deliver(placed.order, 3)
