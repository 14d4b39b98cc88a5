"""What is signed into a picture: true, bound to every byte, and silent about everybody."""

import io
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.utils import timezone
from PIL import Image

import headshots
from headshots.env import ROOT
from headshots.models import Order
from headshots.services import credentials, delivery, picture_claims
from headshots.services.orders import Placed
from headshots.vault.envelope import Kind
from pipelines import provenance, watermark
from pipelines.errors import Final
from pipelines.images import decode_jpeg
from pipelines.provenance import SourceType
from tests.services.credentials.reading import COMPOSITE, GENERATED, read, said, segments

pytestmark = pytest.mark.slow


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


def test_the_statement_holds_no_ingredient_no_thumbnail_no_title_and_no_time(picture: bytes) -> None:
    manifest = next(body for marker, body in segments(credentials.attach(picture)) if marker == 0xEB)

    for absent in (b"ingredient", b"thumbnail", b"dc:title", b"sigTst", b"when", b"\xff\xd8\xff"):
        assert absent not in manifest, absent
    assert len(manifest) < 4096
    for present in (b"c2pa.actions.v2", b"cawg.training-mining", b"c2pa.hash.data", b"c2pa.signature"):
        assert present in manifest


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
