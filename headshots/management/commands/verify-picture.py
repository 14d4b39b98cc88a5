"""manage.py verify-picture: what a picture says of itself, in plain words, and whether that holds."""

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from django.core.management.base import BaseCommand, CommandError, CommandParser
from PIL import Image, ImageOps

from headshots.services import picture_claims
from headshots.services.picture_claims import Credentials, PictureClaims
from headshots.vault.errors import BadKeyFile
from pipelines import images, watermark
from pipelines.watermark import Reading

NOT_VALID: Final = 1
COULD_NOT_LOOK: Final = 2

# The last part of an IPTC address -> the vocabulary's name of the term.
SOURCES: Final = {
    "trainedAlgorithmicMedia": "created using generative AI",
    "compositeWithTrainedAlgorithmicMedia": "edited using generative AI",
    "compositeSynthetic": "a composite that includes elements made by generative AI",
    "composite": "a composite of several elements",
    "algorithmicMedia": "made by an algorithm without training data",
    "digitalCapture": "taken by a camera",
}
PROBLEMS: Final = {
    "no_credentials": "It carries no signed statement (Content Credentials).",
    "not_readable": "It is no picture whose signed statement can be read.",
}
READABLE: Final = ("JPEG", "PNG", "WEBP")  # the signed file is a JPEG; a screenshot of it may be another
PERMISSIONS: Final = {"notAllowed": "not allowed", "allowed": "allowed", "constrained": "under conditions"}


class Command(BaseCommand):
    help = (
        "Read what a JPEG says of itself: XMP, its Content Credentials with the C2PA's own reader, and the "
        "invisible mark in its pixels, which decides nothing; searching a cropped picture takes seconds. "
        "Exit code 0: signature and binding hold; 1: they do not, or there are none; 2: could not look. "
        "Needs no database and no network."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="the picture as it was downloaded")
        parser.add_argument("--json", action="store_true", help="print one JSON object instead of words")
        parser.add_argument(
            "--certificate",
            type=Path,
            action="append",
            default=[],
            help="file of certificates to know as ours, repeat for several; default: the service's own",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        data = _read(options["file"])
        try:
            chains = picture_claims.own_chains(options["certificate"])
        except (BadKeyFile, OSError) as error:
            raise CommandError(f"certificate: {error}", returncode=COULD_NOT_LOOK) from None
        claims, mark = picture_claims.read(data, chains), invisible_mark(data)
        if options["json"]:
            in_pixels = mark and {"is_marked": mark.is_marked, **asdict(mark)}
            answer = {"valid": claims.is_valid, **asdict(claims), "invisible_mark": in_pixels}
            self.stdout.write(json.dumps(answer))
        else:
            self.stdout.write(f"{in_words(claims)}\n  Invisible mark: {mark_in_words(mark)}")
        if not claims.is_valid:
            raise SystemExit(NOT_VALID)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(picture_claims.MAX_BYTES + 1)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}", returncode=COULD_NOT_LOOK) from None
    if len(data) > picture_claims.MAX_BYTES:
        raise CommandError(f"{path} is larger than 64 MiB", returncode=COULD_NOT_LOOK)
    return data


def invisible_mark(data: bytes) -> Reading | None:
    """What is read from the pixels of a JPEG, PNG or WebP; None when they cannot be read, or are too many."""
    try:
        with Image.open(io.BytesIO(data), formats=READABLE) as image:
            if image.width * image.height > images.MAX_PIXELS:
                return None
            rgb = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return watermark.read(np.ascontiguousarray(rgb[..., ::-1]))


def mark_in_words(mark: Reading | None) -> str:
    """Whether the picture carries the mark, and how sure that is."""
    if mark is None:
        return "the pixels could not be read"
    agree = f"{mark.bits} of {watermark.BITS} bits agree"
    if not mark.is_marked:
        return f"not found ({agree}, as chance may have it); it can be removed, so that proves nothing"
    where = "in a part of a picture" if mark.is_part else "in the whole picture"
    return f"found {where} ({agree}): made by software"


def in_words(claims: PictureClaims) -> str:
    """Verdict, what the picture says, and what the verdict rests on, one fact a line."""
    found = claims.credentials
    verdict = "VALID: nothing in this file was altered since it was signed."
    if not claims.is_valid:
        verdict = f"NOT VALID: {PROBLEMS[claims.problem] if found is None else _fault(claims, found)}"
    lines = [verdict, "", f"  XMP: {source_in_words(claims.xmp_source)}"]
    if claims.xmp_mining:
        lines.append(f"  XMP on data mining: {claims.xmp_mining.rpartition('/')[2]}")
    if found:
        lines += _statement(found)
    return "\n".join(lines)


def _fault(claims: PictureClaims, found: Credentials) -> str:
    codes = ", ".join(found.failures)
    if not found.signature_holds:
        return f"the signature does not hold ({codes})."
    if not found.binding_holds:
        return f"this is not the file that was signed; something in it was altered ({codes})."
    if found.failures:
        return f"something does not hold ({codes})."
    return f"XMP and signed statement contradict each other ({claims.xmp_source or 'no XMP'})."


def _statement(found: Credentials) -> list[str]:
    holds = {True: "holds", False: "DOES NOT HOLD"}
    return [
        f"  Made with: {found.generator or 'not said'}",
        *(f"  Action: {action}: {source_in_words(source)}" for action, source in found.actions),
        *(
            f"  Use for {name.partition('.')[2].replace('_', ' ')}: {PERMISSIONS.get(use, use)}"
            for name, use in found.uses.items()
        ),
        f"  Source pictures: {found.ingredients}; thumbnail: {'yes' if found.has_thumbnail else 'none'}",
        f"  Signed by: {found.signer or 'not said'}",
        f"  Certificate: {_certificate(found)}",
        f"  Signature {holds[found.signature_holds]}, binding to the file {holds[found.binding_holds]}.",
    ]


def _certificate(found: Credentials) -> str:
    if not found.is_ours:
        return "not one of ours; the name above is what it says of itself"
    return "ours, a DEVELOPMENT one that proves nothing to others" if found.is_development else "ours"


def source_in_words(source: str) -> str:
    """A digital source type as its vocabulary names it; another text as it stands, in quotes."""
    if not source:
        return "nothing said about how it was made"
    known = SOURCES.get(source.removeprefix("http://cv.iptc.org/newscodes/digitalsourcetype/"))
    return known or repr(source)
