"""The key that signs pictures, and its certificate: read from files; in the embedded mode made once.

It encrypts nothing. The embedded mode's certificate vouches for itself and says DEVELOPMENT in its subject.
"""

import os
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from headshots.vault import files
from headshots.vault.errors import BadKeyFile

DEVELOPMENT: Final = "DEVELOPMENT"
_LIFE: Final = timedelta(days=3650)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Certificates in PEM, the signer's first; the last one stands for all who trust this signer."""

    pem: bytes
    anchor_pem: bytes
    serial_number: str
    """The signer certificate's number in decimal digits, unique among those of its issuer."""
    is_development: bool
    """Whether the signer's certificate says of itself that nobody should trust it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureKey:
    """A signing key in PEM, and its certificates."""

    key_pem: bytes = field(repr=False)
    chain: Chain


def load(key_path: Path, certificate_path: Path) -> PictureKey:
    """The key and the certificates in the two files.

    Raises BadKeyFile when they hold no P-256 key, no certificate, one of another key, or when others may read
    the key; OSError when they cannot be read.
    """
    with key_path.open("rb") as file:
        files.require_private(key_path, os.fstat(file.fileno()).st_mode)
        key = _parsed_key(key_path, file.read())
    certificates = _certificates(certificate_path)
    if certificates[0].public_key() != key.public_key():
        raise BadKeyFile(f"{certificate_path}: the first certificate is not that of the key in {key_path}")
    return PictureKey(key_pem=_key_pem(key), chain=_chain(certificates))


def load_chain(path: Path) -> Chain:
    """The certificates in the file. Raises BadKeyFile when it holds none, or OSError."""
    return _chain(_certificates(path))


def load_or_make_development(key_path: Path, certificate_path: Path) -> PictureKey:
    """The key in the files, made with a development certificate if there is none; the same for all who ask.

    Raises as `load` does.
    """
    if not certificate_path.exists():
        key_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not key_path.exists():
            _write_once(key_path, _key_pem(ec.generate_private_key(ec.SECP256R1())))
        key = _parsed_key(key_path, key_path.read_bytes())
        certificate = _development_certificate(key, datetime.now(UTC))
        _write_once(certificate_path, certificate.public_bytes(Encoding.PEM))
    return load(key_path, certificate_path)


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError:
        raise BadKeyFile(f"{path} holds no certificate") from None


def _chain(certificates: list[x509.Certificate]) -> Chain:
    pems = [certificate.public_bytes(Encoding.PEM) for certificate in certificates]
    signer = certificates[0]
    return Chain(
        pem=b"".join(pems),
        anchor_pem=pems[-1],
        serial_number=str(signer.serial_number),
        is_development=DEVELOPMENT in signer.subject.rfc4514_string(),
    )


def _write_once(path: Path, data: bytes) -> None:
    with suppress(FileExistsError):  # another process was first: its file is the file
        files.write_new(path, data)


def _parsed_key(path: Path, data: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError):  # not chained: the cause may quote the file
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadKeyFile(f"{path} holds no unencrypted P-256 key in PEM")
    return key


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _development_certificate(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    """A certificate as C2PA 2.2, section 14.5 asks for, signed by its own key."""
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"Headshots {DEVELOPMENT}"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{DEVELOPMENT}, not to be trusted"),
        ]
    )
    public = key.public_key()
    use = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # for readers whose clock is behind
        .not_valid_after(now + _LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **use), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
