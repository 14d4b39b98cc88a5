"""Signed notes: the published vectors byte for byte, many signatures, and every malformed note refused."""

import base64

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headshots.vault.notes import MAX_NOTE_CHARACTERS, Signer, Verifier, parse_note, verify_note

pytestmark = pytest.mark.slow

# The worked example of this project's format: seed 00..1f.
SIGNER = Signer(name="headshots.example/deletion/2026a", seed=bytes(range(32)))
KEY = "headshots.example/deletion/2026a+80ac83b4+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
NOTE = """\
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
deleted selfies=12 headshots=40 previews=40 versions=0 uploads=0
ciphertexts sha256:50d858e0985ecc7f60418aaf0cc5ab587f42c2570a884095a9e8ccacd0f6545c
audit 1842 sha256:9f2e6d33a3717ee826353a404ba4618d1aeeb6879ad7936bce8ed5f46814924d

— headshots.example/deletion/2026a gKyDtEcjl5bQ0LS29hAXY0CBCCQTxeEO1tO6aWpA1xBnYxlXqkyN7mvEbTVx7D5inouLn+O+mLseGIxM8q9JJTXqJAI=
"""  # noqa: E501
TEXT = NOTE[: NOTE.index("\n\n") + 1]
LINE = NOTE[NOTE.index("\n\n") + 2 :]

# The specification's predecessor, the Go checksum database, signs with the same kind of key.
GO_KEY = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"

other = Signer(name="another.example/x", seed=b"x" * 32)
third = Signer(name="third.example/y", seed=b"y" * 32)


def unpadded_bits(encoded: str) -> str:
    """Other base64 for the same bytes: the bits that mean nothing are set."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = alphabet.index(encoded.rstrip("=")[-1])
    bare = encoded.rstrip("=")
    altered = bare[:-1] + alphabet[last + 1] + "=" * (len(encoded) - len(bare))
    assert base64.b64decode(altered) == base64.b64decode(encoded)
    return altered


def test_the_worked_example_is_signed_byte_for_byte() -> None:
    assert str(SIGNER.verifier) == KEY
    assert SIGNER.sign(TEXT) == NOTE
    assert verify_note(NOTE, [Verifier.parse(KEY)]) == (TEXT, (SIGNER.verifier,))


def test_a_key_of_another_implementation_is_read() -> None:
    verifier = Verifier.parse(GO_KEY)

    assert (verifier.name, verifier.key_id.hex()) == ("sum.golang.org", "033de0ae")
    assert str(verifier) == GO_KEY


def test_keys_are_read_back_from_what_is_written() -> None:
    assert Signer.parse(SIGNER.written()) == SIGNER
    assert Verifier.parse(KEY) == SIGNER.verifier


def test_a_private_key_shows_itself_nowhere() -> None:
    encoded = SIGNER.written().rpartition("+")[2]

    assert encoded not in repr(SIGNER)
    assert "seed" not in repr(SIGNER)
    for damaged in (SIGNER.written()[:-2], SIGNER.written() + "=", SIGNER.written().replace("+80", "+81")):
        with pytest.raises(ValueError, match=r".") as refused:
            Signer.parse(damaged)
        assert encoded[:8] not in str(refused.value)
        assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "name+80ac83b4",
        KEY.replace("80ac83b4", "80ac83b5"),
        KEY.replace("80ac83b4", "80AC83B4"),
        KEY.replace("2026a", "2026b"),
        KEY.replace("headshots", "head shots"),
        KEY.replace("AQOh", "AgOh"),
        KEY[:-4],
        KEY + "\n",
        " " + KEY,
        "+" + KEY.partition("+")[2],
        KEY.replace("+AQ", "+é"),
        SIGNER.written(),
    ],
)
def test_what_is_no_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Verifier.parse(text)


@pytest.mark.parametrize(
    ("name", "size"), [("", 32), ("a b", 32), ("a\u3000b", 32), ("a+b", 32), ("a\nb", 32), ("a", 31)]
)
def test_keys_with_a_wrong_name_or_size_cannot_be_made(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        Signer(name=name, seed=bytes(size))
    with pytest.raises(ValueError, match=r"."):
        Verifier(name=name, public_key=bytes(size))


def test_signatures_of_unknown_keys_are_ignored() -> None:
    note = NOTE + other.sign(TEXT).rpartition("\n\n")[2] + third.sign(TEXT).rpartition("\n\n")[2]

    assert verify_note(note, [SIGNER.verifier])[1] == (SIGNER.verifier,)
    assert verify_note(note, [third.verifier, other.verifier])[1] == (other.verifier, third.verifier)


def test_a_key_that_shares_only_a_name_or_only_an_id_is_unknown() -> None:
    namesake = Signer(name=SIGNER.name, seed=b"n" * 32)
    wrong_id = f"— {SIGNER.name} {base64.b64encode(b'wrong' + bytes(63)).decode()}\n"
    wrong_name = LINE.replace(SIGNER.name, other.name)

    assert verify_note(NOTE + wrong_id + wrong_name, [SIGNER.verifier])[1] == (SIGNER.verifier,)
    with pytest.raises(ValueError, match="none of the keys"):
        verify_note(NOTE, [namesake.verifier])


def test_one_wrong_signature_of_a_known_key_spoils_the_note() -> None:
    forged = f"— {other.name} {base64.b64encode(other.verifier.key_id + bytes(64)).decode()}\n"

    assert verify_note(NOTE + forged, [SIGNER.verifier])
    with pytest.raises(ValueError, match=r"another\.example/x does not belong"):
        verify_note(NOTE + forged, [SIGNER.verifier, other.verifier])


def test_the_text_ends_at_the_last_empty_line() -> None:
    text = "one\n\ntwo\n\n\nthree\n"

    assert parse_note(SIGNER.sign(text)).text == text
    assert verify_note(SIGNER.sign(text), [SIGNER.verifier])[0] == text


def test_sixteen_signatures_are_taken_and_no_more() -> None:
    assert verify_note(NOTE + LINE * 15, [SIGNER.verifier])[1] == (SIGNER.verifier,)
    with pytest.raises(ValueError, match="at most 16"):
        verify_note(NOTE + LINE * 16, [SIGNER.verifier])


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n",
        "\n\n",
        TEXT,
        TEXT + "\n",
        LINE,
        TEXT + LINE,
        NOTE[:-1],
        NOTE + "\n",
        NOTE + "\n\n",
        NOTE + "more\n",
        NOTE.replace("\n", "\r\n"),
        NOTE.replace("receipt 7", "receipt\t7"),
        NOTE.replace("receipt 7", "receipt\x007"),
        NOTE.replace("— ", "- "),
        NOTE.replace("— ", "—"),
        NOTE.replace("— ", "—  "),
        NOTE.replace("— headshots.example/deletion/2026a", "— "),
        NOTE.replace("/deletion/2026a", "/deletion/2026+a"),
        NOTE.replace("/deletion/2026a", "/deletion/\u00a02026a"),
        NOTE.replace("JTXqJAI=", "JTXqJAI"),
        NOTE.replace("JTXqJAI=", "JTXqJAI=="),
        NOTE.replace("JTXqJAI=", "JTXqJAI= "),
        NOTE.replace("gKyD", "gKy\n"),
        NOTE.replace("gKyD", "gK_D"),
        f"{TEXT}\n— {SIGNER.name} {base64.b64encode(SIGNER.verifier.key_id).decode()}\n",
        f"{TEXT}\n— {SIGNER.name} \n",
        NOTE.replace("7F3K", "\ud800"),
        "x" * MAX_NOTE_CHARACTERS + NOTE,
    ],
)
def test_a_malformed_note_is_refused(note: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_note(note)


def test_base64_with_bits_that_mean_nothing_is_refused() -> None:
    encoded = LINE.split()[2]

    with pytest.raises(ValueError, match="base64"):
        parse_note(NOTE.replace(encoded, unpadded_bits(encoded)))


@pytest.mark.parametrize("text", ["", "no end", "a\tb\n", "\ud800\n", "\n"])
def test_text_that_no_note_can_hold_is_not_signed(text: str) -> None:
    if text == "\n":
        assert verify_note(SIGNER.sign(text), [SIGNER.verifier])[0] == text
        return
    with pytest.raises(ValueError, match=r"."):
        SIGNER.sign(text)


written = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=[chr(i) for i in range(32)]))


@settings(max_examples=50, deadline=None)
@given(lines=st.lists(written, min_size=1, max_size=6))
def test_every_text_comes_back_from_its_note(lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)

    assert verify_note(SIGNER.sign(text), [other.verifier, SIGNER.verifier]) == (text, (SIGNER.verifier,))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_single_byte_that_changes_is_noticed(data: st.DataObject) -> None:
    whole = NOTE.encode()
    place = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != whole[place]))

    with pytest.raises(ValueError, match=r"."):
        verify_note((whole[:place] + bytes([byte]) + whole[place + 1 :]).decode(), [SIGNER.verifier])


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(st.text(), st.text("\n— +=aA/é\x00\ud800"), st.from_regex(r"(\w+\n)+\n(— \S+ \S+\n)+")))
@example("— \n\n— + \n")
def test_the_parsers_raise_nothing_but_value_errors(text: str) -> None:
    for parse in (Verifier.parse, Signer.parse, lambda note: verify_note(note, [SIGNER.verifier])):
        with pytest.raises(ValueError, match=r"."):
            parse(text)
