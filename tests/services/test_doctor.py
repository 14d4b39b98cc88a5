"""The doctor: each threat to the promise is arranged, and found with the sentence it threatens."""

import json
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from pytest_django import Settings

from headshots.services import clock, doctor, incarnation, objects
from headshots.vault.errors import UnsafeStore

pytestmark = pytest.mark.django_db

Usage = namedtuple("Usage", "total used free")


def found(check: str) -> list[str]:
    return [finding.message for finding in doctor.examine() if finding.check == check]


def test_each_check_looks_and_each_finding_names_a_sentence() -> None:
    for finding in doctor.examine():
        assert "could not look" not in finding.message, finding
        assert finding.promise in str(finding)


def test_keys_that_others_can_read(data: Path) -> None:
    objects.epochs().epochs()
    assert found("key files") == []

    (data / "keys" / "root.keys").chmod(0o644)

    assert found("key files") == ["keys/root.keys has mode 0644; others can read it"]


def test_root_keys_beside_the_epoch_keys_in_production(data: Path, settings: Settings) -> None:
    settings.IS_PRODUCTION = True
    settings.ROOT_KEYS = data / "keys" / "root.keys"

    assert found("key files") == [
        "the root keys lie in the data folder: one snapshot holds them and the epoch keys"
    ]


@pytest.mark.skipif(connection.vendor != "sqlite", reason="SQLite's pragma")
def test_a_database_that_keeps_what_it_deletes() -> None:
    assert found("database") == []

    with connection.cursor() as cursor:
        cursor.execute("PRAGMA secure_delete=OFF")
    try:
        assert found("database") == ["PRAGMA secure_delete is 0: deleted keys stay in the file"]
    finally:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA secure_delete=ON")


def test_temporary_files_on_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/dev/shm")
    if doctor.filesystem_of(Path("/dev/shm"), Path("/proc/self/mounts").read_text()) == "tmpfs":
        assert found("scratch") == []

    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/proc")

    assert found("scratch") == ["temporary files go to a disk (/proc); set TMPDIR to a tmpfs"]


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/", "overlay"), ("/tmp/a", "tmpfs"), ("/tmpfoo", "overlay"), ("/my disk/x", "ext4")],
)
def test_the_innermost_mount_decides(folder: str, kind: str) -> None:
    mounts = (
        "overlay / overlay rw 0 0\nx /tmp ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\ny /my\\040disk ext4 rw 0 0\n"
    )

    assert doctor.filesystem_of(Path(folder), mounts) == kind


def test_a_disk_that_is_nearly_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(100, 91, 9))

    assert found("free space") == [
        "only 9 % of the data folder's disk is free: deletions could not be recorded"
    ]


def test_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.read_text

    def read_text(path: Path, *args: object) -> str:
        if str(path) == "/proc/swaps":
            return "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n"
        return real(path)

    monkeypatch.setattr(Path, "read_text", read_text)

    assert found("swap") == ["swap is on (1 areas): memory may be written to disk"]


def test_clocks_that_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "problem", lambda: "the clocks are 90 s apart")

    assert found("clocks") == [
        "the clocks are 90 s apart; once they are right: manage.py purge --reset-clock"
    ]


def test_a_restored_database() -> None:
    incarnation.distrust()

    assert found("restore") == [incarnation.PROBLEM]


def test_what_a_store_says_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects.blobs(), "weaknesses", lambda: ["the bucket is open to the public"])
    assert found("stores") == ["the bucket is open to the public"]

    def refuse() -> None:
        raise UnsafeStore("bucket b is replicated: copies would outlive their deletion")

    monkeypatch.setattr(objects, "blobs", refuse)
    assert found("stores") == ["bucket b is replicated: copies would outlive their deletion"]


def test_django_as_a_public_site(settings: Settings) -> None:
    settings.DEBUG = True
    assert found("django") == ["HEADSHOTS_DEBUG shows settings and variables to whoever causes an error"]

    settings.IS_PRODUCTION = True
    assert any("security.W018" in message for message in found("django"))


def test_a_broker_that_cannot_be_asked_is_a_finding(settings: Settings) -> None:
    settings.BROKER_URL = "redis://127.0.0.1:1/0"

    assert found("broker") == ["could not look (ConnectionError)"]


def test_the_command_names_sentences_and_ends_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "TABLE", {"swap": lambda: iter([("swap is on", doctor.IN_MEMORY)])})

    with pytest.raises(CommandError) as ended:
        call_command("doctor", "--json")

    assert ended.value.returncode == 1
    said = json.loads(capsys.readouterr().out)
    assert said["findings"] == [{"check": "swap", "message": "swap is on", "promise": doctor.IN_MEMORY}]
    assert len(said["unseen"]) == 3


def test_the_command_is_silent_on_a_good_machine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "TABLE", {})

    call_command("doctor")

    assert "threatens" not in capsys.readouterr().out


def test_weights_that_are_not_what_was_published(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.ENGINE, settings.WEIGHTS = "instantid", tmp_path
    monkeypatch.setattr(doctor, "TABLE", {})

    with pytest.raises(CommandError):
        call_command("doctor")

    said = capsys.readouterr().out
    assert "weights: " in said
    assert "is missing" in said
    assert doctor.GENUINE in said
