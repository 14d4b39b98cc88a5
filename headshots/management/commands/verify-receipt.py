"""manage.py verify-receipt: whether a deletion receipt is genuine, and what it says in plain words."""

import sys
from pathlib import Path
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser

from headshots.services import signing
from headshots.vault.errors import BadKeyFile
from headshots.vault.notes import MAX_NOTE_CHARACTERS, Verifier
from headshots.vault.receipts import Receipt, open_receipt

NOT_VALID: Final = 1
COULD_NOT_LOOK: Final = 2

_LIMIT_BYTES: Final = 4 * MAX_NOTE_CHARACTERS  # UTF-8 takes at most four bytes a character


class Command(BaseCommand):
    help = (
        "Check a deletion receipt and print what it says. Exit code 0: genuine; 1: not genuine; "
        "2: could not look. Needs no database."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", help="the receipt as it was downloaded; - reads standard input")
        parser.add_argument(
            "--key",
            action="append",
            help="verifier key to trust (name+id+base64), repeat for several; default: the service's own",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        keys, data = _keys(options["key"]), _read(options["file"])
        try:
            receipt, signed_by = open_receipt(data.decode(), keys)
        except UnicodeDecodeError:
            raise CommandError("NOT GENUINE: this is not text in UTF-8", returncode=NOT_VALID) from None
        except ValueError as error:
            raise CommandError(f"NOT GENUINE: {error}", returncode=NOT_VALID) from None
        self.stdout.write(f"GENUINE: signed by {', '.join(key.name for key in signed_by)}\n\n")
        self.stdout.write(in_words(receipt))


def _keys(texts: list[str] | None) -> tuple[Verifier, ...]:
    try:
        return tuple(Verifier.parse(text) for text in texts) if texts else signing.published_keys()
    except ValueError as error:
        raise CommandError(f"--key: {error}", returncode=COULD_NOT_LOOK) from None
    except (BadKeyFile, OSError) as error:
        raise CommandError(str(error), returncode=COULD_NOT_LOOK) from None


def _read(name: str) -> bytes:
    try:
        if name == "-":
            return sys.stdin.buffer.read(_LIMIT_BYTES + 1)
        with Path(name).open("rb") as file:
            return file.read(_LIMIT_BYTES + 1)
    except OSError as error:
        raise CommandError(f"{name}: {error.strerror}", returncode=COULD_NOT_LOOK) from None


def in_words(receipt: Receipt) -> str:
    """What the receipt says, one fact a line, for a person."""
    first, second = receipt.absent_verified
    lines = (
        f"{receipt.origin} says in receipt {receipt.receipt_id}:",
        f"  {receipt.first_photo:%Y-%m-%d %H:%M:%S} UTC  the first photo arrived",
        f"  {receipt.selfie_key_destroyed:%Y-%m-%d %H:%M:%S} UTC  the key of the photos was destroyed",
        f"  {receipt.result_key_destroyed:%Y-%m-%d %H:%M:%S} UTC  the key of the headshots was destroyed",
        f"  {receipt.objects_deleted:%Y-%m-%d %H:%M:%S} UTC  everything stored was deleted: "
        f"photos {receipt.selfies}, headshots {receipt.headshots}, previews {receipt.previews}, "
        f"older versions {receipt.versions}, unfinished uploads {receipt.uploads}",
        f"  {first:%Y-%m-%d %H:%M:%S} UTC  the store was looked through: nothing was left",
        f"  {second:%Y-%m-%d %H:%M:%S} UTC  it was looked through again: nothing was left",
        f"  {receipt.epoch_key_gone_by:%Y-%m-%d %H:%M:%S} UTC  by then the key over all copies is destroyed",
        f"  The reason was: {receipt.reason.replace('-', ' ')}.",
        f"  The deletion is entry {receipt.audit_seq} of the audit log.",
        "",
        f"This proves that {receipt.origin} said so and can neither deny nor alter it now.",
        "It cannot prove that no copy was made elsewhere.",
    )
    return "\n".join(lines)
