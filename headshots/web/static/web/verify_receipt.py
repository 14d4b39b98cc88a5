"""Checks a deletion receipt without the service that issued it. Needs Python and the package cryptography.

    python verify_receipt.py RECEIPT.txt VERIFIER-KEY

The key is the line shown with the receipt, name+id+base64. A receipt is a C2SP signed note: text, an empty
line, signature lines of "— name base64(key id, signature)". Exit code 0: genuine; 1: not genuine; 2: could
not look.
"""
# ruff: noqa: T201

import base64
import hashlib
import re
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def decode(text: str) -> bytes:
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("base64 with stray bits")
    return data


def parse_key(text: str) -> tuple[str, bytes, Ed25519PublicKey]:
    name, key_id, encoded = text.split("+", 2)
    typed = decode(encoded)  # one byte that says Ed25519, then the public key
    hashed = hashlib.sha256(name.encode() + b"\n" + typed).digest()[:4]
    if typed[:1] != b"\x01" or key_id != hashed.hex():
        raise ValueError("this is not an Ed25519 verifier key")
    return name, hashed, Ed25519PublicKey.from_public_bytes(typed[1:])


def verify(note: str, key: tuple[str, bytes, Ed25519PublicKey]) -> str:
    """The signed text. Raises ValueError or InvalidSignature when it is no receipt that the key signed."""
    text, empty_line, block = note.rpartition("\n\n")
    if not empty_line or not block.endswith("\n") or re.search(r"[\x00-\x09\x0b-\x1f]", note):
        raise ValueError("this is not a signed note")
    text, name, key_id = text + "\n", key[0], key[1]
    lines = [line.split(" ") for line in block[:-1].split("\n")]
    if any(len(line) != 3 or line[0] != "—" or len(decode(line[2])) < 5 for line in lines):
        raise ValueError("a signature line is damaged")
    ours = [decode(line[2]) for line in lines if line[1] == name]
    ours = [signature[4:] for signature in ours if signature[:4] == key_id]
    if not ours or not re.match(r"\S+/deletion-receipt@v1\n", text):
        raise ValueError("this is not a receipt that this key signed")
    for signature in ours:
        key[2].verify(signature, text.encode())
    return text


def main(path: str, verifier_key: str) -> int:
    try:
        key = parse_key(verifier_key)
        with open(path, "rb") as file:
            data = file.read(1 << 18)
    except (OSError, ValueError) as error:
        print(f"could not look: {error}", file=sys.stderr)
        return 2
    try:
        text = verify(data.decode(), key)
    except (InvalidSignature, ValueError) as error:
        print(f"NOT GENUINE: {error or 'the signature does not belong to this text'}", file=sys.stderr)
        return 1
    print(f"GENUINE: signed by {key[0]}\n\n{text}", end="")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(*sys.argv[1:]))
