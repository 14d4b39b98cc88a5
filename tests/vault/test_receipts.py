"""Receipts: the text, its strict inverse, and the numbers on it."""

import dataclasses
import hashlib
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headshots.vault.notes import Signer
from headshots.vault.receipts import (
    Receipt,
    compose_receipt,
    digest_of_ciphertexts,
    is_receipt_id,
    new_receipt_id,
    open_receipt,
    parse_receipt,
)

SIGNER = Signer(name="headshots.example/deletion/2026a", seed=bytes(range(32)))

TEXT = """\
headshots.example/deletion-receipt@v1
receipt 7F3K-9QXD-2M5W-PZ8T
first-photo 2026-11-21T08:12:40Z
selfie-key-destroyed 2026-11-21T08:31:02Z
result-key-destroyed 2026-11-21T19:41:07Z
objects-deleted 2026-11-21T19:41:09Z
absent-verified 2026-11-21T19:41:10Z
absent-verified 2026-11-21T20:01:44Z
epoch-key-gone-by 2026-11-22T08:00:00Z
reason customer-request
deleted selfies=12 headshots=40 previews=0 versions=3 uploads=1
ciphertexts sha256:50d858e0985ecc7f60418aaf0cc5ab587f42c2570a884095a9e8ccacd0f6545c
audit 1842 sha256:9f2e6d33a3717ee826353a404ba4618d1aeeb6879ad7936bce8ed5f46814924d
"""

RECEIPT = Receipt(
    origin="headshots.example",
    receipt_id="7F3K-9QXD-2M5W-PZ8T",
    first_photo=datetime(2026, 11, 21, 8, 12, 40, tzinfo=UTC),
    selfie_key_destroyed=datetime(2026, 11, 21, 8, 31, 2, tzinfo=UTC),
    result_key_destroyed=datetime(2026, 11, 21, 19, 41, 7, tzinfo=UTC),
    objects_deleted=datetime(2026, 11, 21, 19, 41, 9, tzinfo=UTC),
    absent_verified=(
        datetime(2026, 11, 21, 19, 41, 10, tzinfo=UTC),
        datetime(2026, 11, 21, 20, 1, 44, tzinfo=UTC),
    ),
    epoch_key_gone_by=datetime(2026, 11, 22, 8, tzinfo=UTC),
    reason="customer-request",
    selfies=12,
    headshots=40,
    previews=0,
    versions=3,
    uploads=1,
    ciphertexts="50d858e0985ecc7f60418aaf0cc5ab587f42c2570a884095a9e8ccacd0f6545c",
    audit_seq=1842,
    audit_head="9f2e6d33a3717ee826353a404ba4618d1aeeb6879ad7936bce8ed5f46814924d",
)


def test_receipt_is_written_line_by_line() -> None:
    assert compose_receipt(RECEIPT) == TEXT


def test_receipt_is_read_back() -> None:
    assert parse_receipt(TEXT) == RECEIPT


def test_times_are_kept_in_utc_to_the_second() -> None:
    elsewhere = timezone(timedelta(hours=-7))
    at = datetime(2026, 11, 21, 1, 12, 40, 999999, tzinfo=elsewhere)

    receipt = dataclasses.replace(RECEIPT, first_photo=at, absent_verified=(at, at))

    assert receipt.first_photo == datetime(2026, 11, 21, 8, 12, 40, tzinfo=UTC)
    assert receipt.absent_verified == (receipt.first_photo, receipt.first_photo)
    assert parse_receipt(compose_receipt(receipt)) == receipt


times = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001
counts = st.integers(0, 10**9)


@settings(max_examples=30, deadline=None)
@given(
    receipt=st.builds(
        Receipt,
        origin=st.sampled_from(["localhost:8000", "[::1]:8000", "headshots.example", "A_b.example"]),
        receipt_id=st.builds(new_receipt_id),
        first_photo=times,
        selfie_key_destroyed=times,
        result_key_destroyed=times,
        objects_deleted=times,
        absent_verified=st.tuples(times, times),
        epoch_key_gone_by=times,
        reason=st.from_regex(r"[a-z]+(-[a-z]+)*", fullmatch=True),
        selfies=counts,
        headshots=counts,
        previews=counts,
        versions=counts,
        uploads=counts,
        ciphertexts=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
        audit_seq=st.integers(1, 10**18),
        audit_head=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    )
)
def test_every_receipt_comes_back_equal(receipt: Receipt) -> None:
    assert parse_receipt(compose_receipt(receipt)) == receipt


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("@v1", "@v2"),
        ("headshots.example/", "https://headshots.example/"),
        ("7F3K", "7f3k"),
        ("7F3K", "7F3O"),
        ("-PZ8T", ""),
        ("08:12:40Z", "08:12:40+00:00"),
        ("08:12:40Z", "08:12:40"),
        ("08:12:40Z", "08:12:61Z"),
        ("2026-11-22T", "2026-11-31T"),
        ("selfies=12", "selfies=012"),
        ("selfies=12", "selfies=-1"),
        ("selfies=12", "selfies=１２"),
        (" headshots=40", ""),
        ("customer-request", "customer request"),
        ("sha256:50", "sha256:5O"),
        ("sha256:50d8", "sha256:50D8"),
        ("receipt ", "receipt  "),
        ("\n", "\r\n"),
        ("absent-verified 2026-11-21T20:01:44Z\n", ""),
        (" versions=3 uploads=1", ""),
        ("audit 1842", "audit 0"),
        ("audit 1842", "audit 01842"),
        ("sha256:9f2e", "sha512:9f2e"),
        ("6545c\n", "6545c"),
        ("4924d\n", "4924d"),
        ("4924d\n", "4924d\n\n"),
        ("4924d\n", "4924d\nnote more\n"),
    ],
)
def test_text_that_differs_in_form_is_no_receipt(old: str, new: str) -> None:
    altered = TEXT.replace(old, new)

    assert altered != TEXT
    with pytest.raises(ValueError, match=r"."):
        parse_receipt(altered)


@pytest.mark.parametrize(
    "change",
    [
        {"origin": "headshots.example/x"},
        {"origin": ""},
        {"origin": "two words"},
        {"receipt_id": "7F3K-9QXD-2M5W-PZ8"},
        {"reason": "Customer"},
        {"reason": "a\nreason b"},
        {"selfies": -1},
        {"uploads": -1},
        {"ciphertexts": "50d8"},
        {"audit_seq": 0},
        {"audit_head": "9F2E"},
    ],
    ids=str,
)
def test_receipt_that_could_not_be_read_back_cannot_be_built(change: dict[str, str | int]) -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        dataclasses.replace(RECEIPT, **change)  # type: ignore[arg-type]


def test_receipt_with_a_time_without_zone_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="time zone"):
        dataclasses.replace(RECEIPT, objects_deleted=datetime(2026, 11, 21))  # noqa: DTZ001


def test_receipt_numbers_are_readable_and_differ() -> None:
    numbers = {new_receipt_id() for _ in range(200)}

    assert len(numbers) == 200
    assert all(
        re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{4}(-[0-9A-HJKMNP-TV-Z]{4}){3}", number) for number in numbers
    )
    assert {*"".join(numbers)} == {*"-0123456789ABCDEFGHJKMNPQRSTVWXYZ"}


def test_digest_of_ciphertexts_does_not_depend_on_their_order() -> None:
    low, high = "0" * 64, "f" * 64
    expected = hashlib.sha256(f"{low}\n{high}\n".encode()).hexdigest()

    assert digest_of_ciphertexts([high, low]) == digest_of_ciphertexts(iter([low, high])) == expected
    assert digest_of_ciphertexts([low, low]) != digest_of_ciphertexts([low])
    assert digest_of_ciphertexts([]) == hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize("digest", ["", "0" * 63, "F" * 64, "0" * 64 + "\n"])
def test_digest_is_only_taken_over_digests(digest: str) -> None:
    with pytest.raises(ValueError, match="64 lower-case"):
        digest_of_ciphertexts([digest])


def test_a_signed_receipt_is_opened_with_the_key_that_signed_it() -> None:
    older = Signer(name="headshots.example/deletion/2025a", seed=b"o" * 32)

    assert open_receipt(SIGNER.sign(TEXT), [SIGNER.verifier, older.verifier]) == (RECEIPT, (SIGNER.verifier,))
    assert open_receipt(older.sign(TEXT), [SIGNER.verifier, older.verifier]) == (RECEIPT, (older.verifier,))


@pytest.mark.parametrize(
    "signed",
    [
        TEXT,
        Signer(name=SIGNER.name, seed=b"s" * 32).sign(TEXT),
        SIGNER.sign(TEXT.replace("@v1", "@v2")),
        SIGNER.sign(TEXT + TEXT),
        SIGNER.sign("headshots.example/audit@v1\n1842\n"),
    ],
    ids=["not signed", "another key", "another format", "two in one", "another kind of note"],
)
def test_a_note_that_is_no_receipt_of_ours_is_not_opened(signed: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        open_receipt(signed, [SIGNER.verifier])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_single_byte_that_changes_in_a_signed_receipt_is_noticed(data: st.DataObject) -> None:
    whole = SIGNER.sign(TEXT).encode()
    place = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != whole[place]))

    with pytest.raises(ValueError, match=r"."):
        open_receipt((whole[:place] + bytes([byte]) + whole[place + 1 :]).decode(), [SIGNER.verifier])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_the_parser_takes_only_what_composes_to_the_same_and_raises_only_value_errors(
    data: st.DataObject,
) -> None:
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(TEXT))] * 2)))
    altered = TEXT[:start] + data.draw(st.text("0123456789-:TZ \n@=abz\0é", max_size=24)) + TEXT[end:]

    try:
        receipt = parse_receipt(altered)
    except ValueError:
        return
    assert compose_receipt(receipt) == altered


@pytest.mark.parametrize("text", ["", "\0", "7F3K-9QXD-2M5W", "7f3k-9qxd-2m5w-pz8t", "7F3K-9QXD-2M5W-PZ8T\n"])
def test_a_text_that_is_no_receipt_number_is_known_by_its_form(text: str) -> None:
    assert not is_receipt_id(text)
    assert is_receipt_id(new_receipt_id())
