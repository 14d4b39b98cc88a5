"""The names that are stored, and an order whose pictures are there."""

from datetime import datetime

from headshots.services import claiming, objects, orders, shots
from headshots.services.orders import Placed
from pipelines.types import FailedShot
from tests.rendered import rendered


def stored_names() -> list[str]:
    return sorted(objects.blobs().list("o/"))


def finish(placed: Placed, now: datetime, *, done: int = 3) -> None:
    """An order whose pictures are there; the others failed."""
    orders.accept(placed.order, now)
    for place, claimed in enumerate(claiming.claim("worker", 3, now)):
        if place < done:
            assert shots.commit(claimed, rendered(claimed), now)
        else:
            failed = FailedShot(shot_id=str(claimed.shot.pk), code="no_likeness", is_retryable=False)
            shots.fail(claimed, failed, now)
