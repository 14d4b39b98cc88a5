"""What a stranger needs to check a receipt: the signed text, the keys, the checkpoints, and two programs."""

import re
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.staticfiles import finders
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from headshots.exceptions import TEXTS
from headshots.models import Receipt
from headshots.services import audit, purge, signing
from headshots.services.orders import Placed
from headshots.vault.notes import Signer
from headshots.vault.receipts import open_receipt
from headshots.vault.signing import retired_path
from headshots.web.middleware import POLICY

pytestmark = [pytest.mark.django_db, pytest.mark.slow]
OTHER = Signer(name="another.example/deletion/2026a", seed=b"o" * 32)


@pytest.fixture
def receipt(placed: Placed, purge_all: Callable[[], None]) -> Receipt:
    """The receipt of an order that its customer deleted."""
    purge.request(placed.order, actor="customer", now=timezone.now())
    purge_all()
    return Receipt.objects.get()


def body(response: Any) -> str:
    assert response["Content-Type"] == "text/plain; charset=utf-8"
    return str(response.content.decode())


def test_the_receipt_page_shows_the_signed_text_the_key_and_what_it_cannot_prove(
    client: Client, receipt: Receipt
) -> None:
    page = client.get(f"/receipts/{receipt.pk}").content.decode()

    assert receipt.text in page
    assert f">{signing.signer().verifier}</p>" in page
    assert "we can neither deny that statement later nor alter a letter of it" in page
    assert "no text can prove that a copy was never made elsewhere" in page
    assert f'href="/receipts/{receipt.pk}/receipt.txt" download' in page
    assert "does not verify" not in page


def test_the_downloaded_receipt_verifies_with_the_published_key(client: Client, receipt: Receipt) -> None:
    (key,) = signing.published_keys()

    assert body(client.get("/keys")) == f"{key}\n"
    said, signed_by = open_receipt(body(client.get(f"/receipts/{receipt.pk}/receipt.txt")), [key])
    assert (said.receipt_id, said.origin) == (receipt.pk, "localhost:8000")
    assert signed_by == (key,)
    assert re.fullmatch(r"localhost:8000/deletion/20\d\da", key.name)


def test_a_receipt_that_was_altered_in_the_database_is_shown_as_such(
    client: Client, receipt: Receipt
) -> None:
    Receipt.objects.update(text=receipt.text.replace("selfies=1", "selfies=2"))

    page = client.get(f"/receipts/{receipt.pk}")

    assert page.status_code == 200
    assert "This receipt does not verify." in page.content.decode()
    assert "Verifier key" not in page.content.decode()


def test_retired_keys_stay_published_and_their_receipts_stay_genuine(
    client: Client, receipt: Receipt
) -> None:
    retired_path(signing.key_path()).write_text(f"{OTHER.verifier}\n\n")
    text = open_receipt_text(receipt)
    Receipt.objects.update(text=OTHER.sign(text))

    page = client.get(f"/receipts/{receipt.pk}").content.decode()

    assert body(client.get("/keys")) == f"{signing.signer().verifier}\n{OTHER.verifier}\n"
    assert f">{OTHER.verifier}</p>" in page
    assert "does not verify" not in page


def open_receipt_text(receipt: Receipt) -> str:
    """The text that was signed."""
    return receipt.text.rpartition("\n\n")[0] + "\n"


def test_the_api_gives_the_signed_note_as_text_to_those_who_ask_for_it(
    client: Client, receipt: Receipt
) -> None:
    address = f"/api/v1/receipts/{receipt.pk}"

    text = client.get(address, headers={"accept": "text/plain"})

    assert body(text) == receipt.text
    assert text["Vary"] == "Accept"
    for accept in ({}, {"accept": "*/*"}, {"accept": "application/json"}, {"accept": "text/html"}):
        answer = client.get(address, headers=accept)
        assert (answer.json()["state"], answer.json()["text"]) == ("purged", receipt.text)


def test_the_api_has_no_text_before_the_second_look(
    client: Client, placed: Placed, settings: Settings
) -> None:
    settings.PURGE_SETTLE_SECONDS = 60
    purge.request(placed.order, actor="customer", now=timezone.now())

    answer = client.get(f"/api/v1/receipts/{placed.order.receipt_id}", headers={"accept": "text/plain"})

    assert (answer.status_code, answer.json()["code"]) == (404, "receipt_not_found")


def test_the_checking_page_keeps_the_policy_and_names_files_that_exist(client: Client) -> None:
    response = client.get("/verify")

    page = response.content.decode()
    named = set(re.findall(r'"/static/([^"]+)"', page))
    assert response["Content-Security-Policy"] == POLICY
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", page)
    assert {name for name in named if not finders.find(name)} == set()
    assert {"web/verify.js", "web/verify_receipt.py"} <= named
    assert page.count(str(signing.signer().verifier)) == 2
    assert "The check needs JavaScript." in page


def test_checkpoints_are_public_one_by_one_and_as_a_list(client: Client) -> None:
    now = timezone.now()
    assert client.get("/audit/checkpoint").status_code == 404
    assert body(client.get("/audit/checkpoints")) == ""
    audit.checkpoint(now)
    audit.record("test", actor="test", reference="x", now=now)
    audit.checkpoint(now + timedelta(hours=1))

    newest = body(client.get("/audit/checkpoint"))

    assert newest.startswith("localhost:8000/audit@v1\n1\n")
    assert body(client.get("/audit/checkpoints")) == "/audit/checkpoints/2\n/audit/checkpoints/1\n"
    assert body(client.get("/audit/checkpoints/2")) == newest
    assert body(client.get("/audit/checkpoints/1")).startswith("localhost:8000/audit@v1\n0\n")


@pytest.mark.parametrize("number", ["0", "2", "9" * 300, "9" * 5000, "-1", "x"])
def test_a_checkpoint_that_does_not_exist_is_not_found(client: Client, number: str) -> None:
    audit.checkpoint(timezone.now())

    answer = client.get(f"/audit/checkpoints/{number}")

    assert answer.status_code == 404
    assert TEXTS["page_not_found"].message in answer.content.decode()


# --- the program that a stranger downloads ----------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Runs the downloaded program alone: no project on its path, no environment, no folder of ours."""
    found = finders.find("web/verify_receipt.py")
    assert isinstance(found, str)
    copy = tmp_path / "verify_receipt.py"
    copy.write_bytes(Path(found).read_bytes())

    def run(*arguments: object) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-I", str(copy), *map(str, arguments)],
            cwd=tmp_path,
            env={},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_the_program_accepts_a_genuine_receipt(
    receipt: Receipt, program: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    key = signing.signer().verifier
    path = tmp_path / "receipt.txt"
    path.write_text(receipt.text)

    assert program(path, key) == (0, f"GENUINE: signed by {key.name}\n\n{open_receipt_text(receipt)}", "")
    path.write_text(receipt.text + OTHER.sign(open_receipt_text(receipt)).rpartition("\n\n")[2])
    assert program(path, key)[0] == program(path, OTHER.verifier)[0] == 0


@pytest.mark.parametrize(
    "alter",
    [
        lambda text: text.replace("selfies=1", "selfies=0"),
        lambda text: text.replace("\n\n", "\n"),
        lambda text: text[:-1],
        lambda text: text[: text.index("\n\n") + 2],
        lambda text: text.replace("reason customer-request\n", ""),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("— localhost", "- localhost"),
        lambda text: text[:-6] + ("A" if text[-6] != "A" else "B") + text[-5:],
        lambda text: OTHER.sign(text.rpartition("\n\n")[0] + "\n"),
        lambda text: Signer(name=signing.signer().name, seed=b"s" * 32).sign(
            text.rpartition("\n\n")[0] + "\n"
        ),
        lambda text: signing.signer().sign(
            text.replace("deletion-receipt", "something").rpartition("\n\n")[0] + "\n"
        ),
        lambda text: signing.signer().sign("localhost:8000/audit@v1\n0\n"),
        lambda text: "",
    ],
    ids=[
        "a number",
        "no empty line",
        "no last newline",
        "no signature",
        "a line less",
        "other line ends",
        "another dash",
        "the signature",
        "another key",
        "the name under another key",
        "another kind of text",
        "a checkpoint",
        "nothing",
    ],
)
def test_the_program_refuses_what_is_not_genuine(
    receipt: Receipt,
    program: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    alter: Callable[[str], str],
) -> None:
    path = tmp_path / "receipt.txt"
    path.write_text(alter(receipt.text), newline="")
    assert path.read_bytes() != receipt.text.encode()

    status, out, err = program(path, signing.signer().verifier)

    assert (status, out) == (1, "")
    assert err.startswith("NOT GENUINE: ")


def test_the_program_says_when_it_could_not_look(
    receipt: Receipt, program: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "receipt.txt"
    path.write_text(receipt.text)
    key = str(signing.signer().verifier)

    assert program(tmp_path / "nowhere", key)[0] == 2
    assert program(path)[0] == 2
    for damaged in ("", "name", key[:-4], key.replace("localhost", "localghost")):
        status, _, err = program(path, damaged)
        assert (status, err[:16]) == (2, "could not look: ")
    path.write_bytes(b"\xff")
    assert program(path, key)[0] == 1
