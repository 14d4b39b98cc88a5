"""manage.py dev: the whole service on one machine, as child processes of one command."""

import os
import sys
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser

from headshots.checks import ADVICE, TAG
from headshots.env import ROOT
from headshots.management.database import has_unapplied_migrations
from headshots.management.supervision import Child, supervise


class Command(BaseCommand):
    help = (
        "Run the site, the workers, the scheduler and the purge on this machine until Ctrl-C. "
        "A process that dies is started again; orders lose nothing by it."
    )

    requires_system_checks = (
        TAG,
        ADVICE,
    )  # ours alone: checking all routes too would double the time to start

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, default=settings.ENVIRONMENT.port, help="port of the site")
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
        alone = parser.add_mutually_exclusive_group()
        alone.add_argument(
            "--no-worker", action="store_true", help="the site alone: orders wait for a worker"
        )
        alone.add_argument("--no-web", action="store_true", help="the workers, scheduler and purge alone")

    def handle(self, *args: Any, **options: Any) -> None:
        if has_unapplied_migrations():
            call_command("migrate", verbosity=0, skip_checks=True)
        call_command("seed_styles", stdout=self.stderr)
        os.environ.setdefault("SITE_URL", f"http://localhost:{options['port']}")
        children = []
        if not options["no_web"]:
            children.append(Child("web", _web(options["host"], options["port"])))
        if not options["no_worker"]:
            children += [
                Child("cpu", [*_celery("cpu", processes=1), "--beat"]),
                Child("gpu", _renderer()),
            ]
        self.stderr.write(f"Headshots is starting on {os.environ['SITE_URL']} (stop with Ctrl-C)")
        if supervise(children, self.stderr.write):
            raise CommandError(
                "stopped: what a process said above must be mended first", returncode=os.EX_CONFIG
            )


def _web(host: str, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "gunicorn", "headshots.wsgi", "--bind", f"{host}:{port}"),
        *("--workers", "1", "--worker-class", "headshots.web.server.Worker"),
        # Without sendfile everything goes through the worker's sockets, which know how long to wait.
        *("--threads", str(settings.ENVIRONMENT.web_threads), "--no-sendfile"),
        *("--timeout", "120", "--graceful-timeout", "10", "--no-control-socket", "--log-level", "warning"),
    ]


def _celery(queue: str, *, processes: int) -> list[str]:
    return [
        *(
            sys.executable,
            "-m",
            "celery",
            "--app",
            "headshots.celery",
            "--quiet",
            "worker",
            "--queues",
            queue,
        ),
        *("--concurrency", str(processes), "--hostname", f"{queue}@%h", "--loglevel", "WARNING"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]


def _renderer() -> list[str]:
    """The preview engine starts at once, in several processes; networks are loaded first, and once."""
    if settings.ENGINE == "preview":
        return _celery("gpu", processes=settings.ENVIRONMENT.worker_processes)
    return [sys.executable, str(ROOT / "manage.py"), "worker", "gpu"]
