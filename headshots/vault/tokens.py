"""Capability tokens: who holds an order's token may see and delete it; only the digest is ever stored."""

import base64
import hashlib
import re
import secrets
from typing import Final

_PREFIX: Final = "hso_"
_SHAPE: Final = re.compile(r"hso_[A-Za-z0-9_-]{43}[a-z2-7]{6}")


def new_token() -> str:
    """`hso_`, 256 random bits in base64url, and six characters of checksum: 53 characters."""
    secret = secrets.token_urlsafe(32)
    return _PREFIX + secret + _checksum(secret)


def is_well_formed(token: str) -> bool:
    """Whether the token could be one of ours; a cut or mistyped one is refused without asking the database.

    No secret is involved: leak scanners may use the same rule to tell a real token from noise.
    """
    if not _SHAPE.fullmatch(token):
        return False
    secret, checksum = token[len(_PREFIX) : -6], token[-6:]
    return checksum == _checksum(secret)


def token_digest(token: str) -> str:
    """What is stored instead of the token: its SHA-256, hex. 256 random bits need no slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()


def _checksum(secret: str) -> str:
    """The first six characters (30 bits) of the lower-case base 32 of SHA-256 over a label and the secret."""
    digest = hashlib.sha256(b"headshots/v1 token\0" + secret.encode()).digest()
    return base64.b32encode(digest)[:6].decode().lower()
