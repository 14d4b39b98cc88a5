"""Whatever lies in the store or in a row opens to what was sealed, or is Unreadable: never another error."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headshots.vault import envelope
from headshots.vault.envelope import Kind, ObjectName, Role
from headshots.vault.errors import Unreadable

KEY: Final = bytes(range(32))
NAME: Final = ObjectName(
    order_id=uuid.UUID(int=1), object_id=uuid.UUID(int=2), kind=Kind.SELFIE, index=0, generation=3
)
END: Final = datetime(2026, 1, 2, tzinfo=UTC)
SEALED: Final = envelope.seal_object(KEY, NAME, b"pixels" * 4000)  # two chunks
ORDER_KEY: Final = {"order_id": NAME.order_id, "role": Role.SELFIES, "epoch": 7, "not_after": END}
OPENERS: Final[dict[str, tuple[bytes, Callable[[bytes], bytes]]]] = {
    "object": (SEALED, lambda raw: envelope.open_object(KEY, NAME, raw)),
    "order key": (
        envelope.wrap_order_key(KEY, KEY[::-1], **ORDER_KEY),
        lambda raw: envelope.unwrap_order_key(KEY, raw, **ORDER_KEY),
    ),
    "epoch key": (
        envelope.wrap_epoch_key(KEY, KEY[::-1], epoch=7, end=END),
        lambda raw: envelope.unwrap_epoch_key(KEY, raw, epoch=7, end=END),
    ),
}


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """Any bytes; the true header and any tail; the true form cut, longer, or changed at one place."""
    place = st.integers(0, len(whole) - 1)
    flip = st.builds(
        lambda at, value: whole[:at] + bytes((whole[at] ^ value,)) + whole[at + 1 :],
        place,
        st.integers(1, 255),
    )
    return st.one_of(
        st.binary(max_size=400),
        st.builds(lambda tail, length: whole[:length] + tail, st.binary(max_size=400), st.integers(8, 80)),
        st.builds(lambda length: whole[:length], place),
        st.builds(lambda tail: whole + tail, st.binary(min_size=1, max_size=64)),
        flip,
    )


@pytest.mark.parametrize("what", OPENERS)
def test_damaged_bytes_are_unreadable_and_nothing_else(fuzz: Callable[..., None], what: str) -> None:
    whole, opened = OPENERS[what]
    plain = opened(whole)

    @given(damaged(whole))
    def check(raw: bytes) -> None:
        if raw == whole:
            assert opened(raw) == plain
            return
        with pytest.raises(Unreadable):
            opened(raw)

    fuzz(check, examples=300)


def test_a_name_of_any_other_order_object_kind_or_place_does_not_open(fuzz: Callable[..., None]) -> None:
    @given(
        st.builds(
            ObjectName,
            order_id=st.uuids() | st.just(NAME.order_id),
            object_id=st.uuids() | st.just(NAME.object_id),
            kind=st.sampled_from(Kind),
            index=st.integers(0, 2**32 - 1) | st.just(0),
            generation=st.integers(0, 2**64 - 1) | st.just(3),
        )
    )
    def check(name: ObjectName) -> None:
        if name == NAME:
            return
        with pytest.raises(Unreadable):
            envelope.open_object(KEY, name, SEALED)

    fuzz(check, examples=200)


def test_what_was_sealed_opens_at_every_size(fuzz: Callable[..., None]) -> None:
    edges = st.sampled_from([0, 1, 16_383, 16_384, 16_385, 32_767, 32_768, 32_769, 49_152])

    @given(edges | st.integers(0, 50_000), st.binary(min_size=1, max_size=8))
    def check(size: int, pattern: bytes) -> None:
        plain = (pattern * (size // len(pattern) + 1))[:size]
        sealed = envelope.seal_object(KEY, NAME, plain)
        assert len(sealed) == envelope.sealed_size(size)
        assert envelope.open_object(KEY, NAME, sealed) == plain

    fuzz(check, examples=100)
