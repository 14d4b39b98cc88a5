"""A picture as the pipeline hands it out, and certificates of an authority."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID, ObjectIdentifier
from pytest_django import Settings

from headshots.services import credentials
from headshots.vault import picture_keys
from headshots.vault.picture_keys import Chain
from pipelines.finish import finish
from pipelines.provenance import SourceType
from pipelines.types import OutputSpec
from tests.services.credentials.reading import CLAIM_SIGNING


@pytest.fixture(scope="session")
def picture() -> bytes:
    """A small picture as the pipeline hands it out."""
    ramp = np.broadcast_to(np.arange(96, dtype=np.uint8)[:, None, None] * 2, (96, 72, 3))
    output = OutputSpec(long_edge=96, is_watermarked=False)
    return finish(ramp, output=output, marks=(), source_type=SourceType.GENERATED).jpeg


@pytest.fixture
def issued(tmp_path: Path, settings: Settings) -> Callable[..., Chain]:
    """Puts a key with a certificate of some authority into the settings; the chain."""

    def issue(purpose: ObjectIdentifier = CLAIM_SIGNING, days: tuple[int, int] = (-1, 30)) -> Chain:
        authority, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        chain = [
            certificate("Headshots Example", own, "Authority", authority, purpose, days),
            certificate("Authority", authority, "Authority", authority, None, days),
        ]
        settings.PICTURE_KEY, settings.PICTURE_CERTIFICATE = tmp_path / "own.key", tmp_path / "own.pem"
        settings.PICTURE_KEY.unlink(missing_ok=True)
        settings.PICTURE_KEY.touch(0o600)
        settings.PICTURE_KEY.write_bytes(
            own.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        )
        settings.PICTURE_CERTIFICATE.write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in chain))
        credentials._key.cache_clear()
        return picture_keys.load_chain(settings.PICTURE_CERTIFICATE)

    return issue


def certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    purpose: ObjectIdentifier | None,
    days: tuple[int, int],
) -> x509.Certificate:
    def name(text: str) -> x509.Name:
        return x509.Name(
            [x509.NameAttribute(oid, text) for oid in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)]
        )

    is_ca = purpose is None
    start, end = (datetime.now(UTC) + timedelta(days=count) for count in days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(is_ca, None), True)
        .add_extension(x509.KeyUsage(not is_ca, False, False, False, False, is_ca, is_ca, False, False), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False)
    )
    if purpose:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), False)
    return builder.sign(issuer_key, hashes.SHA256())
