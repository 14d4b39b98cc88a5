"""manage.py worker: one Celery worker in one role, as production runs them."""

import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError

from headshots.checks import TAG
from headshots.management.database import has_unapplied_migrations
from headshots.services import clock, workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What a worker serves. `processes` of None is for the operator to say."""

    queue: str
    processes: int | None
    help: str


ROLES: Final[Mapping[str, Role]] = {
    "cpu": Role(
        queue="cpu", processes=None, help="looks at selfies, sweeps and purges; never loads the networks"
    ),
    "gpu": Role(
        queue="gpu", processes=1, help="renders; one for each GPU, with its engine loaded before it is ready"
    ),
}


class Command(BaseCommand):
    help = (
        "Run one worker until it is stopped. Stop it with SIGTERM and give it half a minute: it finishes the "
        "pictures it can and gives the others back. Exit code 78: something must be mended before it can run."
    )
    requires_system_checks = (TAG,)

    def add_arguments(self, parser: CommandParser) -> None:
        roles = "; ".join(f"{name}: {role.help}" for name, role in ROLES.items())
        parser.add_argument("role", choices=sorted(ROLES), help=roles)
        parser.add_argument(
            "--processes", type=int, default=settings.ENVIRONMENT.worker_processes, help="of the cpu role"
        )
        parser.add_argument(
            "--beat", action="store_true", help="also send the periodic hints; one worker of all"
        )
        parser.add_argument(
            "--probe",
            action="store_true",
            help="start nothing: exit code 0 if this machine's gpu worker is ready and moved within a minute",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["probe"]:
            sys.exit(_probe(options["role"]))
        from headshots import worker  # brings Celery and numpy, which the other commands have no use for

        try:
            if has_unapplied_migrations():
                raise CommandError("the database is not migrated: manage.py migrate", returncode=os.EX_CONFIG)
        except DatabaseError as error:
            raise CommandError(f"the database does not answer: {type(error).__name__}") from None
        role = ROLES[options["role"]]
        if options["role"] == "gpu":
            _require_weights()
            worker.dedicate_to_gpu()
        # Celery warns a superuser of pickle, which we do not accept.
        warnings.filterwarnings("ignore", message=".*superuser privileges")
        sys.exit(
            worker.run(role.queue, processes=role.processes or options["processes"], beat=options["beat"])
        )


def _probe(role: str) -> int:
    """The exit code that says whether a worker of this machine moves."""
    if role != "gpu":
        raise CommandError("--probe is of the gpu role")
    try:
        return 0 if workers.has_moved_here(clock.now()) else 1
    except DatabaseError as error:
        raise CommandError(f"the database does not answer: {type(error).__name__}") from None


def _require_weights() -> None:
    """A first look that takes no time; the child that loads them looks at every byte."""
    if settings.WEIGHTS is None:
        return
    from pipelines.errors import Final as Mended
    from pipelines.weights import resolve

    try:
        resolve(settings.WEIGHTS)
    except Mended as error:
        raise CommandError(str(error), returncode=os.EX_CONFIG) from None
