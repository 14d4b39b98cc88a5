"""The audit chain's hash against its vectors, and checkpoints that are read back exactly."""

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headshots.vault.chain import (
    START,
    Checkpoint,
    canonical_json,
    compose_checkpoint,
    head_after,
    parse_checkpoint,
)

# The worked example: each entry, as it is hashed, and the first and last bytes of the head after it.
VECTORS: list[tuple[dict[str, Any], bytes, str, str]] = [
    (
        {"ev": "order.created", "at": 1795248012, "ref": "7F3K9QXD2M5WPZ8T", "seq": 1},
        b'{"at":1795248012,"ev":"order.created","ref":"7F3K9QXD2M5WPZ8T","seq":1}',
        "3458fb27",
        "3efabc1e",
    ),
    (
        {"seq": 2, "ev": "key.destroyed", "ref": "7F3K9QXD2M5WPZ8T", "at": 1795290067},
        b'{"at":1795290067,"ev":"key.destroyed","ref":"7F3K9QXD2M5WPZ8T","seq":2}',
        "6a49ec65",
        "ecf9fa9b",
    ),
    (
        {"seq": 3, "n": 53, "ev": "objects.deleted", "ref": "7F3K9QXD2M5WPZ8T", "at": 1795290069},
        b'{"at":1795290069,"ev":"objects.deleted","n":53,"ref":"7F3K9QXD2M5WPZ8T","seq":3}',
        "50791c52",
        "cd416e2b",
    ),
]

TEXT = """\
headshots.example/audit@v1
1842
ny5tM6NxfuiCY1NApAS6TRiu62h5rXk2vOjtX0aBSSQ=
at 2026-11-21T20:00:01Z
"""
CHECKPOINT = Checkpoint(
    origin="headshots.example",
    size=1842,
    head=bytes.fromhex("9f2e6d33a3717ee882635340a404ba4d18aeeb6879ad7936bce8ed5f46814924"),
    at=datetime(2026, 11, 21, 20, 0, 1, tzinfo=UTC),
)


def test_the_chain_has_its_published_heads() -> None:
    heads = list(accumulate((entry for entry, *_ in VECTORS), head_after, initial=START))

    assert heads[0].hex() == 64 * "0"
    for head, (entry, written, begins, ends) in zip(heads[1:], VECTORS, strict=True):
        assert canonical_json(entry) == written
        assert head.hex().startswith(begins)
        assert head.hex().endswith(ends)


def test_a_head_is_the_hash_of_the_one_before_and_of_the_entry() -> None:
    entry, written, *_ = VECTORS[0]
    inner = hashlib.sha256(written).digest()

    assert head_after(START, entry) == hashlib.sha256(b"headshots/v1 audit\0" + bytes(32) + inner).digest()


numbers = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False))
values = st.one_of(st.text(st.characters(exclude_categories=["Cs"])), numbers, st.booleans())


@settings(max_examples=100, deadline=None)
@given(detail=st.dictionaries(st.text("abcdefgh_", min_size=1), values, max_size=5))
def test_an_entry_is_hashed_alike_however_its_numbers_and_keys_come_back(detail: dict[str, Any]) -> None:
    shuffled = dict(reversed(detail.items()))
    whole = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in shuffled.items()
    }

    assert canonical_json({"detail": detail}) == canonical_json({"detail": whole})
    assert json.loads(canonical_json({"detail": detail})) == {"detail": detail}


def test_what_has_no_json_is_no_entry() -> None:
    with pytest.raises(ValueError, match=r"."):
        canonical_json({"n": float("nan")})


def test_a_checkpoint_is_written_and_read_back() -> None:
    assert compose_checkpoint(CHECKPOINT) == TEXT
    assert parse_checkpoint(TEXT) == CHECKPOINT


def test_a_checkpoint_keeps_utc_to_the_second() -> None:
    at = datetime(2026, 11, 21, 21, 0, 1, 999999, tzinfo=timezone(timedelta(hours=1)))

    assert Checkpoint(origin="a", size=0, head=START, at=at).at == CHECKPOINT.at


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("@v1", "@v2"),
        ("headshots.example/audit", "headshots.example/deletion-receipt"),
        ("1842", "01842"),
        ("1842", "-1"),
        ("1842", ""),
        ("BSSQ=", "BSSR="),
        ("BSSQ=", "BSSQ"),
        ("BSSQ=", "BSS_="),
        ("20:00:01Z", "20:00:01"),
        ("20:00:01Z", "20:00:61Z"),
        ("at 2", "at  2"),
        ("01Z\n", "01Z"),
        ("01Z\n", "01Z\nmore\n"),
        ("\n", "\r\n"),
    ],
)
def test_text_that_differs_in_form_is_no_checkpoint(old: str, new: str) -> None:
    altered = TEXT.replace(old, new)

    assert altered != TEXT
    with pytest.raises(ValueError, match=r"."):
        parse_checkpoint(altered)


@pytest.mark.parametrize(
    "change",
    [{"origin": "a/b"}, {"origin": ""}, {"size": -1}, {"head": bytes(31)}, {"at": datetime(2026, 1, 1)}],  # noqa: DTZ001
    ids=str,
)
def test_a_checkpoint_that_could_not_be_read_back_cannot_be_made(change: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"origin": "a", "size": 0, "head": START, "at": CHECKPOINT.at}

    assert Checkpoint(**usual)
    with pytest.raises(ValueError, match=r"."):
        Checkpoint(**{**usual, **change})


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_the_parser_takes_only_what_composes_to_the_same_and_raises_only_value_errors(
    data: st.DataObject,
) -> None:
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(TEXT))] * 2)))
    altered = TEXT[:start] + data.draw(st.text("0123456789-:TZ \nat=+/é", max_size=24)) + TEXT[end:]

    try:
        checkpoint = parse_checkpoint(altered)
    except ValueError:
        return
    assert compose_checkpoint(checkpoint) == altered
    assert base64.b64encode(checkpoint.head).decode() in altered
