"""The audit log: a chain without gaps whoever writes, and what a cut, altered or restored one shows."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.db import IntegrityError, connection, transaction
from django.utils import timezone
from pytest_django import Settings

from headshots.env import ROOT
from headshots.models import AuditEntry
from headshots.services import audit, purge, signing
from headshots.vault.chain import START, head_after, parse_checkpoint
from headshots.vault.notes import verify_note

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


def record(count: int, now: datetime) -> list[AuditEntry]:
    return [
        audit.record("style.status", actor="anna", reference=f"style-{number}", now=now, number=number)
        for number in range(count)
    ]


def codes(now: datetime) -> list[tuple[str, int | str]]:
    return [(finding.code, finding.where) for finding in audit.verify(now)]


def rewrite(seq: int, /, **changes: Any) -> None:
    """What somebody with the database in hand could do."""
    assert AuditEntry.objects.filter(seq=seq).update(**changes) == 1


def test_entries_are_numbered_and_each_head_covers_the_ones_before(now: datetime) -> None:
    first, second = record(2, now)

    at = int(now.timestamp())
    content = {
        "at": at,
        "by": "anna",
        "ev": "style.status",
        "ref": "style-0",
        "detail": {"number": 0},
        "seq": 1,
    }
    head = head_after(START, content)
    assert (first.seq, first.head) == (1, head.hex())
    content = {**content, "ref": "style-1", "detail": {"number": 1}, "seq": 2}
    assert (second.seq, second.head) == (2, head_after(head, content).hex())
    assert first.at == now.replace(microsecond=0)


def test_a_log_as_it_was_written_has_no_findings(now: datetime) -> None:
    audit.record("x", actor="ö", reference=7, now=now, whole=8.0, part=7.5, yes=True, word='"\\ü\n', big=1e16)
    record(3, now)
    audit.checkpoint(now)

    assert audit.verify(now) == []


def test_an_empty_log_has_no_findings(now: datetime) -> None:
    assert audit.verify(now) == []


def test_what_is_rolled_back_leaves_no_gap(now: datetime) -> None:
    record(1, now)
    with transaction.atomic():
        record(2, now)
        transaction.set_rollback(True)

    assert record(1, now)[0].seq == 2
    assert audit.verify(now) == []


@pytest.mark.parametrize(
    "change",
    [
        {"at": datetime.fromisoformat("2026-01-01T00:00:00+00:00")},
        {"actor": "berta"},
        {"event": "style.texts"},
        {"reference": "style-9"},
        {"detail": {}},
        {"detail": {"number": 1, "more": 1}},
        {"head": "0" * 64},
        {"head": "not a hash"},
    ],
    ids=str,
)
def test_an_altered_entry_is_found(now: datetime, change: dict[str, Any]) -> None:
    record(4, now)

    rewrite(2, **change)

    expected = [2, 3] if change.get("head") == "0" * 64 else [2]
    assert codes(now) == [("audit_broken", seq) for seq in expected]


def test_a_time_altered_by_less_than_a_second_is_found(now: datetime) -> None:
    record(2, now)

    rewrite(2, at=now.replace(microsecond=1))

    assert codes(now) == [("audit_broken", 2)]


def test_an_entry_taken_out_of_the_middle_is_found(now: datetime) -> None:
    record(4, now)

    AuditEntry.objects.filter(seq=2).delete()

    assert codes(now) == [("audit_gap", 2)]


def test_an_entry_taken_out_and_the_rest_moved_up_is_found(now: datetime) -> None:
    record(4, now)

    AuditEntry.objects.filter(seq=2).delete()
    rewrite(3, seq=2)
    rewrite(4, seq=3)

    assert codes(now) == [("audit_broken", 2), ("audit_broken", 3)]


def test_the_database_takes_no_second_entry_of_a_number(now: datetime) -> None:
    (entry,) = record(1, now)

    entry.pk = None
    with pytest.raises(IntegrityError), transaction.atomic():
        AuditEntry.objects.bulk_create([entry])


def test_entries_from_before_the_chain_are_chained_by_the_migration(now: datetime) -> None:
    record(2, now)
    audit.record("x", actor="ö", reference="y", now=now, whole=8.0, part=7.5, yes=True)
    for entry in AuditEntry.objects.order_by("seq"):
        rewrite(entry.seq, seq=100 - entry.seq, head="", at=now.replace(microsecond=7))

    import_module("headshots.migrations.0003_receipts_and_audit").chain(apps, None)

    assert list(AuditEntry.objects.order_by("id").values_list("seq", flat=True)) == [1, 2, 3]
    assert audit.verify(now) == []


# --- checkpoints ------------------------------------------------------------------------------------------


def test_a_checkpoint_is_signed_once_an_hour_and_kept_privately(now: datetime, data: Path) -> None:
    entries = record(2, now)

    reached = audit.checkpoint(now)

    assert reached is not None
    assert (reached.size, reached.head.hex(), reached.origin) == (2, entries[1].head, signing.host())
    assert audit.checkpoint(now) is None
    next_hour = now.replace(minute=0, second=0) + HOUR
    record(1, now)
    again = audit.checkpoint(next_hour)
    assert again is not None
    assert again.size == 3
    assert audit.checkpoint_numbers() == [1, 2]
    text, signed_by = verify_note(audit.checkpoint_note(2), signing.published_keys())
    assert parse_checkpoint(text) == again
    assert signed_by == (signing.signer().verifier,)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (data / "checkpoints").iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE((data / "checkpoints").stat().st_mode) == 0o700


def test_each_pass_of_the_purge_looks_after_the_checkpoint(now: datetime) -> None:
    record(1, now)

    purge.run(now)
    purge.run(now)

    assert audit.checkpoint_numbers() == [1]


def test_a_log_cut_after_a_checkpoint_is_found(now: datetime) -> None:
    record(3, now)
    audit.checkpoint(now)

    AuditEntry.objects.filter(seq=3).delete()

    assert codes(now) == [("audit_behind", 1)]


def test_a_log_cut_and_written_on_is_found_and_never_signed(
    now: datetime, caplog: pytest.LogCaptureFixture
) -> None:
    record(3, now)
    audit.checkpoint(now)

    AuditEntry.objects.filter(seq__gt=1).delete()
    record(4, now)

    assert codes(now) == [("audit_contradicted", 1)]
    assert audit.checkpoint(now + HOUR) is None
    assert audit.checkpoint_numbers() == [1]
    assert "contradicts checkpoint 1" in caplog.text


def test_a_log_rewritten_from_the_start_is_found(now: datetime) -> None:
    record(3, now)
    audit.checkpoint(now)

    AuditEntry.objects.all().delete()
    record(3, now + timedelta(seconds=1))

    assert codes(now) == [("audit_contradicted", 1)]


def test_a_restore_that_was_reconciled_is_on_record_and_signing_goes_on(now: datetime) -> None:
    record(2, now)
    audit.checkpoint(now)
    record(2, now)
    audit.checkpoint(now + HOUR)
    AuditEntry.objects.filter(seq__gt=3).delete()
    assert codes(now) == [("audit_behind", 2)]

    assert audit.accept_restore(actor="anna", now=now) == 1
    assert audit.accept_restore(actor="anna", now=now) == 0

    entry = AuditEntry.objects.get(event="audit.restored")
    assert (entry.actor, entry.detail) == ("anna", {"first": 2, "last": 2})
    assert audit.verify(now) == []
    assert audit.checkpoint(now + 2 * HOUR) is not None
    assert audit.verify(now + 2 * HOUR) == []
    AuditEntry.objects.filter(seq=4).delete()  # cut again: the record does not excuse that
    assert codes(now + 2 * HOUR)[-1] == ("audit_behind", 3)


@pytest.mark.parametrize("damage", ["altered", "no text", "another kind of note", "another key"])
def test_a_checkpoint_that_we_did_not_sign_is_found(now: datetime, data: Path, damage: str) -> None:
    record(1, now)
    audit.checkpoint(now)
    path = data / "checkpoints" / "00000001"
    note = path.read_text()
    replaced = {
        "altered": note.replace("\n1\n", "\n2\n").encode(),
        "no text": b"\xff\xfe",
        "another kind of note": signing.signer().sign("something else\n").encode(),
        "another key": note.replace("/deletion/", "/erasure/").encode(),
    }[damage]
    assert replaced != note.encode()

    path.write_bytes(replaced)

    assert codes(now) == [("checkpoint_unreadable", 1)]
    assert audit.checkpoint(now + HOUR) is None


def test_a_checkpoint_that_is_gone_is_found(now: datetime, data: Path) -> None:
    for hour in range(3):
        audit.checkpoint(now + hour * HOUR)

    (data / "checkpoints" / "00000002").unlink()

    assert codes(now + 2 * HOUR) == [("checkpoint_missing", 2)]


def test_a_log_that_nobody_signs_any_more_is_found(now: datetime) -> None:
    record(1, now)
    assert codes(now + HOUR) == []
    assert codes(now + 3 * HOUR) == [("checkpoint_late", 0)]

    audit.checkpoint(now)

    assert codes(now + 3 * HOUR) == [("checkpoint_late", 1)]


def test_a_clock_that_jumps_back_writes_one_more_checkpoint(now: datetime) -> None:
    assert audit.checkpoint(now + 30 * HOUR) is not None
    assert audit.checkpoint(now) is not None
    assert audit.checkpoint(now) is None

    assert audit.checkpoint_numbers() == [1, 2]


def test_a_checkpoint_that_cannot_be_written_never_stops_the_purge(
    now: datetime, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (data / "checkpoints").write_bytes(b"in the way")

    purge.run(now)

    assert "no checkpoint of the audit log could be written: NotADirectoryError" in caplog.text


def test_a_checkpoint_needs_a_key_that_nobody_else_can_read(
    now: datetime, tmp_path: Path, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.RECEIPT_KEY = tmp_path / "key"
    settings.RECEIPT_KEY.write_text("PRIVATE+KEY+x")
    settings.RECEIPT_KEY.chmod(0o600)

    assert audit.checkpoint(now) is None

    assert "no checkpoint of the audit log could be written: BadKeyFile" in caplog.text
    assert "PRIVATE" not in caplog.text


# --- writers at once --------------------------------------------------------------------------------------


def at_once(jobs: list[Callable[[], None]]) -> None:
    """Run the jobs in threads that start together; each closes its own connection."""
    ready = threading.Barrier(len(jobs))
    problems: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            ready.wait()
            job()
        except BaseException as problem:
            problems.append(problem)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


@pytest.mark.django_db(transaction=True)
def test_threads_that_write_at_once_never_fork_the_chain(now: datetime) -> None:
    def alone() -> None:
        record(10, now)

    def together() -> None:
        with transaction.atomic():
            record(10, now)

    def given_up() -> None:
        with transaction.atomic():
            record(5, now)
            transaction.set_rollback(True)

    at_once([alone, together, given_up, alone, together, given_up])

    assert list(AuditEntry.objects.order_by("seq").values_list("seq", flat=True)) == [*range(1, 41)]
    assert audit.verify(now) == []


@pytest.mark.django_db(transaction=True)
def test_threads_that_sign_at_once_write_one_checkpoint(now: datetime) -> None:
    record(1, now)

    at_once([lambda: audit.checkpoint(now) and None] * 6)

    assert audit.checkpoint_numbers() == [1]


PROCESS = """
import sys
import django
django.setup()
from django.conf import settings
from django.utils import timezone
settings.DATABASES["default"]["NAME"] = sys.argv[1]
from headshots.services import audit
print("ready", flush=True)
sys.stdin.readline()
for number in range(25):
    audit.record("test", actor=sys.argv[2], reference="x", now=timezone.now(), number=number)
"""


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_processes_that_write_at_once_never_fork_the_chain() -> None:
    command = [sys.executable, "-c", PROCESS, str(connection.settings_dict["NAME"])]
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "headshots.settings"}
    started = [
        subprocess.Popen(
            [*command, str(number)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.communicate("go\n")

    assert [process.returncode for process in started] == [0, 0, 0]
    assert AuditEntry.objects.count() == 75
    assert audit.verify(timezone.now()) == []
