"""Epoch keys in AWS KMS: one key an hour, whose material we import, forget, and let expire.

KMS wraps the order keys itself, and destroys the material on time without anybody asking it to.
"""

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from headshots.vault import aws
from headshots.vault.envelope import KEY_BYTES, Role
from headshots.vault.errors import KeyGone, StoreAway, Unreadable
from headshots.vault.keys import OrderKeyName, not_after_of, require_current

_ALIAS: Final = "alias/headshots/epoch-"
_SUITE: Final = 0x02
_HEADER_BYTES: Final = 16
_OAEP: Final = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
# The shortest that KMS allows. The material is gone at once; what waits is an empty key.
_PENDING_DAYS: Final = 7
# How long past its end an epoch keeps its alias, which says that it was destroyed.
_REMEMBERED: Final = timedelta(days=1)

_GONE: Final = ("NotFoundException", "KMSInvalidStateException")
_ALTERED: Final = ("InvalidCiphertextException", "IncorrectKeyException", "ValidationException")


class KmsEpochs:
    """An epoch store over KMS: `alias/headshots/epoch-<number>` names the key of an hour.

    An alias appears only when its key is complete, and stays for a day after it is destroyed, so that no two
    keys of an hour are ever used and none comes back.
    """

    def __init__(self, kms: Any) -> None:
        """`kms` is boto3's client. Raises StoreAway when KMS does not answer to it."""
        self._kms = kms
        self._destroyed: set[int] = set()
        self._call("list_aliases", Limit=1)

    def wrap(self, order_key: bytes, name: OrderKeyName, now: datetime) -> bytes:
        require_current(name.epoch, now)
        try:
            answer = self._encrypt(order_key, name)
        except _Refused as refused:
            if refused.code != "NotFoundException":
                raise
            self._make(name.epoch)
            answer = self._encrypt(order_key, name)
        return _header(name.role, answer["KeyId"]) + bytes(answer["CiphertextBlob"])

    def unwrap(self, wrapped: bytes, name: OrderKeyName) -> bytes:
        if wrapped[:8] != _magic(name.role) or not _is_whole(name):
            raise Unreadable
        try:
            answer = self._call(
                "decrypt",
                KeyId=_alias(name.epoch),
                CiphertextBlob=wrapped[_HEADER_BYTES:],
                EncryptionContext=_context(name),
            )
        except _Refused as refused:
            if refused.code in _GONE:
                raise KeyGone(name.epoch) from refused
            if refused.code in _ALTERED:
                raise Unreadable from refused
            raise
        if wrapped[:_HEADER_BYTES] != _header(name.role, answer["KeyId"]):
            raise Unreadable
        return bytes(answer["Plaintext"])

    def destroy(self, epoch: int) -> None:
        self._destroy(epoch)

    def destroy_due(self, now: datetime) -> list[int]:
        past = [epoch for epoch in self._aliases() if not_after_of(epoch) <= now]
        destroyed = [epoch for epoch in past if epoch not in self._destroyed and self._destroy(epoch)]
        for epoch in past:
            if not_after_of(epoch) + _REMEMBERED <= now:
                self._forget(epoch)
        return destroyed

    def epochs(self) -> list[int]:
        return [epoch for epoch in self._aliases() if self._describe(epoch)["KeyState"] == "Enabled"]

    def _encrypt(self, order_key: bytes, name: OrderKeyName) -> dict[str, Any]:
        try:
            return self._call(
                "encrypt", KeyId=_alias(name.epoch), Plaintext=order_key, EncryptionContext=_context(name)
            )
        except _Refused as refused:
            # Without its material, a new key may get it in a moment; one that is to be deleted will not.
            is_unusable = refused.code == "KMSInvalidStateException"
            if is_unusable and self._describe(name.epoch)["KeyState"] == "PendingDeletion":
                raise KeyGone(name.epoch) from refused
            raise

    def _make(self, epoch: int) -> None:
        """Make the hour's key; when another process was first, its key is the key."""
        key_id = self._create(epoch)
        try:
            self._import(key_id, epoch)
            self._publish(key_id, epoch)
        except BaseException:
            self._erase(key_id)
            raise

    def _create(self, epoch: int) -> str:
        answer = self._call("create_key", Origin="EXTERNAL", Description=f"headshots, epoch {epoch}")
        return str(answer["KeyMetadata"]["KeyId"])

    def _import(self, key_id: str, epoch: int) -> None:
        transport = self._call(
            "get_parameters_for_import",
            KeyId=key_id,
            WrappingAlgorithm="RSAES_OAEP_SHA_256",
            WrappingKeySpec="RSA_4096",
        )
        public_key = load_der_public_key(transport["PublicKey"])
        if not isinstance(public_key, rsa.RSAPublicKey):
            raise StoreAway("KMS gave a transport key that is not RSA")
        self._call(
            "import_key_material",
            KeyId=key_id,
            ImportToken=transport["ImportToken"],
            EncryptedKeyMaterial=public_key.encrypt(secrets.token_bytes(KEY_BYTES), _OAEP),
            ExpirationModel="KEY_MATERIAL_EXPIRES",
            ValidTo=not_after_of(epoch),
        )

    def _publish(self, key_id: str, epoch: int) -> bool:
        """Give the key the hour's alias; false, and the key is erased, when the hour has another."""
        try:
            self._call("create_alias", AliasName=_alias(epoch), TargetKeyId=key_id)
        except _Refused as refused:
            if refused.code != "AlreadyExistsException":
                raise
            self._erase(key_id)
            return False
        return True

    def _destroy(self, epoch: int) -> bool:
        """Whether there was something to destroy."""
        try:
            key = self._describe(epoch)
        except _Refused as refused:
            if refused.code != "NotFoundException":
                raise
            # Never made: an empty key takes its name, so that it never will be.
            key_id = self._create(epoch)
            if not self._publish(key_id, epoch):
                return self._destroy(epoch)
            key = {"KeyId": key_id, "KeyState": "PendingImport"}
        is_new = bool(key["KeyState"] != "PendingDeletion")
        if is_new:
            self._erase(key["KeyId"])
        self._destroyed.add(epoch)
        return is_new

    def _forget(self, epoch: int) -> None:
        """Remove the alias, unless another process was first."""
        try:
            self._call("delete_alias", AliasName=_alias(epoch))
        except _Refused as refused:
            if refused.code != "NotFoundException":
                raise

    def _erase(self, key_id: str) -> None:
        # The material first: a key that only waits for its deletion can be called back, this cannot.
        self._call("delete_imported_key_material", KeyId=key_id)
        self._call("schedule_key_deletion", KeyId=key_id, PendingWindowInDays=_PENDING_DAYS)

    def _aliases(self) -> list[int]:
        names: list[str] = []
        try:
            for page in self._kms.get_paginator("list_aliases").paginate():
                names += [alias["AliasName"] for alias in page["Aliases"]]
        except (ClientError, BotoCoreError) as error:
            raise _Refused("list_aliases", error) from error
        return sorted(int(name.removeprefix(_ALIAS)) for name in names if name.startswith(_ALIAS))

    def _describe(self, epoch: int) -> dict[str, Any]:
        answer = self._call("describe_key", KeyId=_alias(epoch))
        return dict(answer["KeyMetadata"])

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        try:
            return dict(getattr(self._kms, operation)(**arguments))
        except (ClientError, BotoCoreError) as error:
            raise _Refused(operation, error) from error


class _Refused(StoreAway):
    """KMS did not do it; `code` says why. Whoever knows what the code means here says that instead."""

    def __init__(self, operation: str, error: ClientError | BotoCoreError) -> None:
        super().__init__(str(aws.away(f"KMS {operation}", error)))
        self.code = aws.code_of(error)


def _alias(epoch: int) -> str:
    return f"{_ALIAS}{epoch}"


def _magic(role: Role) -> bytes:
    return b"HSW1" + bytes((_SUITE, Role(role), 0, 0))


def _header(role: Role, key_arn: str) -> bytes:
    return _magic(role) + hashlib.sha256(b"headshots/v1 kms kid\0" + key_arn.encode()).digest()[:8]


def _is_whole(name: OrderKeyName) -> bool:
    """Whether the name could ever have been wrapped: seconds alone are in the context."""
    return name.not_after.microsecond == 0


def _context(name: OrderKeyName) -> dict[str, str]:
    """What KMS authenticates with the order key, and writes into its log of each use."""
    return {
        "order": name.order_id.hex,
        "role": Role(name.role).name.lower(),
        "epoch": str(name.epoch),
        "not_after": str(int(name.not_after.timestamp())),
    }
