"""Whatever is said to be a receipt, a checkpoint or a style is one, or is refused with its own error."""

from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from cryptography.exceptions import InvalidSignature
from hypothesis import given
from hypothesis import strategies as st

from headshots.vault.chain import Checkpoint, compose_checkpoint, parse_checkpoint
from headshots.vault.notes import Signer, parse_note
from headshots.vault.receipts import compose_receipt, open_receipt, parse_receipt
from headshots.web.static.web import verify_receipt
from pipelines.presets import PresetError, StylePreset, tokens_in
from pipelines.styles import BUILTIN
from tests.vault.test_receipts import RECEIPT, SIGNER, TEXT

NOTE: Final = SIGNER.sign(compose_receipt(RECEIPT))
FOREIGN: Final = Signer(name=SIGNER.name, seed=bytes(32)).sign(compose_receipt(RECEIPT))
CHECKPOINT: Final = compose_checkpoint(
    Checkpoint(origin="headshots.example", size=3, head=bytes(32), at=datetime(2026, 1, 2, tzinfo=UTC))
)
KEY: Final = verify_receipt.parse_key(str(SIGNER.verifier))
NUMBERS: Final = st.floats() | st.integers(-(10**9), 10**9)


def altered(*wholes: str) -> st.SearchStrategy[str]:
    """Any text; the true ones cut, longer, doubled, with one character changed or two lines exchanged."""
    whole = st.sampled_from(wholes)
    at = st.integers(0, max(map(len, wholes)))
    letters = st.characters() | st.sampled_from("\n\r\0 —+=0aZ:-")

    def exchanged(text: str, one: int, other: int) -> str:
        lines = text.split("\n")
        one, other = one % len(lines), other % len(lines)
        lines[one], lines[other] = lines[other], lines[one]
        return "\n".join(lines)

    return st.one_of(
        st.text(max_size=300),
        st.builds(lambda text, end: text[:end], whole, at),
        st.builds(lambda text, tail: text + tail, whole, st.text(min_size=1, max_size=40)),
        st.builds(lambda text, place, new: text[:place] + new + text[place + 1 :], whole, at, letters),
        st.builds(exchanged, whole, at, at),
        st.builds(lambda one, other: one + other, whole, whole),
    )


def test_a_receipt_is_the_signed_one_or_is_refused(fuzz: Callable[..., None]) -> None:
    @given(altered(NOTE, FOREIGN, TEXT))
    def check(text: str) -> None:
        try:
            receipt, signed_by = open_receipt(text, [SIGNER.verifier])
        except ValueError:
            assert text != NOTE
        else:
            assert (receipt, signed_by) == (RECEIPT, (SIGNER.verifier,))
            assert parse_note(text).text == TEXT

    fuzz(check, examples=500)


def test_the_stand_alone_program_agrees_about_every_receipt(fuzz: Callable[..., None]) -> None:
    @given(altered(NOTE, FOREIGN, TEXT))
    def check(text: str) -> None:
        try:
            signed = verify_receipt.verify(text, KEY)
        except (ValueError, InvalidSignature):
            assert text != NOTE
        else:
            assert signed == TEXT

    fuzz(check, examples=500)


@pytest.mark.parametrize(
    ("parse", "compose", "whole"),
    [(parse_receipt, compose_receipt, TEXT), (parse_checkpoint, compose_checkpoint, CHECKPOINT)],
    ids=["receipt", "checkpoint"],
)
def test_a_text_that_is_read_is_the_one_that_would_be_written(
    fuzz: Callable[..., None], parse: Callable[[str], Any], compose: Callable[[Any], str], whole: str
) -> None:
    @given(altered(whole))
    def check(text: str) -> None:
        try:
            read = parse(text)
        except ValueError:
            assert text != whole
        else:
            assert compose(read) == text

    fuzz(check, examples=500)


def test_a_style_with_any_text_or_number_is_within_its_bounds_or_refused(fuzz: Callable[..., None]) -> None:
    values = {str: st.text(max_size=80), int: NUMBERS, float: NUMBERS}
    of_field = {field.name: values[field.type] for field in fields(StylePreset) if field.type in values}

    @given(st.sampled_from(sorted(of_field)).flatmap(lambda name: st.tuples(st.just(name), of_field[name])))
    def check(change: tuple[str, Any]) -> None:
        name, value = change
        try:
            preset = replace(BUILTIN[0].preset, **{name: value})
        except PresetError as error:
            problem = str(error)
        else:
            problem = ""
            assert 7 <= preset.guidance_scale <= 12
            assert 20 <= preset.num_inference_steps <= 50
            assert tokens_in(preset.prompt) > 0
        assert not problem or problem.startswith(f"{name} must be ")

    fuzz(check, examples=300)
