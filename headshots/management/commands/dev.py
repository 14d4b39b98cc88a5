"""manage.py dev: the whole service on one machine, as child processes of one command."""

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser

from headshots.checks import ADVICE, TAG
from headshots.env import ROOT
from headshots.management.database import has_unapplied_migrations

STOP_SECONDS: Final = 15
RESTART_PAUSE_SECONDS: Final = 2.0


@dataclass
class Child:
    """One process of the service, restarted when it ends by itself."""

    name: str
    command: list[str]
    process: "subprocess.Popen[bytes] | None" = None
    ended_at: float = -math.inf


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
        if _supervise(children, self.stderr.write):
            raise CommandError(
                "stopped: what a process said above must be mended first", returncode=os.EX_CONFIG
            )


def _web(host: str, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "gunicorn", "headshots.wsgi", "--bind", f"{host}:{port}"),
        *("--workers", "1", "--worker-class", "gthread", "--threads", str(settings.ENVIRONMENT.web_threads)),
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


def _environment() -> dict[str, str]:
    """Celery warns a superuser of pickle, which we do not accept; the warning would only frighten."""
    return {**os.environ, "PYTHONWARNINGS": "ignore:You're running the worker with superuser privileges"}


def _supervise(children: list[Child], say: Any) -> bool:
    """Keep the children running until a signal, then stop them all, gently first.

    True when it ended because one of them cannot run before something is mended.
    """
    stopping = is_hopeless = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    while not stopping and not is_hopeless:
        for child in children:
            is_hopeless |= not _keep_running(child, say)
        time.sleep(0.2)
    for child in children:
        _signal(child, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    for child in children:
        if child.process:
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(child, signal.SIGKILL)
                child.process.wait()
    return is_hopeless


def _keep_running(child: Child, say: Any) -> bool:
    """Start the child, or start it again; False when that would change nothing."""
    if child.process is None:
        if time.monotonic() - child.ended_at >= RESTART_PAUSE_SECONDS:
            child.process = subprocess.Popen(child.command, env=_environment(), start_new_session=True)
    elif (code := child.process.poll()) is not None:
        _signal(child, signal.SIGKILL)  # what the dead parent left behind
        child.process = None
        child.ended_at = time.monotonic()
        if code == os.EX_CONFIG:
            return False
        say(f"{child.name} ended with code {code}; starting it again")
    return True


def _signal(child: Child, signum: signal.Signals) -> None:
    """Send to the child's whole process group: a worker's own children never outlive it."""
    if child.process:
        try:
            # A pool's children leave a soft stop to their parent; only the hard one goes to all.
            target = os.killpg if signum == signal.SIGKILL else os.kill
            target(child.process.pid, signum)
        except ProcessLookupError:
            return
