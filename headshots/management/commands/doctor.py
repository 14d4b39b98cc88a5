"""manage.py doctor: what on this machine threatens the promise, sentence by sentence."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from headshots.services import doctor, sales


class Command(BaseCommand):
    help = (
        "Examine the machine, the database, the stores, the settings and the weights. Each finding names the "
        "sentence of the promise it threatens. Exit code 1 when there is one."
    )
    requires_system_checks = ()  # they are part of the examination

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one machine-readable line")

    def handle(self, *args: Any, **options: Any) -> None:
        findings = doctor.examine({"weights": _weights, "licences": _licences})
        if options["json"]:
            shown = {"findings": [asdict(finding) for finding in findings], "unseen": list(doctor.UNSEEN)}
            self.stdout.write(json.dumps(shown))
        else:
            for finding in findings:
                self.stdout.write(str(finding))
            self.stdout.write("Software cannot see:")
            for text in doctor.UNSEEN:
                self.stdout.write(f"  {text}")
        if findings:
            raise CommandError(f"{len(findings)} findings", returncode=1)


def _weights() -> Iterator[tuple[str, str]]:
    """The files of the engine against their recorded and published hashes; reads all of them."""
    if settings.ENGINE != "instantid" or settings.WEIGHTS is None:
        return
    from pipelines.weights import verify

    for verdict in verify(settings.WEIGHTS):
        if verdict.state != "ok":
            yield verdict.detail.rstrip("."), doctor.GENUINE


def _licences() -> Iterator[tuple[str, str]]:
    """The networks that make what is sold; of the optional ones, those in the bundle."""
    from pipelines.weights import read_lock

    held = {entry.key for entry in read_lock(settings.WEIGHTS).values()} if settings.WEIGHTS else set()
    if problem := sales.problem(held):
        yield problem, doctor.LICENSED
