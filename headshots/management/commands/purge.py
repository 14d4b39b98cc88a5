"""manage.py purge: one pass of the deletion, without broker, worker or web server."""

import json
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from headshots.services import purge


class Command(BaseCommand):
    help = (
        "Delete every order that is due: shred its keys, delete its objects, check that nothing is left, "
        "write the receipt. Needs only the database and the store. Exit code 1 when one could not be deleted."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one machine-readable line")

    def handle(self, *args: Any, **options: Any) -> None:
        tally = purge.run(timezone.now())
        left = purge.objects_left()
        if options["json"]:
            self.stdout.write(json.dumps({**asdict(tally), "objects_left": left}))
        else:
            self.stdout.write(
                f"{tally.begun} orders begun, {tally.purged} purged, {tally.waiting} waiting for their "
                f"second look, {tally.failed} failed; {tally.epoch_keys_destroyed} epoch keys destroyed; "
                f"{left} objects left"
            )
        if tally.failed:
            raise CommandError(
                f"{tally.failed} orders could not be deleted; they are tried again", returncode=1
            )
