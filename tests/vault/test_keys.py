"""Hours, the root ring and its file, and the order keys under an epoch."""

import stat
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID

import pytest

from headshots.vault.envelope import Role
from headshots.vault.epochs_ring import RingEpochs
from headshots.vault.errors import BadKeyFile, KeyGone, Unreadable
from headshots.vault.keys import RootRing, epoch_of, new_order_key, not_after_of, open_order_key
from tests.vault.processes import in_processes

OLD, NEW = b"o" * 32, b"n" * 32


def private_file(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


# epochs in time


def test_epoch_is_the_utc_hour_and_ends_24_hours_after_it_began(now: datetime) -> None:
    assert epoch_of(now) == 487000
    assert epoch_of(datetime(2025, 7, 22, 16, 0, tzinfo=UTC)) == 487000
    assert epoch_of(datetime(2025, 7, 22, 15, 59, 59, 999999, tzinfo=UTC)) == 486999
    assert not_after_of(487000) == datetime(2025, 7, 23, 16, 0, tzinfo=UTC)


def test_epoch_does_not_depend_on_the_zone_a_time_is_told_in(now: datetime) -> None:
    assert epoch_of(now.astimezone(timezone(timedelta(hours=5, minutes=30)))) == 487000


def test_a_time_without_zone_has_no_epoch() -> None:
    with pytest.raises(TypeError):
        epoch_of(datetime(2025, 7, 22, 16, 40))  # noqa: DTZ001


# root ring


def test_ring_is_read_from_lines_of_hex(tmp_path: Path) -> None:
    path = private_file(tmp_path / "root", f"{NEW.hex()}\n\n  {OLD.hex().upper()}  \n")

    assert RootRing.load(path).keys == (NEW, OLD)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "holds no key"),
        ("\n\n", "holds no key"),
        (f"{NEW.hex()}\n{OLD.hex()[:-2]}\n", "line 2: the key has 31 bytes, not 32"),
        (NEW.hex() + "00", "line 1: the key has 33 bytes, not 32"),
        (NEW.hex()[:-1], "line 1: not a hexadecimal key"),
        ("k" * 64, "line 1: not a hexadecimal key"),
        ("é" * 32, "line 1: not a hexadecimal key"),
        ("00" * 32, "line 1: the key is all zeros"),
    ],
)
def test_unusable_key_file_is_refused_with_its_line_and_without_its_content(
    tmp_path: Path, text: str, complaint: str
) -> None:
    path = private_file(tmp_path / "root", text)

    with pytest.raises(BadKeyFile, match=complaint) as caught:
        RootRing.load(path)

    assert str(caught.value).startswith(str(path))
    assert NEW.hex()[:16] not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o601])
def test_key_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = private_file(tmp_path / "root", NEW.hex())
    path.chmod(mode)

    with pytest.raises(BadKeyFile, match=f"mode {mode:04o}"):
        RootRing.load(path)


def test_missing_key_file_is_an_error_and_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RootRing.load(tmp_path / "root")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keys", [(), (b"short",), (NEW, bytes(32))])
def test_ring_of_unusable_keys_cannot_be_built(keys: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match="root"):
        RootRing(keys)


def test_ring_does_not_print_its_keys() -> None:
    assert repr(RootRing((NEW,))) == "RootRing()"


def test_first_key_wraps_and_any_key_unwraps() -> None:
    epoch_key = b"e" * 32
    under_old = RootRing((OLD,)).wrap(epoch_key, 487000)
    rotated = RootRing((NEW, OLD))

    assert rotated.unwrap(under_old, 487000) == epoch_key
    assert RootRing((NEW,)).unwrap(rotated.wrap(epoch_key, 487000), 487000) == epoch_key
    with pytest.raises(Unreadable):
        RootRing((NEW,)).unwrap(under_old, 487000)
    with pytest.raises(Unreadable):
        rotated.unwrap(under_old, 487001)


def test_ring_is_made_once_in_a_private_file_and_then_found_again(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "root"

    made = RootRing.load_or_create(path)

    assert RootRing.load_or_create(path) == made == RootRing.load(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_processes_that_start_together_get_the_same_ring(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from headshots.vault.keys import RootRing\n"
        "print('ready', flush=True); input()\n"
        "print(RootRing.load_or_create(pathlib.Path(sys.argv[1])).keys[0].hex())"
    )

    answers = in_processes(6, script, tmp_path / "root")

    assert set(answers) == {(tmp_path / "root").read_text().strip()}
    assert list(tmp_path.iterdir()) == [tmp_path / "root"]


def test_the_ring_of_the_process_that_was_first_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = private_file(tmp_path / "root", NEW.hex())
    monkeypatch.setattr(Path, "exists", lambda _: False)

    assert RootRing.load_or_create(path).keys == (NEW,)
    assert list(tmp_path.iterdir()) == [path]


# order keys


def test_order_key_opens_while_its_epoch_lives_and_never_after(
    epochs: RingEpochs, order_id: UUID, now: datetime
) -> None:
    wrapped = new_order_key(epochs, order_id=order_id, role=Role.SELFIES, epoch=487000, now=now)
    row = {"order_id": order_id, "role": Role.SELFIES, "epoch": 487000, "not_after": not_after_of(487000)}

    assert len(wrapped) == 120
    assert len(open_order_key(epochs, wrapped, **row)) == 32  # type: ignore[arg-type]
    epochs.destroy(487000)
    with pytest.raises(KeyGone):
        open_order_key(epochs, wrapped, **row)  # type: ignore[arg-type]


def test_each_order_key_is_another(epochs: RingEpochs, order_id: UUID, now: datetime) -> None:
    keys = set()
    for role in Role:
        for _ in range(2):
            wrapped = new_order_key(epochs, order_id=order_id, role=role, epoch=487000, now=now)
            keys.add(
                open_order_key(
                    epochs,
                    wrapped,
                    order_id=order_id,
                    role=role,
                    epoch=487000,
                    not_after=not_after_of(487000),
                )
            )

    assert len(keys) == 4


def test_order_key_is_not_made_in_an_epoch_that_ended(
    epochs: RingEpochs, order_id: UUID, now: datetime
) -> None:
    with pytest.raises(KeyGone):
        new_order_key(epochs, order_id=order_id, role=Role.RESULTS, epoch=486976, now=now)
