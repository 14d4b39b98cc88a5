"""Fixtures for all tests: a data folder for each, the sample portrait, orders, and a worker in-process."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings

from headshots import breakdown, tasks
from headshots.celery import Task, app
from headshots.models import Order
from headshots.services import orders, purge, styles
from headshots.services.consent import Consent
from headshots.services.orders import Placed
from pipelines.sample import sample_selfie

AGREED = Consent(is_given=True, is_adult=True)


@pytest.fixture(autouse=True)
def data(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Path:
    """The data folder of this test: keys, epochs, blobs."""
    folder = tmp_path_factory.mktemp("data")
    for part in (folder / "blobs", folder / "keys"):
        part.mkdir(mode=0o700)
    settings.DATA = folder
    settings.PURGE_SETTLE_SECONDS = 0.001
    return folder


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[str, ...]]]:
    """Every hint that would go to the broker, as (task, ids); none leaves the process."""
    hints: list[tuple[str, tuple[str, ...]]] = []
    for name in Task:
        monkeypatch.setattr(
            app.tasks[name],
            "apply_async",
            lambda args=(), name=name, **kwargs: hints.append((str(name), tuple(args))),
        )
    return hints


@pytest.fixture(autouse=True)
def _sound_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test counts the errors of another."""
    monkeypatch.setattr(breakdown, "_errors", [0])


@pytest.fixture
def now() -> datetime:
    """The real time, since epochs of the future cannot be made; tests pass later times on from here."""
    return timezone.now()


@pytest.fixture(scope="session")
def selfie() -> bytes:
    """The sample portrait as a phone would send it, with EXIF."""
    return sample_selfie()


@pytest.fixture
def built_in(db: None) -> None:
    """The eight built-in styles."""
    styles.seed_builtin(now=timezone.now())


@pytest.fixture
def place(built_in: None, selfie: bytes) -> Callable[..., Placed]:
    """Places an order through the service; keyword arguments replace the usual ones."""

    def place_one(**changes: Any) -> Placed:
        usual: dict[str, Any] = {
            "raw": selfie,
            "tier_slug": "free",
            "style_slugs": (),
            "agreed": AGREED,
            "upload_id": None,
            "now": timezone.now(),
        }
        return orders.place(**{**usual, **changes})

    return place_one


@pytest.fixture
def placed(place: Callable[..., Placed]) -> Placed:
    """One free order, not yet assessed."""
    return place()


@pytest.fixture
def render_all(db: None) -> Callable[[], None]:
    """Runs assessment and rendering in this process until nothing is left to do."""
    from headshots.states import OrderState

    def run() -> None:
        for order in Order.objects.filter(state=OrderState.ASSESSING):
            tasks.assess(str(order.pk))
        tasks.render()

    return run


@pytest.fixture
def purge_all(db: None) -> Callable[[], None]:
    """Purges everything that is due until nothing waits for its second look."""

    def run() -> None:
        while purge.run(timezone.now()).waiting:
            pass

    return run
