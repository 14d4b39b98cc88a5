"""What a picture says of itself, by the C2PA's own reader: whether it holds, and whether we said it."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from headshots.services import credentials
from headshots.vault import picture_keys
from headshots.vault.picture_keys import Chain
from pipelines import provenance

MAX_BYTES: Final = 64 * 1024 * 1024  # ours have 1 to 12 MB

_UNTRUSTED: Final = "signingCredential.untrusted"  # C2PA 2.2, section 15.2.2: says who signed, not what holds
_SIGNATURE_HOLDS: Final = "claimSignature.validated"
_BINDING_HOLDS: Final = "assertion.dataHash.match"
_TRUSTED: Final = "signingCredential.trusted"
_OUR_LIST: Final = "user_anchors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The active manifest of a picture, and what of it holds."""

    generator: str
    actions: tuple[tuple[str, str], ...]
    """Each action with its digital source type, empty where it names none."""
    uses: dict[str, str]
    """Of the training and data mining assertion: what each use is said to be."""
    ingredients: int
    has_thumbnail: bool
    signer: str
    is_ours: bool
    is_development: bool
    signature_holds: bool
    binding_holds: bool
    failures: tuple[str, ...]
    """C2PA status codes of what does not hold; a signer unknown to us is none of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureClaims:
    """Both marks of a picture. `credentials` is None without a manifest that could be read."""

    xmp_source: str
    xmp_mining: str
    credentials: Credentials | None
    problem: str = ""
    """Why there are no credentials: no_credentials, or not_readable."""

    @property
    def is_valid(self) -> bool:
        """Whether signature and binding hold and the XMP, if there is one, says the same as the manifest."""
        found = self.credentials
        if found is None or found.failures or not (found.signature_holds and found.binding_holds):
            return False
        return not self.xmp_source or self.xmp_source in {source for _, source in found.actions}


def own_chains(paths: Sequence[Path] = ()) -> list[Chain]:
    """The certificates of the files, or those that sign today; none in an embedded mode that never signed.

    Needs no private key. Raises BadKeyFile or OSError.
    """
    if paths:
        return [picture_keys.load_chain(path) for path in paths]
    if credentials.certificate_path().exists():
        return [picture_keys.load_chain(credentials.certificate_path())]
    return []


def read(data: bytes, chains: Sequence[Chain]) -> PictureClaims:
    """What the picture says, and whether it was signed under one of the chains; raises nothing.

    Only embedded manifests are read: nothing is fetched.
    """
    import c2pa

    packet = provenance.packet_of(data)
    xmp: dict[str, str] = {
        "xmp_source": provenance.property_of(packet, "Iptc4xmpExt:DigitalSourceType"),
        "xmp_mining": provenance.property_of(packet, "plus:DataMining"),
    }
    try:
        with (
            c2pa.Context.from_dict(_settings(chains)) as context,
            c2pa.Reader("image/jpeg", io.BytesIO(data), context=context) as reader,
        ):
            store = json.loads(reader.json())
    except c2pa.C2paError.ManifestNotFound:
        return PictureClaims(**xmp, credentials=None, problem="no_credentials")
    except (c2pa.C2paError, ValueError):
        return PictureClaims(**xmp, credentials=None, problem="not_readable")
    return PictureClaims(**xmp, credentials=_credentials(store, chains))


def _settings(chains: Sequence[Chain]) -> dict[str, dict[str, Any]]:
    """Offline, and with the last certificate of each chain as all that is trusted."""
    anchors = b"".join(chain.anchor_pem for chain in chains).decode()
    trust = {**credentials.OFFLINE["trust"], _OUR_LIST: anchors} if anchors else credentials.OFFLINE["trust"]
    return {**credentials.OFFLINE, "trust": trust}


def _credentials(store: dict[str, Any], chains: Sequence[Chain]) -> Credentials:
    manifest = store["manifests"][store["active_manifest"]]
    results = store.get("validation_results", {}).get("activeManifest", {})
    codes = {kind: [entry["code"] for entry in results.get(kind, ())] for kind in ("success", "failure")}
    generators = manifest.get("claim_generator_info") or [{}]
    signature = manifest.get("signature_info", {})
    data = {entry["label"]: entry.get("data", {}) for entry in manifest.get("assertions", ())}
    actions = [
        action
        for label, content in data.items()
        if label.startswith("c2pa.actions")
        for action in content.get("actions", ())
    ]
    uses = data.get(credentials.TRAINING, {}).get("entries", {})
    signers = {chain.serial_number: chain for chain in chains}
    # The reader vouches for the issuer; an issuer gives a number to one certificate (RFC 5280, 4.1.2.2).
    is_trusted = _TRUSTED in codes["success"] and store["validation_results"].get("trustListUri") == _OUR_LIST
    signer = signers.get(signature.get("cert_serial_number", "")) if is_trusted else None
    failures = [code for code in codes["failure"] if code != _UNTRUSTED]
    return Credentials(
        generator=" ".join(str(generators[0].get(name, "")) for name in ("name", "version")).strip(),
        actions=tuple((entry["action"], entry.get("digitalSourceType", "")) for entry in actions),
        uses={name: str(entry.get("use", "")) for name, entry in uses.items()},
        ingredients=len(manifest.get("ingredients", ())),
        has_thumbnail="thumbnail" in manifest,
        signer=str(signature.get("common_name") or signature.get("issuer") or ""),
        is_ours=signer is not None,
        is_development=signer is not None and signer.is_development,
        signature_holds=_SIGNATURE_HOLDS in codes["success"],
        binding_holds=_BINDING_HOLDS in codes["success"],
        failures=tuple(failures),
    )
