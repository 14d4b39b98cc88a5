"""Whatever was done to an object, the refusal is one and the same: nobody learns from it what was wrong."""

import dataclasses
from collections.abc import Callable, Iterator
from itertools import permutations, product
from uuid import UUID

import pytest

from headshots.vault.envelope import Kind, ObjectName, Role, open_object, seal_object
from headshots.vault.errors import Unreadable
from tests.vault.reference import (
    CHUNK,
    EMPTY,
    ORDER,
    ORDER_KEY,
    SHORT,
    WRAPPED,
    object_name,
    pattern,
    unwrap,
)

TAG = 16
NAME = object_name(Kind.HEADSHOT)


def refusal(read: Callable[[], object]) -> tuple[type[BaseException], tuple[object, ...], str]:
    """The class, the arguments and the words of what is raised. Fails when nothing is."""
    with pytest.raises(Unreadable) as caught:
        read()
    return type(caught.value), caught.value.args, str(caught.value)


THE_REFUSAL = (Unreadable, ("This object cannot be read.",), "This object cannot be read.")


def flipped(sealed: bytes) -> Iterator[bytes]:
    for offset, byte in enumerate(sealed):
        yield sealed[:offset] + bytes([byte ^ 0xFF]) + sealed[offset + 1 :]


def truncated(sealed: bytes) -> Iterator[bytes]:
    for length in range(len(sealed)):
        yield sealed[:length]


@pytest.mark.parametrize("mutated", [flipped, truncated])
@pytest.mark.parametrize(
    ("sealed", "read"),
    [
        (SHORT, lambda sealed: open_object(ORDER_KEY, object_name(), sealed)),
        (EMPTY, lambda sealed: open_object(ORDER_KEY, object_name(index=0), sealed)),
        (WRAPPED, unwrap),
    ],
    ids=["object", "empty object", "order key"],
)
def test_every_flipped_byte_and_every_length_is_refused_with_the_same_words(
    sealed: bytes, read: Callable[[bytes], bytes], mutated: Callable[[bytes], Iterator[bytes]]
) -> None:
    read(sealed)

    refusals = [refusal(lambda altered=altered: read(altered)) for altered in mutated(sealed)]

    assert len(refusals) == len(sealed)
    assert set(refusals) == {THE_REFUSAL}


def test_every_other_order_number_and_choice_of_chunks_is_refused_with_the_same_words() -> None:
    """All sequences of up to five out of the four chunks: swapped, doubled, dropped, and all of these."""
    sealed = bytes(seal_object(ORDER_KEY, NAME, pattern(3 * CHUNK)))
    head, body = sealed[:64], sealed[64:]
    chunks = [body[start : start + CHUNK + TAG] for start in range(0, len(body), CHUNK + TAG)]
    assert [len(chunk) for chunk in chunks] == [CHUNK + TAG] * 3 + [TAG]
    right = (0, 1, 2, 3)
    assert open_object(ORDER_KEY, NAME, head + b"".join(chunks)) == pattern(3 * CHUNK)

    wrong = [places for length in range(6) for places in product(range(4), repeat=length) if places != right]
    refusals = {
        refusal(
            lambda places=places: open_object(ORDER_KEY, NAME, head + b"".join(chunks[n] for n in places))
        )
        for places in wrong
    }

    assert len(wrong) == sum(4**length for length in range(6)) - 1
    assert refusals == {THE_REFUSAL}


def test_objects_that_change_places_are_refused_with_the_same_words() -> None:
    """All of one order and under one key, so that only their names tell them apart."""
    names = [
        NAME,
        dataclasses.replace(NAME, object_id=UUID(int=1)),
        dataclasses.replace(NAME, index=NAME.index + 1),
        dataclasses.replace(NAME, generation=NAME.generation + 1),
        dataclasses.replace(NAME, kind=Kind.PREVIEW),
        ObjectName(
            order_id=NAME.object_id,
            object_id=NAME.order_id,
            kind=NAME.kind,
            index=NAME.index,
            generation=NAME.generation,
        ),
    ]
    sealed = {name: bytes(seal_object(ORDER_KEY, name, b"the same pixels")) for name in names}
    assert {open_object(ORDER_KEY, name, sealed[name]) for name in names} == {b"the same pixels"}

    refusals = {
        refusal(lambda one=one, other=other: open_object(ORDER_KEY, one, sealed[other]))
        for one, other in permutations(names, 2)
    }

    assert refusals == {THE_REFUSAL}


def test_another_key_another_role_and_another_row_are_refused_with_the_same_words() -> None:
    other_key = bytes(range(1, 33))

    assert {
        refusal(lambda: open_object(other_key, object_name(), SHORT)),
        refusal(lambda: unwrap(WRAPPED, role=Role.RESULTS)),
        refusal(lambda: unwrap(WRAPPED, order_id=UUID(int=ORDER.int ^ 1))),
        refusal(lambda: open_object(ORDER_KEY, object_name(), EMPTY)),
        refusal(lambda: open_object(ORDER_KEY, object_name(), b"")),
        refusal(lambda: open_object(ORDER_KEY, object_name(), b"\xff\xd8\xff\xe0 a picture in clear")),
    } == {THE_REFUSAL}
