"""What is broken beside the objects - keys, tombstones, other steps of a pass - holds up no deletion."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import pytest
from pytest_django import Settings

from headshots.models import Heartbeat, Order, OrderKey, Receipt
from headshots.services import objects, purge, shredding, tombstones, verification
from headshots.services.orders import Placed
from headshots.states import OrderState

pytestmark = pytest.mark.django_db


def open_to_others(settings: Settings, folder: Path) -> None:
    settings.ROOT_KEYS = folder / "root.keys"
    settings.ROOT_KEYS.write_text("ab" * 32 + "\n")
    settings.ROOT_KEYS.chmod(0o640)


def missing(settings: Settings, folder: Path) -> None:
    settings.ROOT_KEYS = folder / "not mounted"


def malformed(settings: Settings, folder: Path) -> None:
    settings.DATA.joinpath("keys", "epochs.sqlite3").write_bytes(b"no database at all" * 1000)


@pytest.mark.parametrize("break_keys", [open_to_others, missing, malformed])
def test_keys_that_cannot_be_opened_hold_up_no_deletion(
    placed: Placed, settings: Settings, tmp_path: Path, break_keys: Callable[[Settings, Path], None]
) -> None:
    break_keys(settings, tmp_path)
    at = placed.order.not_after + timedelta(seconds=1)

    first = purge.run(at)
    second = purge.run(at + timedelta(minutes=1))

    assert (first.failed, first.waiting, first.epoch_keys_destroyed) == (0, 1, 0)
    assert (second.failed, second.purged) == (0, 1)
    assert not OrderKey.objects.exists()
    assert purge.objects_left() == 0
    assert Order.objects.get().state == OrderState.PURGED
    assert Receipt.objects.count() == 1
    assert Heartbeat.objects.get(name=purge.HEARTBEAT).at == at + timedelta(minutes=1)
    report = verification.inspect(at + timedelta(minutes=1))
    assert "epoch keys" in report.blind
    assert not report.is_clean


@pytest.mark.parametrize(
    ("module", "step"),
    [
        (shredding, "destroy_due_selfie_keys"),
        (shredding, "delete_keyless_selfies"),
        (objects, "drop_expired_keys"),
        (tombstones, "prune"),
        (tombstones, "hand_over"),
    ],
)
def test_a_step_that_breaks_holds_up_no_deletion(
    placed: Placed, monkeypatch: pytest.MonkeyPatch, module: Any, step: str
) -> None:
    def broken(*args: object, **kwargs: object) -> NoReturn:
        raise ValueError("broken")

    monkeypatch.setattr(module, step, broken)
    at = placed.order.expires_at

    purge.run(at)
    tally = purge.run(at + timedelta(minutes=1))

    assert (tally.failed, tally.purged) == (0, 1)
    assert purge.objects_left() == 0
    assert Heartbeat.objects.get(name=purge.HEARTBEAT).at == at + timedelta(minutes=1)


def test_what_broke_is_in_the_log_by_its_name(
    placed: Placed, monkeypatch: pytest.MonkeyPatch, now: datetime, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object, **kwargs: object) -> NoReturn:
        raise ValueError("words that may hold anything")

    monkeypatch.setattr(objects, "drop_expired_keys", broken)

    purge.run(now)

    assert "dropping of expired keys failed: ValueError" in caplog.text
    assert "words" not in caplog.text
