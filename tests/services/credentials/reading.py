"""What the tests read out of a picture."""

from cryptography.x509.oid import ObjectIdentifier

from headshots.services import picture_claims

GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/composite"
CLAIM_SIGNING = ObjectIdentifier("1.3.6.1.4.1.62558.2.1")  # C2PA's own purpose


def read(data: bytes) -> picture_claims.PictureClaims:
    return picture_claims.read(data, picture_claims.own_chains())


def said(data: bytes) -> picture_claims.Credentials:
    found = read(data).credentials
    assert found is not None
    return found


def segments(jpeg: bytes) -> list[tuple[int, bytes]]:
    """Marker and body of each segment before the pixels, and the pixels."""
    found, at = [], 2
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4])
        found.append((jpeg[at + 1], jpeg[at + 4 : end]))
        at = end
    return [*found, (0xDA, jpeg[at:])]
