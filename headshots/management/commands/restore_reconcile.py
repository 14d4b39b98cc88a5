"""manage.py restore_reconcile: what to run after the database was put back from a copy."""

import json
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from headshots.services import clock, restore


class Command(BaseCommand):
    help = (
        "After a restore: purge again every order that was purged since the copy was made, delete objects "
        "that the copy knows nothing of, and let the service serve again. Exit code 1 when an order could "
        "not be deleted."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one machine-readable line")

    def handle(self, *args: Any, **options: Any) -> None:
        done = restore.reconcile(clock.now())
        if options["json"]:
            self.stdout.write(json.dumps(asdict(done)))
        else:
            self.stdout.write(
                f"incarnation {done.incarnation}: {done.purged_again} orders purged again, {done.waiting} "
                f"deletions waiting for their second look, {done.objects_deleted} unknown objects deleted, "
                f"{done.checkpoints_lost} checkpoints of a lost stretch of the audit log put on record"
            )
        if done.failed:
            raise CommandError(
                f"{done.failed} orders could not be deleted; they are tried again", returncode=1
            )
