"""The names that are stored, and an order whose pictures are there."""

from datetime import datetime

from headshots.services import claiming, objects, orders, shots
from headshots.services.orders import Placed
from pipelines.types import FailedShot, FinishedShot, QualityReport


def stored_names() -> list[str]:
    return sorted(objects.blobs().list("o/"))


def finish(placed: Placed, now: datetime, *, done: int = 3) -> None:
    """An order whose pictures are there; the others failed."""
    orders.accept(placed.order, now)
    for place, claimed in enumerate(claiming.claim("worker", 3, now)):
        if place < done:
            finished = FinishedShot(
                shot_id=str(claimed.shot.pk),
                seed=claimed.seeds[0],
                jpeg=b"a picture",
                preview_jpeg=b"a small one",
                width=896,
                height=1152,
                report=QualityReport(measures={}),
                seconds=1.0,
            )
            assert shots.commit(claimed, finished, now)
        else:
            failed = FailedShot(shot_id=str(claimed.shot.pk), code="no_likeness", is_retryable=False)
            shots.fail(claimed, failed, now)
