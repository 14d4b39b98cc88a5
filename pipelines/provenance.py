"""What a picture says of itself in its own file: the XMP packet of every JPEG that leaves the pipeline.

A reader that knows nothing of us finds there, in IPTC's words, how the picture came to be, and in PLUS's
words that it is not to be mined. Pure bytes: pixels are never touched. Signing is the application's.
"""

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

TOOL: Final = "Headshots"
DENSITY: Final = 300  # dots an inch: what printers ask of a portrait
DATA_MINING: Final = "http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED"  # PLUS LDF, property Data Mining

_XMP: Final = b"http://ns.adobe.com/xap/1.0/\0"  # Adobe, XMP part 3, section 1.1.3.1
_ICC: Final = b"ICC_PROFILE\0\x01\x01"  # ICC.1:2022, annex B.4: the first chunk of one
_APP0, _APP1, _APP2, _SOS, _EOI = 0xE0, 0xE1, 0xE2, 0xDA, 0xD9  # ITU-T T.81, table B.1
_JFIF: Final = b"JFIF\0"
_PER_INCH: Final = 1  # JFIF 1.02, units of the density
_MAX_PROPERTY: Final = 200
_PACKET: Final = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmp:CreatorTool="{tool}"
    plus:DataMining="{mining}"
    Iptc4xmpExt:DigitalSourceType="{source}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


class SourceType(StrEnum):
    """How a picture came to be, in the terms of IPTC's NewsCodes scheme Digital Source Type."""

    GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    """Created using generative AI: every pixel is the model's."""

    EDITED = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
    """Edited using generative AI: a given picture was changed, or a part of it made anew."""

    COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/composite"
    """Several elements put together: a photo's own pixels before a painted backdrop.

    The terms that name generative AI would claim a model where none was; compositeCapture would claim that
    the backdrop was photographed.
    """


def mark(jpeg: bytes, source: SourceType) -> bytes:
    """The JPEG at 300 dpi with an XMP packet that says where it comes from; equal in, equal out.

    Raises ValueError when it does not begin as a JFIF file or has a packet already.
    """
    jfif = bytearray(_jfif_header(jpeg))
    if packet_of(jpeg):
        raise ValueError("this picture has an XMP packet already")
    jfif[7:12] = bytes([_PER_INCH]) + DENSITY.to_bytes(2) * 2
    packet = _PACKET.format(tool=TOOL, mining=DATA_MINING, source=source).encode()
    rest = jpeg[2 + _length(jfif) :]
    return jpeg[:2] + _segment(_APP0, jfif) + _segment(_APP1, _XMP + packet) + rest


def with_profile(jpeg: bytes, profile: bytes) -> bytes:
    """The JPEG with an ICC profile (of less than 64 kB) behind its JFIF header.

    Raises ValueError when it does not begin as a JFIF file.
    """
    header = _jfif_header(jpeg)
    start = 2 + _length(header)
    return jpeg[:start] + _segment(_APP2, _ICC + profile) + jpeg[start:]


def packet_of(jpeg: bytes) -> bytes:
    """The XMP packet of a JPEG; empty when it has none, or is no JPEG."""
    for marker, body in _segments(jpeg):
        if marker == _APP1 and body.startswith(_XMP):
            return body.removeprefix(_XMP)
    return b""


def property_of(packet: bytes, name: str) -> str:
    """The value of a simple XMP property such as `Iptc4xmpExt:DigitalSourceType`; empty without one.

    Reads its three usual forms: attribute, element, rdf:resource. No XML parser sees the bytes.
    """
    tag = re.escape(name.encode())
    value = rb"([^<>\"'&\s]{1,%d})" % _MAX_PROPERTY
    forms = (
        rb"\s%b\s*=\s*[\"']%b[\"']" % (tag, value),
        rb"<%b>\s*%b\s*</%b>" % (tag, value, tag),
        rb"<%b\s+rdf:resource\s*=\s*[\"']%b[\"']" % (tag, value),
    )
    found = (re.search(form, packet) for form in forms)
    return next((match[1].decode("ascii", "replace") for match in found if match), "")


def source_of(jpeg: bytes) -> SourceType:
    """What `mark` wrote into the picture. Raises ValueError when it says nothing, or something else."""
    return SourceType(property_of(packet_of(jpeg), "Iptc4xmpExt:DigitalSourceType"))


def _jfif_header(jpeg: bytes) -> bytes:
    marker, body = next(_segments(jpeg), (0, b""))
    if marker != _APP0 or not body.startswith(_JFIF):
        raise ValueError("not a JFIF file")
    return body


def _segments(jpeg: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and body of each segment before the pixels, as far as they are whole."""
    if jpeg[:2] != b"\xff\xd8":
        return
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF and jpeg[at + 1] not in (_SOS, _EOI):
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4])
        if end > len(jpeg):
            return
        yield jpeg[at + 1], jpeg[at + 4 : end]
        at = end


def _segment(marker: int, body: bytes | bytearray) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2) + body


def _length(body: bytes | bytearray) -> int:
    return len(body) + 4
