"""A second implementation of the formats, written from their description, and the published vectors."""

import hashlib
import struct
from datetime import UTC, datetime
from uuid import UUID

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from headshots.vault.envelope import Kind, ObjectName, Role, unwrap_order_key

CHUNK = 16384

ORDER = UUID("0190a0b0c0d07000800000000000000a")
OBJECT = UUID("0190a0b0c0d07000800000000000000b")
EPOCH = 487000
NOT_AFTER = datetime.fromtimestamp(1753286400, UTC)
EPOCH_KEY = bytes(range(0x40, 0x60))
ORDER_KEY = bytes(range(0x20))
ROOT_KEY = bytes(range(0x60, 0x80))
WRAP_SALT = bytes(range(0xA0, 0xB8))
OBJECT_SALT = bytes(range(0xC0, 0xD8))

WRAPPED = bytes.fromhex(
    "4853573101010000bb7cdd8b67e81f0da0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7377a5fb1c76c9dbc"
    "0fb4f0fc7525b926852c287d9a5b2f70a81345c02b8fc625294cd78743bd2f86a1bfff773ac266e1a0566c01de5d51f4"
    "cdc86cd8a23323b1bb0f624918af5d20a732d3ddf2c7ffcd"
)
EMPTY = bytes.fromhex(
    "4853453101010000c0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d78ef2809822d328f684ad83502d338c6e"
    "a52770713681c9d73dde8bcf5d964861f2b36fd2dd6a533b0a03e828466ddb82"
)
SHORT = bytes.fromhex(
    "4853453101010000c0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d712ad16806b585dd929b26fa2a52c80fd"
    "c7b39dd05b95b6fa480c9d1545d82a18bd563776afe2a7a985a0845d1331da0884cb027c40468821e776d41a3a4435bc"
)


def cobblestone(key: bytes, salt: bytes, context: bytes, plaintext: bytes) -> bytes:
    """Cobblestone-256 written from its specification, with a salt of our choice."""
    label = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0"
    derived = HKDFExpand(hashes.SHA512(), 32 + 12 + 32, label + salt + context).derive(key)
    aead, base_nonce = AESGCM(derived[:32]), int.from_bytes(derived[32:44], "big")
    sealed = salt + derived[44:]
    for number in range(len(plaintext) // CHUNK + 1):
        chunk = plaintext[number * CHUNK : (number + 1) * CHUNK]
        sealed += aead.encrypt((base_nonce ^ number).to_bytes(12, "big"), chunk, None)
    return sealed


def object_name(kind: Kind = Kind.SELFIE, index: int = 3, generation: int = 1) -> ObjectName:
    return ObjectName(order_id=ORDER, object_id=OBJECT, kind=kind, index=index, generation=generation)


def reference_object(name: ObjectName, plaintext: bytes, *, header: bytes | None = None) -> bytes:
    header = header or b"HSE1\x01" + bytes([name.kind]) + b"\0\0"
    fields = struct.pack(">8s16s16sIQ", header, ORDER.bytes, OBJECT.bytes, name.index, name.generation)
    return header + cobblestone(ORDER_KEY, OBJECT_SALT, b"headshots/v1 object\0" + fields, plaintext)


def reference_wrapped(key: bytes = ORDER_KEY) -> bytes:
    header = b"HSW1\x01\x01\0\0" + hashlib.sha256(b"headshots/v1 kid\0" + EPOCH_KEY).digest()[:8]
    fields = struct.pack(">16s16sQQ", header, ORDER.bytes, EPOCH, 1753286400)
    return header + cobblestone(EPOCH_KEY, WRAP_SALT, b"headshots/v1 order-key\0" + fields, key)


def unwrap(wrapped: bytes, **changed: object) -> bytes:
    row = {"order_id": ORDER, "role": Role.SELFIES, "epoch": EPOCH, "not_after": NOT_AFTER} | changed
    return unwrap_order_key(EPOCH_KEY, wrapped, **row)  # type: ignore[arg-type]


def pattern(length: int) -> bytes:
    return bytes(i % 251 for i in range(length))
