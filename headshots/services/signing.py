"""The service's own signing key, and the verifier keys it publishes; the settings name the file."""

from functools import cache
from pathlib import Path

from django.conf import settings
from django.utils import timezone

from headshots.vault import signing
from headshots.vault.notes import Signer, Verifier


def host() -> str:
    """The service's host, with the port if it has one, as in receipts, checkpoints and key names."""
    return str(settings.SITE_URL).partition("://")[2]


def key_path() -> Path:
    """The file of the signing key; in the embedded mode one in the data folder, away from encryption keys."""
    return settings.RECEIPT_KEY or settings.DATA / "receipts" / "signing.key"


def signer() -> Signer:
    """The key that signs today. Only the embedded mode makes one where there is none.

    Raises BadKeyFile or OSError, in which case nothing is signed.
    """
    return _embedded_signer(key_path()) if settings.RECEIPT_KEY is None else _signer(key_path())


def published_keys() -> tuple[Verifier, ...]:
    """The verifier keys of all receipts ever issued, today's first. Raises BadKeyFile or OSError."""
    return (signer().verifier, *signing.load_retired(key_path()))


@cache
def _signer(path: Path) -> Signer:
    return signing.load_signer(path)


@cache
def _embedded_signer(path: Path) -> Signer:
    return signing.load_or_make_signer(path, signing.key_name(host(), timezone.now().year))
