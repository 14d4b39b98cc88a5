"""The key that signs, its certificate, and whose a certificate is."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier
from pytest_django import Settings

from headshots import tasks
from headshots.checks import pictures_can_be_signed
from headshots.models import Shot
from headshots.services import credentials, picture_claims
from headshots.services.orders import Placed
from headshots.states import ShotState
from headshots.vault import picture_keys
from headshots.vault.errors import BadKeyFile
from headshots.vault.picture_keys import Chain
from pipelines.errors import Final
from tests.services.credentials.reading import CLAIM_SIGNING, said


def test_the_embedded_mode_makes_one_private_key_with_a_certificate_that_says_development(
    data: Path, picture: bytes
) -> None:
    credentials.attach(picture)
    key_path, certificate_path = credentials.embedded_paths()
    first = key_path.read_bytes(), certificate_path.read_bytes()
    credentials.attach(picture)

    assert key_path.parent == data / "pictures"
    assert key_path.stat().st_mode & 0o777 == 0o600
    assert (key_path.read_bytes(), certificate_path.read_bytes()) == first
    subject = x509.load_pem_x509_certificate(first[1]).subject.rfc4514_string()
    assert subject == "CN=DEVELOPMENT\\, not to be trusted,O=Headshots DEVELOPMENT"
    assert "PRIVATE" not in repr(credentials.key())


def test_processes_that_ask_at_once_get_one_key(tmp_path: Path) -> None:
    paths = tmp_path / "signing.key", tmp_path / "certificate.pem"
    with ThreadPoolExecutor(8) as threads:
        keys = list(threads.map(lambda _: picture_keys.load_or_make_development(*paths), range(8)))

    assert len({key.key_pem for key in keys}) == 1
    assert len({key.chain.serial_number for key in keys}) == 1


@pytest.mark.parametrize(
    "purpose", [CLAIM_SIGNING, ObjectIdentifier("1.3.6.1.5.5.7.3.36"), ExtendedKeyUsageOID.EMAIL_PROTECTION]
)
def test_an_issued_certificate_signs_and_is_known_as_ours(
    issued: Callable[..., Chain], picture: bytes, purpose: ObjectIdentifier
) -> None:
    issued(purpose)

    found = said(credentials.attach(picture))

    assert (found.signer, found.is_ours, found.is_development) == ("Headshots Example", True, False)
    assert pictures_can_be_signed(None) == []


def test_another_certificate_of_our_authority_is_not_ours(
    issued: Callable[..., Chain], picture: bytes
) -> None:
    chain = issued()
    signed = credentials.attach(picture)
    stranger = issued()

    assert picture_claims.read(signed, [chain]).credentials.is_ours  # type: ignore[union-attr]
    assert not picture_claims.read(signed, [stranger]).credentials.is_ours  # type: ignore[union-attr]
    # The same authority vouches for both, but the number is another's.
    sibling = replace(chain, serial_number=stranger.serial_number)
    assert not picture_claims.read(signed, [sibling]).credentials.is_ours  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("purpose", "days"),
    [(ExtendedKeyUsageOID.SERVER_AUTH, (-1, 30)), (CLAIM_SIGNING, (-30, -1)), (CLAIM_SIGNING, (1, 30))],
    ids=["of a web server", "expired", "not yet valid"],
)
def test_a_certificate_that_is_not_fit_stops_the_worker_before_any_picture(
    issued: Callable[..., Chain], purpose: ObjectIdentifier, days: tuple[int, int]
) -> None:
    issued(purpose, days)

    with pytest.raises(Final) as error:
        credentials.require_ready()

    assert error.value.code == "not_signed"


@pytest.mark.django_db
def test_no_shot_is_claimed_by_a_worker_that_cannot_sign(
    place: Callable[..., Placed], issued: Callable[..., Chain]
) -> None:
    order = place().order
    tasks.assess(str(order.pk))
    issued(days=(-30, -1))

    with pytest.raises(Final):
        tasks.render()

    assert set(Shot.objects.values_list("state", "attempts")) == {(ShotState.PENDING, 0)}


def test_key_and_certificate_must_belong_together_and_be_private(
    issued: Callable[..., Chain], settings: Settings, tmp_path: Path
) -> None:
    issued()
    settings.PICTURE_KEY.chmod(0o640)
    assert [error.id for error in pictures_can_be_signed(None)] == ["headshots.E004"]
    settings.PICTURE_KEY.chmod(0o600)
    certificates = settings.PICTURE_CERTIFICATE.read_bytes()
    issued()
    settings.PICTURE_CERTIFICATE.write_bytes(certificates)
    with pytest.raises(BadKeyFile, match="is not that of the key"):
        credentials.key()
    settings.PICTURE_CERTIFICATE.write_bytes(b"nothing")
    with pytest.raises(BadKeyFile, match="holds no certificate"):
        credentials.key()
    settings.PICTURE_CERTIFICATE = None
    with pytest.raises(BadKeyFile, match="belong together"):
        credentials.key()


def test_a_web_process_needs_the_certificate_alone(issued: Callable[..., Chain], settings: Settings) -> None:
    issued()
    settings.PICTURE_KEY.unlink()
    assert pictures_can_be_signed(None) == []

    settings.PICTURE_CERTIFICATE.unlink()

    assert [error.id for error in pictures_can_be_signed(None)] == ["headshots.E004"]


def test_production_refuses_a_development_certificate(settings: Settings, picture: bytes) -> None:
    credentials.attach(picture)
    settings.PICTURE_KEY, settings.PICTURE_CERTIFICATE = credentials.embedded_paths()
    assert pictures_can_be_signed(None) == []

    settings.IS_PRODUCTION = True

    assert ["development certificate" in error.msg for error in pictures_can_be_signed(None)] == [True]


def test_keys_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.key"
    path.touch(0o600)
    large = ec.generate_private_key(ec.SECP384R1())
    for content in (b"", large.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())):
        path.write_bytes(content)
        with pytest.raises(BadKeyFile, match="no unencrypted P-256 key"):
            picture_keys.load(path, path)
