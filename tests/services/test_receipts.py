"""Receipts: what they say of a deletion, what is found wrong with them, their key, and the commands."""

import hashlib
import io
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from pytest_django import Settings

from headshots.exceptions import NotFound
from headshots.models import AuditEntry, Order, Receipt, StoredObject
from headshots.services import objects, purge, receipts, signing
from headshots.services.orders import Placed
from headshots.states import OrderState
from headshots.vault.envelope import Kind
from headshots.vault.errors import BadKeyFile
from headshots.vault.notes import Signer, Verifier
from headshots.vault.receipts import compose_receipt, digest_of_ciphertexts
from headshots.vault.signing import key_name, load_retired, load_signer, retired_path

pytestmark = [pytest.mark.django_db, pytest.mark.slow]
OTHER = Signer(name="another.example/deletion/2026a", seed=b"o" * 32)


@pytest.fixture
def receipt(placed: Placed, purge_all: Callable[[], None]) -> Receipt:
    """The receipt of an order that its customer deleted."""
    purge.request(placed.order, actor="customer", now=timezone.now())
    purge_all()
    return Receipt.objects.select_related("order").get()


def codes() -> list[tuple[str, int | str]]:
    return [(finding.code, finding.where) for finding in receipts.verify()]


def text_of(receipt: Receipt) -> str:
    return receipt.text.rpartition("\n\n")[0] + "\n"


# --- what a receipt says ----------------------------------------------------------------------------------


def test_a_receipt_says_what_the_rows_said_before_they_were_blanked(
    placed: Placed, render_all: Callable[[], None]
) -> None:
    render_all()
    hashes = list(StoredObject.objects.values_list("sha256", flat=True))
    purge.request(placed.order, actor="staff", now=timezone.now())
    Order.objects.update(versions_deleted=3, uploads_deleted=1)
    purge.run(timezone.now() + timedelta(minutes=21))  # when whoever looked at the photo must be done

    said, signed_by = receipts.read(Receipt.objects.get().text)

    order = Order.objects.get()
    done = AuditEntry.objects.get(event="purge.done")
    assert (said.selfies, said.headshots, said.previews, said.versions, said.uploads) == (1, 3, 3, 3, 1)
    assert said.ciphertexts == digest_of_ciphertexts(hashes)
    assert (said.audit_seq, said.audit_head) == (done.seq, done.head)
    assert (said.reason, said.origin, said.receipt_id) == (
        "staff-request",
        "localhost:8000",
        order.receipt_id,
    )
    assert said.epoch_key_gone_by == order.not_after
    assert signed_by == (signing.signer().verifier,)
    assert receipts.verify() == []


def test_every_reason_a_purge_may_have_can_be_written() -> None:
    assert set(receipts.REASONS.values()) == {
        "customer-request",
        "expiry",
        "upload-failed",
        "staff-request",
        "restored",
    }


def test_a_selfie_key_that_died_earlier_has_its_own_time(
    placed: Placed, now: datetime, purge_all: Callable[[], None]
) -> None:
    earlier = now.replace(microsecond=0) - timedelta(minutes=7)
    Order.objects.update(selfie_shredded_at=earlier)
    purge.request(placed.order, actor="customer", now=now)
    Order.objects.update(selfie_shredded_at=earlier)
    purge_all()

    said, _ = receipts.read(Receipt.objects.get().text)

    assert said.selfie_key_destroyed == earlier
    assert said.result_key_destroyed == now.replace(microsecond=0)


def test_a_picture_that_was_never_written_is_not_counted(
    placed: Placed, now: datetime, purge_all: Callable[[], None]
) -> None:
    """Its worker died after the row that lets it be written."""
    photo = StoredObject.objects.get().sha256
    objects.intend(placed.order, Kind.HEADSHOT, 1, now)
    sealed_only = objects.intend(placed.order, Kind.PREVIEW, 1, now)
    StoredObject.objects.filter(pk=sealed_only.pk).update(sha256="ab" * 32)

    purge.request(placed.order, actor="customer", now=now)
    purge_all()

    said, _ = receipts.read(Receipt.objects.get().text)
    assert (said.selfies, said.headshots, said.previews) == (1, 0, 0)
    assert said.ciphertexts == digest_of_ciphertexts([photo])
    assert AuditEntry.objects.get(event="purge.done").detail == {"objects": 1}


def test_a_picture_whose_row_never_knew_is_counted_and_part_of_the_digest(
    placed: Placed, now: datetime, purge_all: Callable[[], None]
) -> None:
    """Its worker died between the store's answer and the row."""
    photo = StoredObject.objects.get().sha256
    stored = objects.intend(placed.order, Kind.HEADSHOT, 1, now)
    objects.put(stored, b"a picture", now)
    ciphertext = objects.blobs().get(objects.name_of(stored).blob_name)

    purge.request(placed.order, actor="customer", now=now)
    purge_all()

    said, _ = receipts.read(Receipt.objects.get().text)
    assert (said.selfies, said.headshots, said.previews) == (1, 1, 0)
    assert said.ciphertexts == digest_of_ciphertexts([photo, hashlib.sha256(ciphertext).hexdigest()])


def test_a_picture_that_lands_between_both_looks_is_counted(
    placed: Placed, now: datetime, settings: Settings
) -> None:
    """Its writer was sent on its way before the fence and got through after the first look."""
    settings.PURGE_SETTLE_SECONDS = 60.0
    stored = objects.intend(placed.order, Kind.HEADSHOT, 1, now)
    objects.put(stored, b"a picture", now)
    name = objects.name_of(stored).blob_name
    ciphertext = objects.blobs().get(name)
    objects.blobs().delete(name)
    purge.request(placed.order, actor="customer", now=now)
    objects.blobs().put(name, ciphertext)

    for minutes in (5, 10):
        purge.run(now + timedelta(minutes=minutes))

    assert receipts.read(Receipt.objects.get().text)[0].headshots == 1


def test_nothing_is_written_once_the_row_is_gone(placed: Placed, now: datetime) -> None:
    stored = objects.intend(placed.order, Kind.HEADSHOT, 1, now)
    StoredObject.objects.filter(pk=stored.pk).delete()
    before = list(objects.blobs().list("o/"))

    with pytest.raises(NotFound):
        objects.put(stored, b"a picture", now)

    assert list(objects.blobs().list("o/")) == before


def test_without_a_key_there_is_no_receipt_and_later_there_is_one(
    placed: Placed, now: datetime, settings: Settings, tmp_path: Path
) -> None:
    settings.RECEIPT_KEY = tmp_path / "not there"
    purge.request(placed.order, actor="customer", now=now)
    failed = purge.run(now + timedelta(seconds=1))

    assert failed.failed == 1
    assert not Receipt.objects.exists()
    assert not AuditEntry.objects.filter(event="purge.done").exists()
    assert Order.objects.get().state == OrderState.PURGING
    assert StoredObject.objects.exists()  # what the receipt will be composed of

    settings.RECEIPT_KEY = None
    purge.run(now + timedelta(minutes=6))
    assert Receipt.objects.exists()
    assert receipts.verify() == []


# --- what an inspection finds -----------------------------------------------------------------------------


def test_a_genuine_receipt_has_no_findings(receipt: Receipt) -> None:
    assert codes() == []


def test_a_purged_order_without_a_receipt_is_found(receipt: Receipt) -> None:
    receipt.delete()

    assert codes() == [("receipt_missing", receipt.order.receipt_id)]


def test_a_receipt_of_an_order_that_is_not_purged_is_found(placed: Placed, now: datetime) -> None:
    purge.request(placed.order, actor="customer", now=now)
    Receipt.objects.create(id=placed.order.receipt_id, order=placed.order, text="", issued_at=now)

    assert codes() == [
        ("receipt_early", placed.order.receipt_id),
        ("receipt_unsigned", placed.order.receipt_id),
    ]


@pytest.mark.parametrize("made", ["altered", "signed by another", "not signed"])
def test_a_receipt_that_we_did_not_sign_is_found(receipt: Receipt, made: str) -> None:
    text = {
        "altered": receipt.text.replace("selfies=1", "selfies=0"),
        "signed by another": OTHER.sign(text_of(receipt)),
        "not signed": text_of(receipt),
    }[made]
    assert text != receipt.text

    Receipt.objects.update(text=text)

    assert codes() == [("receipt_unsigned", receipt.pk)]


def test_an_order_altered_after_its_receipt_is_found(receipt: Receipt) -> None:
    Order.objects.update(swept_at=receipt.order.swept_at - timedelta(seconds=5))  # type: ignore[operator]
    assert codes() == [("receipt_differs", receipt.pk)]

    Order.objects.update(swept_at=None)
    assert codes() == [("receipt_differs", receipt.pk)]


def test_a_receipt_whose_audit_entry_is_gone_is_found(receipt: Receipt) -> None:
    AuditEntry.objects.filter(event="purge.done").delete()

    assert codes() == [("receipt_unlogged", receipt.pk)]


def test_a_receipt_whose_times_are_out_of_order_is_found(receipt: Receipt) -> None:
    """One that was signed before this was refused."""
    Order.objects.update(swept_at=receipt.order.absent_again_at + timedelta(minutes=1))
    said = replace(
        receipts.read(receipt.text)[0],
        objects_deleted=receipt.order.absent_again_at + timedelta(minutes=1),
    )
    Receipt.objects.update(text=signing.signer().sign(compose_receipt(said)))

    assert codes() == [("receipt_disordered", receipt.pk)]


def test_findings_are_said_in_words(receipt: Receipt) -> None:
    number = receipt.pk
    receipt.delete()

    assert [str(finding) for finding in receipts.verify()] == [f"order {number} is purged and has no receipt"]


# --- the key ----------------------------------------------------------------------------------------------


def test_the_embedded_key_is_made_once_private_and_apart_from_the_encryption_keys(data: Path) -> None:
    first, again = signing.signer(), signing.signer()

    path = data / "receipts" / "signing.key"
    assert first is again
    assert load_signer(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert first.name == f"localhost:8000/deletion/{timezone.now().year}a"


@pytest.mark.parametrize("content", [b"", b"PRIVATE+KEY+a+b+c\n", b"\xff", str(OTHER.verifier).encode()])
def test_a_file_that_holds_no_key_is_refused_and_not_quoted(
    settings: Settings, tmp_path: Path, content: bytes
) -> None:
    settings.RECEIPT_KEY = tmp_path / "key"
    settings.RECEIPT_KEY.write_bytes(content)
    settings.RECEIPT_KEY.chmod(0o600)

    with pytest.raises(BadKeyFile, match=r"holds no receipt key$") as refused:
        signing.signer()
    assert refused.value.__cause__ is None


def test_a_key_that_others_can_read_is_refused(settings: Settings, tmp_path: Path) -> None:
    settings.RECEIPT_KEY = tmp_path / "key"
    settings.RECEIPT_KEY.write_text(OTHER.written())
    settings.RECEIPT_KEY.chmod(0o640)

    with pytest.raises(BadKeyFile, match="open to other users"):
        signing.signer()


def test_a_configured_key_is_never_made_by_itself(settings: Settings, tmp_path: Path) -> None:
    settings.RECEIPT_KEY = tmp_path / "key"

    with pytest.raises(FileNotFoundError):
        signing.signer()

    assert not settings.RECEIPT_KEY.exists()


def test_a_damaged_line_among_the_retired_keys_is_named(data: Path) -> None:
    signing.signer()
    retired_path(signing.key_path()).write_text(f"{OTHER.verifier}\nnonsense\n")

    with pytest.raises(BadKeyFile, match=r"signing\.key\.retired, line 2"):
        signing.published_keys()


def test_key_names_of_a_year_go_through_the_alphabet() -> None:
    used: list[Verifier] = []
    for letter in "abcdefghijklmnopqrstuvwxyz":
        name = key_name("headshots.example", 2026, used)
        assert name == f"headshots.example/deletion/2026{letter}"
        used.append(Verifier(name=name, public_key=bytes(32)))

    with pytest.raises(ValueError, match="used up"):
        key_name("headshots.example", 2026, used)
    assert key_name("headshots.example", 2027, used) == "headshots.example/deletion/2027a"


def test_the_command_makes_a_key_and_the_next_one_keeps_the_first_published(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    settings.SITE_URL = "https://headshots.example"
    settings.RECEIPT_KEY = first
    call_command("receipt-key", str(first))
    assert capsys.readouterr().out == f"{signing.signer().verifier}\n"
    one = signing.signer()

    call_command("receipt-key", str(second))
    settings.RECEIPT_KEY = second

    two = signing.signer()
    assert (one.name[-5:-1], two.name[-1]) == (str(timezone.now().year), "b")
    assert signing.published_keys() == (two.verifier, one.verifier)
    assert load_retired(first) == ()
    assert stat.S_IMODE(second.stat().st_mode) == 0o600


def test_the_command_never_replaces_a_key(settings: Settings, tmp_path: Path) -> None:
    settings.RECEIPT_KEY = tmp_path / "key"
    call_command("receipt-key", str(settings.RECEIPT_KEY), stdout=io.StringIO())
    before = settings.RECEIPT_KEY.read_bytes()

    with pytest.raises(CommandError, match="exists already"):
        call_command("receipt-key", str(settings.RECEIPT_KEY))
    with pytest.raises(CommandError, match=r"/key exists already"):
        call_command("receipt-key", str(settings.RECEIPT_KEY / "below"))

    assert settings.RECEIPT_KEY.read_bytes() == before


# --- manage.py verify-receipt -----------------------------------------------------------------------------


def refused(*arguments: object) -> tuple[int, str]:
    """The exit code and words of a call that ends in an error."""
    with pytest.raises(CommandError) as error:
        call_command("verify-receipt", *map(str, arguments))
    return error.value.returncode, str(error.value)


@pytest.fixture
def file(receipt: Receipt, tmp_path: Path) -> Path:
    """A downloaded receipt."""
    path = tmp_path / "deletion-receipt.txt"
    path.write_text(receipt.text)
    return path


def test_a_genuine_receipt_is_said_to_be_so_and_read_out(
    receipt: Receipt, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("verify-receipt", str(file))

    out = capsys.readouterr().out
    assert out.startswith(f"GENUINE: signed by {signing.signer().name}\n")
    assert f"localhost:8000 says in receipt {receipt.pk}:" in out
    assert "everything stored was deleted: photos 1, headshots 0, previews 0" in out
    assert "The reason was: customer request." in out
    assert "It cannot prove that no copy was made elsewhere." in out


def test_a_receipt_is_read_from_standard_input_and_checked_with_given_keys(
    receipt: Receipt, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signed = OTHER.sign(text_of(receipt)).encode()
    keys = ("--key", str(signing.signer().verifier), "--key", str(OTHER.verifier))

    for _ in range(2):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(signed)))
        call_command("verify-receipt", "-", *keys)
        assert "GENUINE: signed by another.example/deletion/2026a\n" in capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(signed)))
    assert refused("-")[0] == 1


def test_a_receipt_that_is_not_genuine_ends_with_1(file: Path) -> None:
    text = file.read_text()

    assert refused(file, "--key", OTHER.verifier) == (
        1,
        "NOT GENUINE: none of the keys asked for has signed this",
    )
    file.write_text(text.replace("selfies=1", "selfies=2"))
    status, words = refused(file)
    assert (status, words[:35]) == (1, "NOT GENUINE: the signature of local")
    file.write_bytes(b"\xff\xfe")
    assert refused(file) == (1, "NOT GENUINE: this is not text in UTF-8")
    file.write_text("x" * 10**6)
    assert refused(file) == (1, "NOT GENUINE: a note has at most 65536 characters")


def test_what_could_not_be_looked_at_ends_with_2(file: Path, settings: Settings, tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere") == (2, f"{tmp_path / 'nowhere'}: No such file or directory")
    assert refused(file, "--key", "nonsense")[0] == 2
    settings.RECEIPT_KEY = tmp_path / "no key"
    assert refused(file)[0] == 2
