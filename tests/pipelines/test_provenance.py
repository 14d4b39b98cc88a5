"""The XMP packet of every picture: as other programs read it, and read from files that nobody vouches for."""

import io
from xml.etree import ElementTree

import pytest
from PIL import Image

from pipelines.provenance import SourceType, mark, packet_of, property_of, source_of

IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
PLUS = "{http://ns.useplus.org/ldf/xmp/1.0/}"
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"


@pytest.fixture
def jpeg() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((40, 30), 50).convert("RGB").save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("source", SourceType)
def test_other_programs_find_the_source_type_where_iptc_puts_it(jpeg: bytes, source: SourceType) -> None:
    with Image.open(io.BytesIO(mark(jpeg, source))) as image:
        packet = image.info["xmp"]

    description = ElementTree.fromstring(packet).find(f"{RDF}RDF/{RDF}Description")
    assert description is not None
    assert description.attrib[f"{IPTC}DigitalSourceType"] == str(source)
    assert description.attrib[f"{PLUS}DataMining"] == "http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED"
    assert len(description.attrib) == 4  # these, the tool's name, and that it is about this file


def test_the_pixels_stay_and_the_density_is_what_printers_ask_for(jpeg: bytes) -> None:
    marked = mark(jpeg, SourceType.GENERATED)

    with Image.open(io.BytesIO(marked)) as after, Image.open(io.BytesIO(jpeg)) as before:
        assert after.tobytes() == before.tobytes()
        assert after.info["dpi"] == (300, 300)
    assert marked == mark(jpeg, SourceType.GENERATED)
    assert source_of(marked) == SourceType.GENERATED


def test_a_picture_is_marked_once(jpeg: bytes) -> None:
    with pytest.raises(ValueError, match="already"):
        mark(mark(jpeg, SourceType.GENERATED), SourceType.COMPOSITE)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\x89PNG", b"\xff\xd8\xff\xe1\x00\x04ab\xff\xd9"])
def test_what_does_not_begin_as_jfif_is_not_marked(data: bytes) -> None:
    with pytest.raises(ValueError, match="JFIF"):
        mark(data, SourceType.GENERATED)


def test_a_picture_that_says_nothing_or_something_else_has_no_source(jpeg: bytes) -> None:
    for data in (jpeg, mark(jpeg, SourceType.GENERATED).replace(b"trainedAlgo", b"untrainedAl")):
        with pytest.raises(ValueError, match="is not a valid SourceType"):
            source_of(data)


@pytest.mark.parametrize(
    ("packet", "value"),
    [
        (b'<a Iptc4xmpExt:DigitalSourceType="http://x/y"/>', "http://x/y"),
        (b"<a\nIptc4xmpExt:DigitalSourceType = 'http://x/y'/>", "http://x/y"),
        (b"<Iptc4xmpExt:DigitalSourceType> http://x/y </Iptc4xmpExt:DigitalSourceType>", "http://x/y"),
        (b'<Iptc4xmpExt:DigitalSourceType rdf:resource="http://x/y"/>', "http://x/y"),
        (b'<a xIptc4xmpExt:DigitalSourceType="http://x/y"/>', ""),
        (b'<a Iptc4xmpExt:DigitalSourceType="' + b"x" * 201 + b'"/>', ""),
        (b'<a Iptc4xmpExt:DigitalSourceType="\xff\xfe"/>', "\ufffd\ufffd"),
        (b"", ""),
    ],
)
def test_a_property_is_read_in_its_three_forms(packet: bytes, value: str) -> None:
    assert property_of(packet, "Iptc4xmpExt:DigitalSourceType") == value


def test_a_file_cut_anywhere_is_read_without_a_crash(jpeg: bytes) -> None:
    marked = mark(jpeg, SourceType.GENERATED)
    whole = packet_of(marked)

    assert {packet_of(marked[:length]) for length in range(0, len(marked), 7)} == {b"", whole}
