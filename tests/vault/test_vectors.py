"""The byte formats against the published vectors and the second implementation."""

import hashlib
import struct

import pytest

from headshots.vault.envelope import (
    Kind,
    Role,
    epoch_key_id,
    open_object,
    root_key_id,
    seal_object,
    unwrap_epoch_key,
    wrap_epoch_key,
    wrap_order_key,
)
from tests.vault.reference import (
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
    cobblestone,
    object_name,
    pattern,
    reference_object,
    reference_wrapped,
    unwrap,
)


def test_published_wrapped_key_is_reproduced_and_opens() -> None:
    assert reference_wrapped() == WRAPPED
    assert epoch_key_id(EPOCH_KEY) == bytes.fromhex("bb7cdd8b67e81f0d")
    assert unwrap(WRAPPED) == ORDER_KEY


@pytest.mark.parametrize(("plaintext", "index", "sealed"), [(b"", 0, EMPTY), (b"headshots vector", 3, SHORT)])
def test_published_object_is_reproduced_and_opens(plaintext: bytes, index: int, sealed: bytes) -> None:
    name = object_name(index=index)

    assert reference_object(name, plaintext) == sealed
    assert open_object(ORDER_KEY, name, sealed) == plaintext


@pytest.mark.parametrize(
    ("length", "index", "size", "digest"),
    [
        (16384, 7, 16480, "becf6b70252ae6f8a81dbd77ea4acf05b2c509b0a15020133909a13f4cabe1ee"),
        (40000, 8, 40112, "ba06727cfe561a5702869c3fcd79b581af31c941ca97717b41f66170a31cc967"),
    ],
)
def test_published_long_object_is_reproduced_and_opens(
    length: int, index: int, size: int, digest: str
) -> None:
    name = object_name(Kind.HEADSHOT, index, generation=2)
    sealed = reference_object(name, pattern(length))

    assert (len(sealed), hashlib.sha256(sealed).hexdigest()) == (size, digest)
    assert open_object(ORDER_KEY, name, sealed) == pattern(length)


def test_what_the_library_wraps_has_the_published_layout() -> None:
    wrapped = wrap_order_key(
        EPOCH_KEY, ORDER_KEY, order_id=ORDER, role=Role.SELFIES, epoch=EPOCH, not_after=NOT_AFTER
    )
    salt = wrapped[16:40]
    context = b"headshots/v1 order-key\0" + wrapped[:16] + ORDER.bytes + struct.pack(">QQ", EPOCH, 1753286400)

    assert wrapped[:16] == WRAPPED[:16]
    assert wrapped[16:] == cobblestone(EPOCH_KEY, salt, context, ORDER_KEY)


def test_what_the_library_seals_has_the_published_layout() -> None:
    name = object_name(Kind.PREVIEW, index=9, generation=4)

    sealed = seal_object(ORDER_KEY, name, b"pixels")

    assert sealed[:8] == b"HSE1\x01\x11\0\0"
    assert sealed[8:] == cobblestone(ORDER_KEY, sealed[8:32], name.context, b"pixels")


def test_context_of_an_object_has_72_bytes_in_the_written_order() -> None:
    name = object_name(Kind.HEADSHOT, index=7, generation=2)
    label = b"headshots/v1 object\0HSE1\x01\x10\0\0"

    assert name.context == label + ORDER.bytes + OBJECT.bytes + bytes([0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 2])
    assert len(name.context) == 72


def test_wrapped_epoch_key_has_the_written_layout_and_opens() -> None:
    wrapped = wrap_epoch_key(ROOT_KEY, EPOCH_KEY, epoch=EPOCH, end=NOT_AFTER)
    key_id = hashlib.sha256(b"headshots/v1 root kid\0" + ROOT_KEY).digest()[:8]
    context = b"headshots/v1 epoch-key\0" + wrapped[:16] + struct.pack(">QQ", EPOCH, 1753286400)

    assert root_key_id(ROOT_KEY) == key_id
    assert wrapped[:16] == b"HSK1\x01\0\0\0" + key_id
    assert wrapped[16:] == cobblestone(ROOT_KEY, wrapped[16:40], context, EPOCH_KEY)
    assert unwrap_epoch_key(ROOT_KEY, wrapped, epoch=EPOCH, end=NOT_AFTER) == EPOCH_KEY
