"""What moto lacks and the vault needs: KMS keys with imported material that ends, and writes one at a time.

Written from the AWS KMS API Reference (GetParametersForImport, ImportKeyMaterial, DeleteImportedKeyMaterial)
and the developer guide's table "Key states of AWS KMS keys". Patched into the server's own classes, so that
the product talks to it over HTTP as to any other operation.
"""

import base64
import hashlib
import json
import secrets
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from moto.core.exceptions import JsonRESTError
from moto.kms.models import Key, kms_backends
from moto.kms.responses import KmsResponse
from moto.s3.responses import S3Response

OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
_TOKENS: dict[str, str] = {}
_ONE_AT_A_TIME = threading.RLock()


class Clock:
    """The server's clock; tests move it, and nothing else in the process notices."""

    ahead = timedelta(0)

    @classmethod
    def now(cls) -> datetime:
        return datetime.now(UTC) + cls.ahead


@cache
def transport_key() -> rsa.RSAPrivateKey:
    """One for the whole run; KMS makes one for each import."""
    return rsa.generate_private_key(65537, 4096)


def install(patch: pytest.MonkeyPatch) -> None:
    """Teach the server. Undone with the patch."""
    for method in (get_parameters_for_import, import_key_material, delete_imported_key_material):
        patch.setattr(KmsResponse, method.__name__, method, raising=False)
    patch.setattr(KmsResponse, "create_key", _created_without_material(KmsResponse.create_key))
    patch.setattr(KmsResponse, "describe_key", _refreshed(KmsResponse.describe_key))
    patch.setattr(KmsResponse, "encrypt", _of_usable_key(KmsResponse.encrypt))
    patch.setattr(KmsResponse, "decrypt", _of_usable_key(KmsResponse.decrypt))
    patch.setattr(KmsResponse, "create_alias", _locked(KmsResponse.create_alias))
    patch.setattr(S3Response, "put_object", _locked(S3Response.put_object))


def get_parameters_for_import(self: KmsResponse) -> str:
    key = _key(self)
    if key.origin != "EXTERNAL":
        raise JsonRESTError("UnsupportedOperationException", "the key's origin is not EXTERNAL")
    if self._get_param("WrappingAlgorithm") != "RSAES_OAEP_SHA_256":
        raise JsonRESTError("UnsupportedOperationException", "only RSAES_OAEP_SHA_256 here")
    token = base64.b64encode(secrets.token_bytes(64)).decode()
    _TOKENS[token] = key.id
    public = transport_key().public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    valid_to = (Clock.now() + timedelta(hours=24)).timestamp()
    return json.dumps(
        {
            "KeyId": key.arn,
            "ImportToken": token,
            "PublicKey": base64.b64encode(der).decode(),
            "ParametersValidTo": valid_to,
        }
    )


def import_key_material(self: KmsResponse) -> str:
    key = _key(self)
    if key.key_state == "PendingDeletion":
        raise JsonRESTError("KMSInvalidStateException", f"{key.arn} is pending deletion.")
    if _TOKENS.pop(self._get_param("ImportToken"), None) != key.id:
        raise JsonRESTError("InvalidImportTokenException", "the token belongs to another key")
    expires = self._get_param("ExpirationModel", "KEY_MATERIAL_EXPIRES") == "KEY_MATERIAL_EXPIRES"
    valid_to = datetime.fromtimestamp(self._get_param("ValidTo"), UTC) if expires else None
    if valid_to and not Clock.now() < valid_to <= Clock.now() + timedelta(days=365):
        raise JsonRESTError("ValidationException", "ValidTo lies in the past or too far away")
    material = transport_key().decrypt(base64.b64decode(self._get_param("EncryptedKeyMaterial")), OAEP)
    if len(material) != 32:
        raise JsonRESTError("IncorrectKeyMaterialException", "a symmetric key has 256 bits")
    # A key keeps only its first material: anything else is refused, so an expired key stays dead.
    digest = hashlib.sha256(material).digest()
    if vars(key).setdefault("first_material", digest) != digest:
        raise JsonRESTError("IncorrectKeyMaterialException", "another material was imported before")
    key.key_material = material
    vars(key)["valid_to"] = valid_to
    key.key_state, key.enabled = "Enabled", True
    return json.dumps({"KeyId": key.arn})


def delete_imported_key_material(self: KmsResponse) -> str:
    key = _key(self)
    if key.origin != "EXTERNAL":
        raise JsonRESTError("UnsupportedOperationException", "the key's origin is not EXTERNAL")
    _forget_material(key)
    return json.dumps({"KeyId": key.arn})


def _forget_material(key: Key) -> None:
    key.key_material = secrets.token_bytes(32)
    vars(key)["valid_to"] = None
    if key.key_state != "PendingDeletion":
        key.key_state, key.enabled = "PendingImport", False


def _key(response: KmsResponse) -> Key:
    key_id = response._get_param("KeyId")
    response._validate_key_id(key_id)
    backend = response.kms_backend
    key = backend.keys[backend.any_id_to_key_id(key_id)]
    valid_to = vars(key).get("valid_to")
    if valid_to and valid_to <= Clock.now():
        _forget_material(key)
    return key


def _created_without_material(original: Callable[[KmsResponse], str]) -> Callable[[KmsResponse], str]:
    def create_key(self: KmsResponse) -> str:
        answer: dict[str, Any] = json.loads(original(self))
        key = self.kms_backend.keys[answer["KeyMetadata"]["KeyId"]]
        if key.origin == "EXTERNAL":
            _forget_material(key)
        return json.dumps(key.to_dict())

    return create_key


def _refreshed(original: Callable[[KmsResponse], str]) -> Callable[[KmsResponse], str]:
    def describe_key(self: KmsResponse) -> str:
        _key(self)
        return original(self)

    return describe_key


def _of_usable_key(original: Callable[[KmsResponse], str]) -> Callable[[KmsResponse], str]:
    def use(self: KmsResponse) -> str:
        key = _key(self)
        if key.key_state != "Enabled":
            raise JsonRESTError("KMSInvalidStateException", f"{key.arn} is {key.key_state}.")
        try:
            return original(self)
        except JsonRESTError as error:
            if error.error_type == "AccessDeniedException":  # what moto says of another key's ciphertext
                raise JsonRESTError("IncorrectKeyException", "the ciphertext is another key's") from error
            raise
        except ValueError as error:  # moto cannot parse it: KMS calls any such ciphertext invalid
            raise JsonRESTError("InvalidCiphertextException", "") from error

    return use


def _locked(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Of two who want one alias or one object, one is refused: moto looks first and writes later."""

    def write(self: Any) -> Any:
        with _ONE_AT_A_TIME:
            return original(self)

    return write


def end_of_material(key_id: str) -> datetime | None:
    """When the material of a key ends, as the server knows it; None when there is none."""
    for accounts in kms_backends.values():
        for backend in accounts.values():
            if key_id in backend.keys:
                end: datetime | None = vars(backend.keys[key_id]).get("valid_to")
                return end
    raise KeyError(key_id)


def sent_material(body: bytes) -> bytes:
    """The encrypted material in the body of an ImportKeyMaterial."""
    return base64.b64decode(json.loads(body)["EncryptedKeyMaterial"])
