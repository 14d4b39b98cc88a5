"""What is signed into a picture: true, bound to every byte, and silent about everybody."""

import io
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier
from django.core.management import CommandError, call_command
from django.utils import timezone
from PIL import Image
from pytest_django import Settings

import headshots
from headshots import tasks
from headshots.checks import pictures_can_be_signed
from headshots.env import ROOT
from headshots.models import Order, Shot
from headshots.services import credentials, delivery, picture_claims
from headshots.services.orders import Placed
from headshots.states import ShotState
from headshots.tiers import TIERS, Tier
from headshots.vault import picture_keys
from headshots.vault.envelope import Kind
from headshots.vault.errors import BadKeyFile
from headshots.vault.picture_keys import Chain
from pipelines import provenance, watermark
from pipelines.errors import Final
from pipelines.finish import finish
from pipelines.images import decode_jpeg
from pipelines.provenance import SourceType
from pipelines.types import OutputSpec

GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/composite"
CLAIM_SIGNING = ObjectIdentifier("1.3.6.1.4.1.62558.2.1")  # C2PA's own purpose


@pytest.fixture(scope="session")
def picture() -> bytes:
    """A small picture as the pipeline hands it out."""
    ramp = np.broadcast_to(np.arange(96, dtype=np.uint8)[:, None, None] * 2, (96, 72, 3))
    output = OutputSpec(long_edge=96, is_watermarked=False)
    return finish(ramp, output=output, marks=(), source_type=SourceType.GENERATED).jpeg


def read(data: bytes) -> picture_claims.PictureClaims:
    return picture_claims.read(data, picture_claims.own_chains())


def said(data: bytes) -> picture_claims.Credentials:
    found = read(data).credentials
    assert found is not None
    return found


# --- what it says -------------------------------------------------------------------------------------------


def test_a_signed_picture_is_valid_and_says_how_it_was_made(picture: bytes) -> None:
    signed = credentials.attach(picture)

    assert read(signed).is_valid
    assert read(signed).xmp_source == GENERATED
    assert said(signed) == picture_claims.Credentials(
        generator=f"Headshots {headshots.__version__}",
        actions=(("c2pa.created", GENERATED),),
        uses={
            "cawg.ai_generative_training": "notAllowed",
            "cawg.ai_training": "notAllowed",
            "cawg.data_mining": "notAllowed",
        },
        ingredients=0,
        has_thumbnail=False,
        signer="DEVELOPMENT, not to be trusted",
        is_ours=True,
        is_development=True,
        signature_holds=True,
        binding_holds=True,
        failures=(),
    )


def test_the_statement_repeats_what_the_xmp_says() -> None:
    black = Image.new("RGB", (8, 8))
    file = io.BytesIO()
    black.save(file, "JPEG")

    for source in SourceType:
        signed = credentials.attach(provenance.mark(file.getvalue(), source))

        assert said(signed).actions == (("c2pa.created", str(source)),)
        assert read(signed).is_valid


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert headshots.__version__ == project["version"]


def test_signing_adds_one_block_and_leaves_every_other_byte_as_it_was(picture: bytes) -> None:
    signed = credentials.attach(picture)

    added = segments(signed)
    manifests = [body for marker, body in added if marker == 0xEB]
    assert len(manifests) == 1
    assert [each for each in added if each[0] != 0xEB] == segments(picture)
    assert len(signed) == len(picture) + len(manifests[0]) + 4
    with Image.open(io.BytesIO(signed)) as after, Image.open(io.BytesIO(picture)) as before:
        assert after.tobytes() == before.tobytes()
        assert after.info["icc_profile"] == before.info["icc_profile"]
        assert after.info["dpi"] == (300, 300)
        assert dict(after.getexif()) == {}


def segments(jpeg: bytes) -> list[tuple[int, bytes]]:
    """Marker and body of each segment before the pixels, and the pixels."""
    found, at = [], 2
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4])
        found.append((jpeg[at + 1], jpeg[at + 4 : end]))
        at = end
    return [*found, (0xDA, jpeg[at:])]


def test_the_statement_holds_no_ingredient_no_thumbnail_no_title_and_no_time(picture: bytes) -> None:
    manifest = next(body for marker, body in segments(credentials.attach(picture)) if marker == 0xEB)

    for absent in (b"ingredient", b"thumbnail", b"dc:title", b"sigTst", b"when", b"\xff\xd8\xff"):
        assert absent not in manifest, absent
    assert len(manifest) < 4096
    for present in (b"c2pa.actions.v2", b"cawg.training-mining", b"c2pa.hash.data", b"c2pa.signature"):
        assert present in manifest


# --- what holds ---------------------------------------------------------------------------------------------


def test_a_picture_with_one_altered_bit_is_refused_wherever_the_bit_is(picture: bytes) -> None:
    signed = credentials.attach(picture)
    places = {
        "pixels": len(signed) - 20,
        "XMP": signed.index(b"trainedAlgorithmicMedia"),
        "density": signed.index(b"JFIF") + 9,
        "profile": signed.index(b"ICC_PROFILE") + 40,
        "action": signed.index(b"trainedAlgorithmicMedia", signed.index(b"jumb")),
        "permission": signed.index(b"notAllowed"),
        "generator": signed.index(b"Headshots", signed.index(b"jumb")),
    }
    for name, place in places.items():
        altered = bytearray(signed)
        altered[place] ^= 1

        assert not read(bytes(altered)).is_valid, name


def test_bytes_after_the_end_are_noticed(picture: bytes) -> None:
    found = said(credentials.attach(picture) + b"more")

    assert not found.binding_holds
    assert found.failures == ("assertion.dataHash.mismatch",)


def test_a_statement_moved_to_another_picture_does_not_hold(picture: bytes) -> None:
    block = next(body for marker, body in segments(credentials.attach(picture)) if marker == 0xEB)
    file = io.BytesIO()
    Image.new("RGB", (72, 96), "red").save(file, "JPEG")
    other = provenance.mark(file.getvalue(), SourceType.GENERATED)
    moved = other[:20] + b"\xff\xeb" + (len(block) + 2).to_bytes(2) + block + other[20:]

    assert said(moved).signature_holds
    assert not said(moved).binding_holds
    assert not read(moved).is_valid


def test_a_picture_without_a_statement_has_only_its_xmp(picture: bytes) -> None:
    claims = read(picture)

    assert (claims.credentials, claims.problem, claims.is_valid) == (None, "no_credentials", False)
    assert claims.xmp_source == GENERATED
    assert claims.xmp_mining == "http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED"


@pytest.mark.parametrize("data", [b"", b"text", b"\xff\xd8\xff", b"\xff\xd8" + b"\xff\xeb\x00\x10" * 9])
def test_whatever_is_no_picture_is_read_without_a_crash(data: bytes) -> None:
    claims = read(data)

    assert claims.credentials is None
    assert not claims.is_valid


def test_a_picture_that_does_not_say_where_it_comes_from_is_not_signed() -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")

    with pytest.raises(Final) as error:
        credentials.attach(file.getvalue())

    assert error.value.code == "not_signed"


def test_pictures_are_signed_in_several_threads_at_once(picture: bytes) -> None:
    with ThreadPoolExecutor(4) as threads:
        signed = list(threads.map(credentials.attach, [picture] * 12))

    assert all(read(each).is_valid for each in signed)
    assert len(set(signed)) == 12  # each has a name and a signature of its own


# --- keys and certificates ----------------------------------------------------------------------------------


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


# --- through the whole service ------------------------------------------------------------------------------


@pytest.mark.django_db
def test_every_delivered_picture_says_what_it_is_and_nothing_of_whom(
    placed: Placed, render_all: Callable[[], None]
) -> None:
    render_all()

    order, now = Order.objects.get(), timezone.now()
    full = [delivery.open_headshot(order, index, Kind.HEADSHOT, now) for index in (1, 2, 3)]
    small = [delivery.open_headshot(order, index, Kind.PREVIEW, now) for index in (1, 2, 3)]
    archive = b"".join(delivery.stream_archive(order, now))
    for each in full:
        assert read(each).is_valid
        assert said(each).actions == (("c2pa.created", COMPOSITE),)
        assert archive.count(each) == 1  # what is sealed, shown, and in the ZIP is the same file
        assert b"Exif" not in each.partition(b"\xff\xda")[0]
        for personal in (
            order.pk.hex,
            str(order.pk),
            order.receipt_id,
            placed.token,
            f"{order.created_at:%Y-%m}",
        ):
            assert personal.encode() not in each.partition(b"\xff\xda")[0]
    for each in small:
        assert (read(each).xmp_source, read(each).problem) == (COMPOSITE, "no_credentials")
    for each in (*full, *small):
        assert watermark.read_whole(decode_jpeg(each)[..., ::-1].copy()).is_marked


# --- the command --------------------------------------------------------------------------------------------


def verify(data: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, ROOT / "manage.py", "verify-picture", *arguments],
        env={**os.environ, "HEADSHOTS_DATA": str(data)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_says_in_words_what_a_picture_claims(data: Path, picture: bytes, tmp_path: Path) -> None:
    file = tmp_path / "picture.jpg"
    file.write_bytes(credentials.attach(picture))

    told = verify(data, file)

    assert (told.returncode, told.stderr) == (0, "")
    *lines, mark = told.stdout.splitlines()
    assert mark.startswith("  Invisible mark: found in the whole picture (")
    assert lines == [
        "VALID: nothing in this file was altered since it was signed.",
        "",
        "  XMP: created using generative AI",
        "  XMP on data mining: DMI-PROHIBITED",
        f"  Made with: Headshots {headshots.__version__}",
        "  Action: c2pa.created: created using generative AI",
        "  Use for ai generative training: not allowed",
        "  Use for ai training: not allowed",
        "  Use for data mining: not allowed",
        "  Source pictures: 0; thumbnail: none",
        "  Signed by: DEVELOPMENT, not to be trusted",
        "  Certificate: ours, a DEVELOPMENT one that proves nothing to others",
        "  Signature holds, binding to the file holds.",
    ]


@pytest.mark.parametrize("tier", TIERS.values(), ids=TIERS)
def test_the_command_finds_the_invisible_mark_of_each_tier(data: Path, tier: Tier, tmp_path: Path) -> None:
    file, screenshot = tmp_path / "picture.jpg", tmp_path / "screenshot.png"
    output = OutputSpec(long_edge=tier.long_edge, is_watermarked=tier.is_watermarked)
    noise = np.random.default_rng(1).integers(256, size=(9, 7, 3), dtype=np.uint8)
    clouds = np.asarray(Image.fromarray(noise).resize((896, 1152), Image.Resampling.BICUBIC))
    done = finish(clouds, output=output, marks=(), source_type=SourceType.GENERATED)
    file.write_bytes(credentials.attach(done.jpeg))
    with Image.open(file) as image:
        image.resize((448, 576)).save(screenshot)

    (code, words), (shot_code, shot_words) = ask(file), ask(screenshot)

    assert (code, shot_code) == (0, 1)
    assert "Invisible mark: found in the whole picture" in words
    assert shot_words.startswith("NOT VALID")
    assert "Invisible mark: found in the whole picture" in shot_words


def test_the_command_says_so_where_there_is_no_invisible_mark(data: Path, tmp_path: Path) -> None:
    strip, text = tmp_path / "strip.png", tmp_path / "text.jpg"
    Image.fromarray(np.random.default_rng(1).integers(256, size=(64, 256, 3), dtype=np.uint8)).save(strip)
    text.write_bytes(b"no picture at all")

    _, words = ask(strip)
    answer = json.loads(ask(strip, "--json")[1])["invisible_mark"]

    assert "Invisible mark: not found (" in words
    assert (answer["is_marked"], answer["is_part"]) == (False, True)
    assert 24 < answer["bits"] < 45
    assert "Invisible mark: the pixels could not be read" in ask(text)[1]
    assert json.loads(ask(text, "--json")[1])["invisible_mark"] is None


def test_the_command_answers_by_exit_code_and_in_json(data: Path, picture: bytes, tmp_path: Path) -> None:
    altered = bytearray(credentials.attach(picture))
    altered[-20] ^= 1
    file = tmp_path / "picture.jpg"
    file.write_bytes(altered)

    told = verify(data, file, "--json")
    away = verify(data, tmp_path / "nowhere.jpg")

    answer = json.loads(told.stdout)
    assert (told.returncode, answer["valid"]) == (1, False)
    assert answer["credentials"]["signature_holds"] is True
    assert answer["credentials"]["failures"] == ["assertion.dataHash.mismatch"]
    assert away.returncode == 2
    assert "No such file" in away.stderr


def ask(*arguments: str | Path) -> tuple[int, str]:
    """The command in this process: its exit code, and what it said."""
    out = io.StringIO()
    try:
        call_command("verify-picture", *map(str, arguments), stdout=out)
    except CommandError as error:
        return error.returncode, str(error)
    except SystemExit as ended:
        return int(str(ended.code)), out.getvalue()
    return 0, out.getvalue()


def test_a_picture_without_a_statement_is_not_valid(data: Path, picture: bytes, tmp_path: Path) -> None:
    file = tmp_path / "picture.jpg"
    file.write_bytes(picture)

    code, words = ask(file)

    assert code == 1
    assert words.startswith("NOT VALID: It carries no signed statement")
    assert "  XMP: created using generative AI" in words
    assert ask(file, "--certificate", file) == (2, f"certificate: {file} holds no certificate")


def test_the_command_knows_only_the_certificates_it_is_given(
    data: Path, picture: bytes, tmp_path: Path, settings: Settings
) -> None:
    file, certificate_file = tmp_path / "picture.jpg", tmp_path / "certificate.pem"
    file.write_bytes(credentials.attach(picture))
    certificate_file.write_bytes(credentials.certificate_path().read_bytes())
    settings.DATA = tmp_path / "elsewhere"

    stranger, known = ask(file), ask(file, "--certificate", certificate_file)

    assert (stranger[0], known[0]) == (0, 0)
    assert "Certificate: not one of ours" in stranger[1]
    assert "Certificate: ours" in known[1]
    assert not settings.DATA.exists()  # looking makes no key
