"""manage.py receipt-key: make the key that signs deletion receipts, or the next one."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from headshots.services import signing as service
from headshots.vault import files, signing
from headshots.vault.errors import BadKeyFile


class Command(BaseCommand):
    help = (
        "Make a new signing key in FILE for SITE_URL's host, and print its verifier key. Keys used so far "
        "are listed in FILE.retired, which keeps them published: keep the two files together, and point "
        "RECEIPT_KEY at FILE."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="a file that does not exist yet")

    def handle(self, *args: Any, **options: Any) -> None:
        path: Path = options["file"]
        try:
            used = service.published_keys() if service.key_path().exists() else ()
            name = signing.key_name(service.host(), timezone.now().year, used)
            signer = signing.make_signer(path, name)
            if used:
                lines = "".join(f"{verifier}\n" for verifier in used)
                files.write_new(signing.retired_path(path), lines.encode())
        except (BadKeyFile, ValueError) as error:
            raise CommandError(str(error)) from None
        except FileExistsError as error:
            there = error.filename2 or error.filename
            raise CommandError(f"{there} exists already and was left as it is") from None
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}") from None
        self.stdout.write(str(signer.verifier))
