"""Capability tokens: their form, their checksum, and what is stored of them."""

import hashlib
import re
import string

import pytest

from headshots.vault.tokens import is_well_formed, new_token, token_digest

# Made once by hand: 32 zero bytes in base64url, then the checksum as FORMAT.md gives it.
KNOWN = "hso_" + "A" * 43 + "i63ugq"


def test_new_token_has_the_written_form() -> None:
    token = new_token()

    assert re.fullmatch(r"hso_[A-Za-z0-9_-]{43}[a-z2-7]{6}", token)
    assert len(token) == 53
    assert is_well_formed(token)


def test_tokens_differ() -> None:
    assert len({new_token() for _ in range(200)}) == 200


def test_known_token_is_well_formed() -> None:
    assert is_well_formed(KNOWN)


def test_digest_is_the_sha256_of_the_whole_token() -> None:
    assert token_digest(KNOWN) == hashlib.sha256(KNOWN.encode()).hexdigest()


@pytest.mark.parametrize("position", range(53))
def test_one_mistyped_character_is_noticed(position: int) -> None:
    others = set(string.ascii_letters + string.digits + "-_ ") - {KNOWN[position]}

    assert [c for c in others if is_well_formed(KNOWN[:position] + c + KNOWN[position + 1 :])] == []


@pytest.mark.parametrize(
    "token",
    ["", "hso_", KNOWN[:-1], KNOWN + "a", KNOWN + "\n", " " + KNOWN, KNOWN[4:], KNOWN.upper(), "é" * 53],
)
def test_anything_else_is_not_well_formed(token: str) -> None:
    assert not is_well_formed(token)
