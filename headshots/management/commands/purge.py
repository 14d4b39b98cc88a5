"""manage.py purge: one pass of the deletion, or one after another, or a look at what it left.

Needs only the database and the store: neither Celery nor a broker is even imported.
"""

import json
import signal
import threading
from dataclasses import asdict
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections

from headshots import process
from headshots.services import clock, farewells, maintenance, purge, verification
from headshots.services.verification import Report

WATCH_SECONDS: Final = 60
VIOLATIONS: Final = 1
COULD_NOT_LOOK: Final = 2


class Command(BaseCommand):
    help = (
        "Delete every order that is due: shred its keys, delete its objects, check that nothing is left, "
        "write the receipt. Needs only the database and the store. Exit code 1 when one could not be deleted."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one machine-readable line")
        what = parser.add_mutually_exclusive_group()
        what.add_argument(
            "--watch",
            type=float,
            nargs="?",
            const=WATCH_SECONDS,
            metavar="SECONDS",
            help=f"a pass every so many seconds (default {WATCH_SECONDS}), until stopped",
        )
        what.add_argument(
            "--verify",
            action="store_true",
            help="only look, at every object and row; exit code 1 for violations, 2 when it could not look",
        )
        what.add_argument(
            "--reset-clock",
            action="store_true",
            help="once a clock that was ahead is right: end what was due by it, then go by the clocks",
        )
        parser.add_argument("--fix", action="store_true", help="with --verify: repair, then look again")

    def handle(self, *args: Any, **options: Any) -> None:
        process.harden()
        if options["fix"] and not options["verify"]:
            raise CommandError("--fix goes with --verify", returncode=COULD_NOT_LOOK)
        if options["verify"]:
            self._verify(is_fixing=options["fix"], as_json=options["json"])
        elif options["watch"] is not None:
            self._watch(options["watch"], as_json=options["json"])
        else:
            self._pass(as_json=options["json"])
            if options["reset_clock"]:
                self._reset_clock()

    def _reset_clock(self) -> None:
        at = clock.take_back()
        ended = purge.end_orders_of_the_future(at)
        self.stdout.write(f"the clock is at {at.isoformat()} again; {ended} orders placed ahead of it ended")

    def _pass(self, *, as_json: bool) -> None:
        tally = purge.run(clock.now())
        left = purge.objects_left()
        farewells.deliver(clock.now())  # this process ends, and with it what it holds
        if as_json:
            self.stdout.write(json.dumps({**asdict(tally), "objects_left": left}))
        else:
            self.stdout.write(
                f"{tally.begun} orders begun, {tally.purged} purged, {tally.waiting} waiting for their "
                f"second look, {tally.failed} failed; {tally.selfie_keys_destroyed} selfie keys and "
                f"{tally.epoch_keys_destroyed} epoch keys destroyed; {left} objects left"
            )
        if tally.failed:
            raise CommandError(
                f"{tally.failed} orders could not be deleted; they are tried again", returncode=1
            )

    def _watch(self, seconds: float, *, as_json: bool) -> None:
        """A pass every `seconds` until SIGTERM or SIGINT; what goes wrong is said and tried again."""
        stop = threading.Event()
        farewells.start()
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: stop.set())
        while not stop.is_set():
            try:
                tally = maintenance.run_pass(clock.now())
            except Exception as error:  # the database or the store is away: the next pass tries again
                self.stderr.write(f"purge failed: {type(error).__name__}")
            else:
                if as_json:
                    self.stdout.write(json.dumps(asdict(tally)))
                elif tally.begun or tally.purged or tally.failed:
                    self.stdout.write(f"{tally.begun} begun, {tally.purged} purged, {tally.failed} failed")
                self.stdout.flush()
            finally:
                connections.close_all()
            stop.wait(seconds)

    def _verify(self, *, is_fixing: bool, as_json: bool) -> None:
        try:
            report = verification.inspect(clock.now(), is_fixing=is_fixing, is_full=True)
            verification.record(report)
        except Exception as error:
            raise CommandError(
                f"could not look: {type(error).__name__}", returncode=COULD_NOT_LOOK
            ) from error
        if as_json:
            self.stdout.write(json.dumps(_as_json(report)))
            self.stderr.write(str(report))
        else:
            self.stdout.write(str(report))
        if report.blind:
            raise CommandError(f"could not look at: {', '.join(report.blind)}", returncode=COULD_NOT_LOOK)
        if report.findings:
            raise CommandError(f"{len(report.findings)} kinds of violations", returncode=VIOLATIONS)


def _as_json(report: Report) -> dict[str, Any]:
    return {**asdict(report), "at": report.at.isoformat(), "is_clean": report.is_clean}
