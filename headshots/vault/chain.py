"""The audit log's hash chain and its checkpoints: what makes an altered, cut or restored log visible."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

START: Final = bytes(32)  # the head of an empty log

_DOMAIN: Final = b"headshots/v1 audit\0"
_CHECKPOINT: Final = re.compile(
    r"([!-.0-~]+)/audit@v1\n"  # a host as configured, port included: visible ASCII without a slash
    r"(0|[1-9][0-9]{0,18})\n"
    r"([A-Za-z0-9+/]{43}=)\n"
    r"at ([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)\n"
)


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """The one way to write an entry: UTF-8, sorted keys, no spaces; 8.0 is written as 8.

    Databases differ in whether a whole number comes back as 8 or 8.0, and a hash may not.
    """
    return json.dumps(
        _plain(value), ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    ).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def head_after(previous: bytes, entry: Mapping[str, Any]) -> bytes:
    """The chain's head, 32 bytes, once `entry` follows the head `previous`."""
    return hashlib.sha256(_DOMAIN + previous + hashlib.sha256(canonical_json(entry)).digest()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """How long the log was at a moment, and its head then. `at` is aware and kept in UTC to the second.

    Raises ValueError for fields that could not be read back.
    """

    origin: str
    size: int
    head: bytes
    at: datetime

    def __post_init__(self) -> None:
        if self.at.tzinfo is None:
            raise ValueError("a checkpoint's time carries its time zone")
        object.__setattr__(self, "at", self.at.astimezone(UTC).replace(microsecond=0))
        if len(self.head) != len(START) or not _CHECKPOINT.fullmatch(compose_checkpoint(self)):
            raise ValueError(f"checkpoint of size {self.size} has a field that cannot be written")


def compose_checkpoint(checkpoint: Checkpoint) -> str:
    """The checkpoint as the text that is signed."""
    return (
        f"{checkpoint.origin}/audit@v1\n"
        f"{checkpoint.size}\n"
        f"{base64.b64encode(checkpoint.head).decode()}\n"
        f"at {checkpoint.at.isoformat().replace('+00:00', 'Z')}\n"
    )


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint that composes to exactly this text. Raises ValueError for any other text."""
    match = _CHECKPOINT.fullmatch(text)
    if match is None:
        raise ValueError("this is not a checkpoint")
    origin, size, head, at = match.groups()
    checkpoint = Checkpoint(
        origin=origin, size=int(size), head=base64.b64decode(head), at=datetime.fromisoformat(at)
    )
    if compose_checkpoint(checkpoint) != text:  # the last base64 digit has bits that mean nothing
        raise ValueError("this is not a checkpoint")
    return checkpoint
