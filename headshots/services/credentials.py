"""Content Credentials: the signed statement, inside each full picture, of how it was made.

The statement (a C2PA manifest) repeats what the picture's XMP says, names the software, forbids training and
data mining, and is bound to every byte of the file. It holds no ingredient, no thumbnail, no title, no time
and nothing of the order. It is signed with our own key; nothing here opens a connection.
"""

import io
import json
from functools import cache
from pathlib import Path
from typing import Any, Final

from django.conf import settings

from headshots import __version__
from headshots.vault import picture_keys
from headshots.vault.errors import BadKeyFile
from headshots.vault.picture_keys import PictureKey
from pipelines import provenance
from pipelines.errors import Final as Broken

TRAINING: Final = "cawg.training-mining"  # CAWG, Training and Data Mining Assertion 1.1
# Not cawg.ai_inference: a program that describes a picture to somebody who cannot see it infers, too.
FORBIDDEN: Final = ("cawg.ai_generative_training", "cawg.ai_training", "cawg.data_mining")
# What a certificate may be for: e-mail, documents, and claims of the C2PA itself.
PURPOSES: Final = ("1.3.6.1.5.5.7.3.4", "1.3.6.1.5.5.7.3.36", "1.3.6.1.4.1.62558.2.1")
OFFLINE: Final[dict[str, dict[str, Any]]] = {
    "core": {"allowed_network_hosts": []},
    "trust": {"trust_config": "\n".join(PURPOSES)},
    "verify": {
        "verify_after_sign": True,
        "verify_after_sign_hash": True,
        "ocsp_fetch": False,
        "remote_manifest_fetch": False,
    },
    "builder": {"thumbnail": {"enabled": False}},
}

_ALGORITHM: Final = "es256"
_JPEG: Final = "image/jpeg"


def attach(jpeg: bytes) -> bytes:
    """The picture with its signed credentials, read back and found valid; pixels and XMP are the same bytes.

    May be called from several threads. Raises pipelines.errors.Final("not_signed") when the key, the
    certificate or the picture (which must say in its XMP where it comes from) are not fit for it.
    """
    try:
        return _signed(jpeg, provenance.source_of(jpeg), key())
    except (BadKeyFile, OSError, ValueError) as error:
        raise Broken("not_signed", str(error)) from error


def require_ready() -> None:
    """Sign something of no meaning: a worker that could not sign its pictures must not begin to make them.

    Raises as `attach` does.
    """
    attach(_trial())


def key() -> PictureKey:
    """The key that signs today. Only the embedded mode makes one where there is none.

    Raises BadKeyFile or OSError.
    """
    if settings.PICTURE_KEY is None and settings.PICTURE_CERTIFICATE is None:
        return _embedded_key(*embedded_paths())
    if settings.PICTURE_KEY is None or settings.PICTURE_CERTIFICATE is None:
        raise BadKeyFile("PICTURE_KEY and PICTURE_CERTIFICATE belong together; one of them is not set")
    found = _key(settings.PICTURE_KEY, settings.PICTURE_CERTIFICATE)
    if settings.IS_PRODUCTION and found.chain.is_development:
        raise BadKeyFile(f"{settings.PICTURE_CERTIFICATE} is a development certificate")
    return found


def certificate_path() -> Path:
    """The file of today's certificate; in the embedded mode it may not exist yet."""
    return settings.PICTURE_CERTIFICATE or embedded_paths()[1]


def embedded_paths() -> tuple[Path, Path]:
    """The files of key and certificate in the embedded mode, away from the keys that encrypt."""
    folder = settings.DATA / "pictures"
    return folder / "signing.key", folder / "certificate.pem"


@cache
def _trial() -> bytes:
    """A black picture of 8 x 8 pixels."""
    import numpy as np  # the web process has no use for it

    from pipelines.images import encode_jpeg

    black = encode_jpeg(np.zeros((8, 8, 3), dtype=np.uint8), 90)
    return provenance.mark(black, provenance.SourceType.COMPOSITE)


@cache
def _key(key_path: Path, certificate_path: Path) -> PictureKey:
    return picture_keys.load(key_path, certificate_path)


@cache
def _embedded_key(key_path: Path, certificate_path: Path) -> PictureKey:
    return picture_keys.load_or_make_development(key_path, certificate_path)


def _signed(jpeg: bytes, source: provenance.SourceType, signing_key: PictureKey) -> bytes:
    import c2pa  # 23 MB of machine code: only where pictures are signed or read

    info = c2pa.C2paSignerInfo(_ALGORITHM, signing_key.chain.pem, signing_key.key_pem, None)
    signed = io.BytesIO()
    try:
        # Made anew for each picture, in 1 ms: nothing native is shared by threads or survives a fork.
        with (
            c2pa.Context.from_dict(OFFLINE, c2pa.Signer.from_info(info)) as context,
            c2pa.Builder(json.dumps(_manifest(source)), context) as builder,
        ):
            builder.sign(_JPEG, io.BytesIO(jpeg), signed)
    except c2pa.C2paError as error:
        raise ValueError(str(error)) from error
    return signed.getvalue()


def _manifest(source: provenance.SourceType) -> dict[str, Any]:
    return {
        "claim_generator_info": [{"name": provenance.TOOL, "version": __version__}],
        "assertions": [
            {
                "label": "c2pa.actions.v2",
                "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": str(source)}]},
                "created": True,
            },
            {
                "label": TRAINING,
                "data": {"entries": {entry: {"use": "notAllowed"} for entry in FORBIDDEN}},
                "created": True,
            },
        ],
    }
