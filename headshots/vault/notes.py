"""Signed notes (C2SP signed-note) with Ed25519: text that anybody can check against a short public key.

A note is text, an empty line, and one line for each signature: em dash, space, the key's name, space, base64
of the key's id and the signature. Signatures of unknown keys are ignored; one of a known key must verify.
"""

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAX_NOTE_CHARACTERS: Final = 64 * 1024
MAX_SIGNATURES: Final = 16  # what the specification asks every verifier to take at least

_ED25519: Final = b"\x01"  # the specification's byte for this kind of signature
_KEY_BYTES: Final = 32
_ID_BYTES: Final = 4
_FORBIDDEN: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")
_PREFIX: Final = "— "


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifier:
    """A public key and its name; written as `name+id+base64`."""

    name: str
    public_key: bytes

    def __post_init__(self) -> None:
        _require_name(self.name)
        if len(self.public_key) != _KEY_BYTES:
            raise ValueError(f"an Ed25519 public key has {_KEY_BYTES} bytes, not {len(self.public_key)}")

    @property
    def key_id(self) -> bytes:
        """Four bytes that tell keys of one name apart; no proof of anything."""
        hashed = hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public_key)
        return hashed.digest()[:_ID_BYTES]

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key that is written as exactly this text. Raises ValueError for any other text."""
        name, _, rest = text.partition("+")
        verifier = cls(name=name, public_key=_typed_key(rest.partition("+")[2]))
        if str(verifier) != text:
            raise ValueError("the key's id does not belong to its name and bytes")
        return verifier

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{_base64(_ED25519 + self.public_key)}"

    def verifies(self, signature: bytes, text: str) -> bool:
        """Whether this key signed this text."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, text.encode())
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """A private key and its name; written, for its file alone, as `PRIVATE+KEY+name+id+base64`."""

    name: str
    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _require_name(self.name)
        if len(self.seed) != _KEY_BYTES:
            raise ValueError(f"an Ed25519 seed has {_KEY_BYTES} bytes, not {len(self.seed)}")

    @property
    def verifier(self) -> Verifier:
        """The public half, under the same name."""
        return Verifier(name=self.name, public_key=self._key().public_key().public_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key that is written as exactly this text. Raises ValueError that never quotes the text."""
        parts = text.split("+", 4)
        if len(parts) != 5:
            raise ValueError("this is not a private key")
        signer = cls(name=parts[2], seed=_typed_key(parts[4]))
        if signer.written() != text:
            raise ValueError("this is not a private key, or its id does not belong to its name and bytes")
        return signer

    def written(self) -> str:
        """The private key as text, for its file alone."""
        return f"PRIVATE+KEY+{self.name}+{self.verifier.key_id.hex()}+{_base64(_ED25519 + self.seed)}"

    def sign(self, text: str) -> str:
        """`text` with this key's signature under it. Raises ValueError for text that no note can hold."""
        if not text.endswith("\n"):
            raise ValueError("a note's text ends with a newline")
        signature = self._key().sign(text.encode())
        note = f"{text}\n{_PREFIX}{self.name} {_base64(self.verifier.key_id + signature)}\n"
        parse_note(note)
        return note

    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One signature line: the name of the key that is said to have made it, its id, and the signature."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A note in its parts. Nothing in it may be believed before `verify_note` accepted it."""

    text: str
    signatures: tuple[Signature, ...]


def parse_note(note: str) -> Note:
    """The parts of a well-formed note, whoever signed it. Raises ValueError for anything else."""
    if len(note) > MAX_NOTE_CHARACTERS:
        raise ValueError(f"a note has at most {MAX_NOTE_CHARACTERS} characters")
    if _FORBIDDEN.search(note):
        raise ValueError("a note has no control characters but newlines")
    note.encode()  # text that is no Unicode at all is a UnicodeEncodeError, which is a ValueError
    end = note.rfind("\n\n")
    if end < 0 or not note.endswith("\n"):
        raise ValueError("a note is text, an empty line, and signature lines that each end")
    lines = note[end + 2 : -1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise ValueError(f"a note has at most {MAX_SIGNATURES} signatures")
    return Note(text=note[: end + 1], signatures=tuple(_parse_signature(line) for line in lines))


def verify_note(note: str, verifiers: Iterable[Verifier]) -> tuple[str, tuple[Verifier, ...]]:
    """The note's text, and those of `verifiers` that signed it: at least one.

    Raises ValueError for a malformed note, for one that none of them signed, and when a signature that names
    one of them is not its own.
    """
    parsed = parse_note(note)
    known = {(verifier.name, verifier.key_id): verifier for verifier in verifiers}
    signed_by = []
    for line in parsed.signatures:
        verifier = known.get((line.name, line.key_id))
        if verifier is None:
            continue
        if not verifier.verifies(line.signature, parsed.text):
            raise ValueError(f"the signature of {verifier.name} does not belong to this text")
        signed_by.append(verifier)
    if not signed_by:
        raise ValueError("none of the keys asked for has signed this")
    return parsed.text, tuple(dict.fromkeys(signed_by))


def _parse_signature(line: str) -> Signature:
    name, _, encoded = line.removeprefix(_PREFIX).partition(" ")
    if not line.startswith(_PREFIX):
        raise ValueError("a signature line begins with an em dash and a space")
    _require_name(name)
    signature = _unbase64(encoded)
    if len(signature) <= _ID_BYTES:
        raise ValueError("a signature line ends with a key's id and a signature")
    return Signature(name=name, key_id=signature[:_ID_BYTES], signature=signature[_ID_BYTES:])


def _require_name(name: str) -> None:
    if not name or "+" in name or _FORBIDDEN.search(name) or any(letter.isspace() for letter in name):
        raise ValueError("a key's name is not empty and has no spaces, control characters or plus signs")


def _typed_key(encoded: str) -> bytes:
    typed = _unbase64(encoded)
    if typed[:1] != _ED25519:
        raise ValueError("this is not an Ed25519 key")
    return typed[1:]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unbase64(text: str) -> bytes:
    """The bytes that are written as exactly this text: bits that mean nothing must be zero."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:  # not chained: the text may be a private key's
        raise ValueError("this is not base64") from None
    if _base64(data) != text:
        raise ValueError("this is not base64 as it is written")
    return data
