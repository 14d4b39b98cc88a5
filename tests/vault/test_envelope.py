"""Sealing and wrapping: nothing opens that was altered, moved, cut or meant for another row."""

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headshots.vault.envelope import (
    Kind,
    ObjectName,
    Role,
    open_object,
    role_of,
    seal_object,
    sealed_size,
    unwrap_epoch_key,
    unwrap_order_key,
    wrap_epoch_key,
    wrap_order_key,
)
from headshots.vault.errors import KeyGone, Unreadable
from tests.vault.reference import (
    CHUNK,
    EMPTY,
    EPOCH,
    EPOCH_KEY,
    NOT_AFTER,
    OBJECT,
    ORDER,
    ORDER_KEY,
    ROOT_KEY,
    SHORT,
    WRAPPED,
    object_name,
    pattern,
    reference_object,
    unwrap,
)

# changed names


@pytest.mark.parametrize(
    "change",
    [
        {"order_id": UUID(int=1)},
        {"object_id": UUID(int=1)},
        {"kind": Kind.SELFIE_PREVIEW},
        {"kind": Kind.HEADSHOT},
        {"index": 4},
        {"generation": 2},
        {"order_id": OBJECT, "object_id": ORDER},
    ],
    ids=lambda change: "+".join(change),
)
def test_object_opens_under_no_other_name(change: dict[str, UUID | Kind | int]) -> None:
    other = dataclasses.replace(object_name(), **change)  # type: ignore[arg-type]

    assert open_object(ORDER_KEY, object_name(), SHORT) == b"headshots vector"
    with pytest.raises(Unreadable):
        open_object(ORDER_KEY, other, SHORT)


def test_object_with_its_kind_rewritten_to_match_does_not_open() -> None:
    rewritten = SHORT[:5] + bytes([Kind.SELFIE_PREVIEW]) + SHORT[6:]

    with pytest.raises(Unreadable):
        open_object(ORDER_KEY, object_name(Kind.SELFIE_PREVIEW), rewritten)


@pytest.mark.parametrize(
    "header",
    [b"HSE2\x01\x01\0\0", b"HSE1\x02\x01\0\0", b"HSE1\x01\x02\0\0", b"HSE1\x01\x01\1\0", b"HSE1\x01\x01\0\1"],
    ids=["magic", "suite", "kind", "reserved 1", "reserved 2"],
)
def test_object_sealed_under_another_header_is_refused_even_if_it_is_authentic(header: bytes) -> None:
    sealed = reference_object(object_name(), b"headshots vector", header=header)

    with pytest.raises(Unreadable):
        open_object(ORDER_KEY, object_name(), sealed)


@pytest.mark.parametrize(
    "change",
    [
        {"order_id": OBJECT},
        {"role": Role.RESULTS},
        {"epoch": EPOCH + 1},
        {"epoch": -1},
        {"not_after": NOT_AFTER + timedelta(seconds=1)},
        {"not_after": NOT_AFTER - timedelta(seconds=1)},
        {"not_after": NOT_AFTER + timedelta(microseconds=1)},
        {"not_after": datetime(1969, 12, 31, tzinfo=UTC)},
    ],
    ids=str,
)
def test_order_key_does_not_open_for_an_edited_row(change: dict[str, object]) -> None:
    assert unwrap(WRAPPED) == ORDER_KEY
    with pytest.raises(Unreadable):
        unwrap(WRAPPED, **change)


@pytest.mark.parametrize("change", [{"epoch": EPOCH + 1}, {"end": NOT_AFTER + timedelta(hours=1)}], ids=str)
def test_epoch_key_does_not_open_for_another_epoch_or_end(change: dict[str, object]) -> None:
    wrapped = wrap_epoch_key(ROOT_KEY, EPOCH_KEY, epoch=EPOCH, end=NOT_AFTER)

    with pytest.raises(Unreadable):
        unwrap_epoch_key(ROOT_KEY, wrapped, **({"epoch": EPOCH, "end": NOT_AFTER} | change))  # type: ignore[arg-type]


def test_wrong_keys_open_nothing() -> None:
    wrong = bytes(range(1, 0x21))
    wrapped_epoch_key = wrap_epoch_key(ROOT_KEY, EPOCH_KEY, epoch=EPOCH, end=NOT_AFTER)

    with pytest.raises(Unreadable):
        open_object(wrong, object_name(), SHORT)
    with pytest.raises(Unreadable):
        unwrap_order_key(wrong, WRAPPED, order_id=ORDER, role=Role.SELFIES, epoch=EPOCH, not_after=NOT_AFTER)
    with pytest.raises(Unreadable):
        unwrap_epoch_key(wrong, wrapped_epoch_key, epoch=EPOCH, end=NOT_AFTER)


# altered bytes

OPENERS: list[tuple[bytes, Callable[[bytes], bytes]]] = [
    (SHORT, lambda sealed: open_object(ORDER_KEY, object_name(), sealed)),
    (EMPTY, lambda sealed: open_object(ORDER_KEY, object_name(index=0), sealed)),
    (WRAPPED, unwrap),
]
each_format = pytest.mark.parametrize(
    ("sealed", "opener"), OPENERS, ids=["object", "empty object", "order key"]
)


@each_format
def test_every_single_flipped_byte_is_refused(sealed: bytes, opener: Callable[[bytes], bytes]) -> None:
    refused = 0
    for offset in range(len(sealed)):
        for mask in (0x01, 0x80, 0xFF):
            altered = bytearray(sealed)
            altered[offset] ^= mask
            with pytest.raises(Unreadable):
                opener(bytes(altered))
            refused += 1

    assert refused == 3 * len(sealed)


@each_format
def test_every_truncation_is_refused(sealed: bytes, opener: Callable[[bytes], bytes]) -> None:
    for length in range(len(sealed)):
        with pytest.raises(Unreadable):
            opener(sealed[:length])


@each_format
@pytest.mark.parametrize("tail", [b"\0", b"\0" * 16, b"\0" * (CHUNK + 16)], ids=len)
def test_trailing_bytes_are_refused(sealed: bytes, opener: Callable[[bytes], bytes], tail: bytes) -> None:
    with pytest.raises(Unreadable):
        opener(sealed + tail)


def test_an_object_with_swapped_doubled_or_dropped_chunks_is_refused() -> None:
    name = object_name(Kind.HEADSHOT)
    sealed = seal_object(ORDER_KEY, name, pattern(3 * CHUNK))
    head, body = sealed[:64], sealed[64:]
    a, b, c, last = (body[start : start + CHUNK + 16] for start in range(0, len(body), CHUNK + 16))
    assert open_object(ORDER_KEY, name, head + a + b + c + last) == pattern(3 * CHUNK)
    assert len(last) == 16

    for chunks in (
        [b, a, c, last],
        [a, c, b, last],
        [last, a, b, c],
        [a, a, b, c, last],
        [a, b, c, c, last],
        [a, b, c, last, last],
        [a, b, c],
        [a, b, last],
        [b, c, last],
        [a],
        [last],
        [],
    ):
        with pytest.raises(Unreadable):
            open_object(ORDER_KEY, name, head + b"".join(chunks))


def test_a_long_object_cut_around_each_boundary_is_refused() -> None:
    name = object_name(Kind.HEADSHOT)
    sealed = seal_object(ORDER_KEY, name, pattern(2 * CHUNK + 5))

    for boundary in (8, 32, 64, 64 + CHUNK + 16, 64 + 2 * (CHUNK + 16), len(sealed) - 16):
        for length in (boundary - 1, boundary, boundary + 1):
            with pytest.raises(Unreadable):
                open_object(ORDER_KEY, name, sealed[:length])


def test_a_chunk_of_another_object_under_the_same_key_is_refused() -> None:
    name = object_name(Kind.HEADSHOT)
    first, second = (seal_object(ORDER_KEY, name, pattern(CHUNK + 1)) for _ in range(2))

    with pytest.raises(Unreadable):
        open_object(ORDER_KEY, name, first[: 64 + CHUNK + 16] + second[64 + CHUNK + 16 :])


# what must hold for all


@settings(max_examples=80, deadline=None)
@given(
    chunks=st.integers(0, 3),
    more=st.sampled_from([-1, 0, 1]),
    kind=st.sampled_from(Kind),
    index=st.integers(0, 2**32 - 1),
    generation=st.integers(0, 2**64 - 1),
)
def test_what_was_sealed_opens_and_has_the_foretold_size(
    chunks: int, more: int, kind: Kind, index: int, generation: int
) -> None:
    name = object_name(kind, index, generation)
    plaintext = pattern(max(0, chunks * CHUNK + more))

    sealed = seal_object(ORDER_KEY, name, plaintext)

    assert len(sealed) == sealed_size(len(plaintext))
    assert open_object(ORDER_KEY, name, sealed) == plaintext


names = st.builds(
    ObjectName,
    order_id=st.uuids(),
    object_id=st.uuids(),
    kind=st.sampled_from(Kind),
    index=st.integers(0, 2**32 - 1),
    generation=st.integers(0, 2**64 - 1),
)


@given(one=names, other=names)
def test_two_names_share_a_context_only_if_they_are_equal(one: ObjectName, other: ObjectName) -> None:
    assert (one.context == other.context) == (one == other)


@pytest.mark.parametrize(
    ("length", "size"), [(0, 80), (16, 96), (16383, 16463), (16384, 16480), (40000, 40112)]
)
def test_sealed_size_is_exact(length: int, size: int) -> None:
    assert sealed_size(length) == size


def test_sealing_twice_gives_different_bytes() -> None:
    assert seal_object(ORDER_KEY, object_name(), b"x") != seal_object(ORDER_KEY, object_name(), b"x")


@pytest.mark.parametrize(
    ("kind", "role"),
    [
        (Kind.SELFIE, Role.SELFIES),
        (Kind.SELFIE_PREVIEW, Role.SELFIES),
        (Kind.HEADSHOT, Role.RESULTS),
        (Kind.PREVIEW, Role.RESULTS),
    ],
)
def test_each_kind_has_its_key(kind: Kind, role: Role) -> None:
    assert role_of(kind) is role


def test_blob_name_is_made_of_the_two_random_ids() -> None:
    assert object_name().blob_name == f"o/{ORDER.hex}/{OBJECT.hex}"


# misuse


@pytest.mark.parametrize(
    "change",
    [{"index": -1}, {"index": 2**32}, {"generation": -1}, {"generation": 2**64}, {"kind": 0x99}],
    ids=str,
)
def test_a_name_that_does_not_fit_its_fields_cannot_be_built(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"does not fit|not a valid Kind"):
        dataclasses.replace(object_name(), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [b"", b"k" * 16, b"k" * 33, bytes(32), bytearray(32)], ids=len)
def test_a_short_or_wiped_key_neither_seals_nor_opens_nor_is_wrapped(key: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        seal_object(key, object_name(), b"pixels")
    with pytest.raises(ValueError, match="32 bytes"):
        open_object(key, object_name(), SHORT)
    with pytest.raises(ValueError, match="32 bytes"):
        wrap_order_key(EPOCH_KEY, key, order_id=ORDER, role=Role.SELFIES, epoch=EPOCH, not_after=NOT_AFTER)
    with pytest.raises(ValueError, match="32 bytes"):
        wrap_epoch_key(ROOT_KEY, key, epoch=EPOCH, end=NOT_AFTER)


def test_a_key_is_not_wrapped_for_an_end_that_the_format_cannot_hold() -> None:
    end = NOT_AFTER + timedelta(milliseconds=1)

    with pytest.raises(ValueError, match="cannot end at"):
        wrap_order_key(EPOCH_KEY, ORDER_KEY, order_id=ORDER, role=Role.SELFIES, epoch=EPOCH, not_after=end)


def test_all_failures_say_the_same_words() -> None:
    assert str(Unreadable()) == str(KeyGone(EPOCH)) == "This object cannot be read."
