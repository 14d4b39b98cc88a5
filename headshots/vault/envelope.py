"""Seals objects and wraps keys: every byte format of the vault, laid out in FORMAT.md.

The only module that touches the cipher. It frames nothing itself: headers and contexts are ours, the
encryption is Cobblestone-256 (C2SP chunked-encryption) as it comes from the library.
"""

import hashlib
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Final, TypeAlias
from uuid import UUID

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag

from headshots.vault.errors import Unreadable

Key: TypeAlias = bytes | bytearray

KEY_BYTES: Final = 32
WRAPPED_BYTES: Final = 120

_SUITE: Final = 0x01
_HEADER_BYTES: Final = 8
_WRAP_HEADER_BYTES: Final = 16
_PREFIX_BYTES: Final = 24 + 32  # Cobblestone's salt and key commitment
_CHUNK_BYTES: Final = 16384
_TAG_BYTES: Final = 16
_PIECE_BYTES: Final = 16 * _CHUNK_BYTES
_UNIX: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Kind(IntEnum):
    """What a sealed object is. The high nibble says which of the order's two keys seals it."""

    SELFIE = 0x01
    SELFIE_PREVIEW = 0x02
    HEADSHOT = 0x10
    PREVIEW = 0x11
    MAIL_ADDRESS = 0x12  # in a row, not in the store


class Role(IntEnum):
    """Which of an order's two keys: the one for what came in, or the one for what goes out."""

    SELFIES = 0x01
    RESULTS = 0x02


def role_of(kind: Kind) -> Role:
    """The key that seals objects of this kind."""
    return Role.SELFIES if kind >> 4 == 0 else Role.RESULTS


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectName:
    """Everything an object is bound to; taken from its row, never from the store.

    `index` is the position in the order, `generation` the order's fence counter when the object was made.
    """

    order_id: UUID
    object_id: UUID
    kind: Kind
    index: int
    generation: int

    def __post_init__(self) -> None:
        Kind(self.kind)
        if not 0 <= self.index < 2**32 or not 0 <= self.generation < 2**64:
            raise ValueError(f"index {self.index} or generation {self.generation} does not fit its field")

    @property
    def blob_name(self) -> str:
        """The name in the blob store: random ids only."""
        return f"o/{self.order_id.hex}/{self.object_id.hex}"

    @property
    def header(self) -> bytes:
        """The 8 bytes before the ciphertext."""
        return b"HSE1" + bytes((_SUITE, self.kind, 0, 0))

    @property
    def context(self) -> bytes:
        """72 bytes of fixed layout, so two different names never give the same context."""
        return (
            b"headshots/v1 object\0"
            + self.header
            + self.order_id.bytes
            + self.object_id.bytes
            + struct.pack(">IQ", self.index, self.generation)
        )


def sealed_size(plaintext_bytes: int) -> int:
    """The stored size of an object of that many bytes; its last chunk is always short, even if empty."""
    return _HEADER_BYTES + _ciphertext_bytes(plaintext_bytes)


def _ciphertext_bytes(plaintext_bytes: int) -> int:
    return _PREFIX_BYTES + plaintext_bytes + _TAG_BYTES * (plaintext_bytes // _CHUNK_BYTES + 1)


def seal_object(order_key: Key, name: ObjectName, plaintext: bytes) -> bytearray:
    """The sealed form of an object, `sealed_size(len(plaintext))` bytes; different at every call."""
    return _encrypt(order_key, name.header, name.context, plaintext)


def open_object(order_key: Key, name: ObjectName, sealed: bytes | bytearray) -> bytes:
    """The plaintext, complete and verified. Raises Unreadable, and then nothing of it was given out."""
    if sealed[:_HEADER_BYTES] != name.header:
        raise Unreadable
    return _decrypt(order_key, name.context, memoryview(sealed)[_HEADER_BYTES:])


def epoch_key_id(epoch_key: Key) -> bytes:
    """8 bytes that name an epoch key without telling anything about it."""
    return hashlib.sha256(b"headshots/v1 kid\0" + epoch_key).digest()[:8]


def root_key_id(root_key: Key) -> bytes:
    """8 bytes that name a root key; another label than for epoch keys, so the two never meet."""
    return hashlib.sha256(b"headshots/v1 root kid\0" + root_key).digest()[:8]


def wrap_order_key(
    epoch_key: Key, order_key: Key, *, order_id: UUID, role: Role, epoch: int, not_after: datetime
) -> bytes:
    """An order key as it may lie in a row: 120 bytes, bound to epoch key, order, role and end of life."""
    _require_key(order_key)
    header, context = _order_key_frame(epoch_key, order_id, role, epoch, not_after)
    return bytes(_encrypt(epoch_key, header, context, order_key))


def unwrap_order_key(
    epoch_key: Key, wrapped: bytes, *, order_id: UUID, role: Role, epoch: int, not_after: datetime
) -> bytes:
    """The clear order key. Raises Unreadable when anything, also in the row, is not as it was at wrapping."""
    try:
        header, context = _order_key_frame(epoch_key, order_id, role, epoch, not_after)
    except ValueError as error:  # a row edited to values that could never have been wrapped
        raise Unreadable from error
    return _unwrap(epoch_key, header, context, wrapped)


def wrap_epoch_key(root_key: Key, epoch_key: Key, *, epoch: int, end: datetime) -> bytes:
    """An epoch key as it may lie in the epoch store: 120 bytes."""
    _require_key(epoch_key)
    header, context = _epoch_key_frame(root_key, epoch, end)
    return bytes(_encrypt(root_key, header, context, epoch_key))


def unwrap_epoch_key(root_key: Key, wrapped: bytes, *, epoch: int, end: datetime) -> bytes:
    """The clear epoch key. Raises Unreadable for another root key, another epoch, or altered bytes."""
    header, context = _epoch_key_frame(root_key, epoch, end)
    return _unwrap(root_key, header, context, wrapped)


def _order_key_frame(
    epoch_key: Key, order_id: UUID, role: Role, epoch: int, not_after: datetime
) -> tuple[bytes, bytes]:
    header = b"HSW1" + bytes((_SUITE, Role(role), 0, 0)) + epoch_key_id(epoch_key)
    life = _life(epoch, not_after)
    return header, b"headshots/v1 order-key\0" + header + order_id.bytes + life


def _epoch_key_frame(root_key: Key, epoch: int, end: datetime) -> tuple[bytes, bytes]:
    header = b"HSK1" + bytes((_SUITE, 0, 0, 0)) + root_key_id(root_key)
    return header, b"headshots/v1 epoch-key\0" + header + _life(epoch, end)


def _life(epoch: int, end: datetime) -> bytes:
    seconds, fraction = divmod(end - _UNIX, timedelta(seconds=1))
    # A fraction would be lost here, and with it the promise that no edit of the end goes unnoticed.
    if fraction or not 0 <= epoch < 2**64 or seconds < 0:
        raise ValueError(f"epoch {epoch} cannot end at {end.isoformat()}")
    return struct.pack(">QQ", epoch, seconds)


def _unwrap(key: Key, header: bytes, context: bytes, wrapped: bytes) -> bytes:
    if len(wrapped) != WRAPPED_BYTES or wrapped[:_WRAP_HEADER_BYTES] != header:
        raise Unreadable
    return _decrypt(key, context, memoryview(wrapped)[_WRAP_HEADER_BYTES:])


def _encrypt(key: Key, header: bytes, context: bytes, plaintext: Key) -> bytearray:
    _require_key(key)
    encryptor = Cobblestone256Encryptor(key, context)
    # One buffer, filled in place: mapping fresh megabytes for each copy costs more than the cipher.
    sealed = bytearray(len(header) + _ciphertext_bytes(len(plaintext)))
    sealed[: len(header)] = header
    with memoryview(plaintext) as whole, memoryview(sealed) as room:
        end = len(header)
        for at in range(0, len(whole), _PIECE_BYTES):
            end += encryptor.update_into(whole[at : at + _PIECE_BYTES], room[end:])
        room[end:] = encryptor.finalize()
    return sealed


def _decrypt(key: Key, context: bytes, ciphertext: memoryview) -> bytes:
    _require_key(key)
    decryptor = Cobblestone256Decryptor(key, context)
    try:
        # update() gives out chunks before a cut-off end can be noticed; only finalize() vouches for them.
        return decryptor.update(ciphertext) + decryptor.finalize()
    except InvalidTag as error:
        raise Unreadable from error


def _require_key(key: Key) -> None:
    # A wiped key is all zeros, and sealing under it would be publishing.
    if len(key) != KEY_BYTES or not any(key):
        raise ValueError(f"a key has {KEY_BYTES} bytes that are not all zero")
