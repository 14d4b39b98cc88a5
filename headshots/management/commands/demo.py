"""manage.py demo: the main job from selfie to receipt, through the real server, worker and purge."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from headshots.env import ROOT
from headshots.management.contact_sheet import contact_sheet
from headshots.management.site_client import SiteClient, SiteError
from headshots.services import purge
from headshots.tiers import TIERS
from pipelines.sample import sample_selfie

START_SECONDS: Final = 180  # the first start on a cold disk reads a gigabyte of libraries
ORDER_SECONDS: Final = 600
RECEIPT_SECONDS: Final = 180
LIMITS: Final = ("FREE_PER_HOUR", "FREE_PER_DAY", "PREMIUM_PER_HOUR", "PREMIUM_PER_DAY")


class Command(BaseCommand):
    help = (
        "Show the whole service: start the site, a worker and the purge, post a selfie to the API, wait for "
        "the portraits, save them with a contact sheet, delete the order and print its receipt."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("selfie", type=Path, nargs="?", help="your photo; default: a NASA portrait")
        parser.add_argument("--tier", choices=sorted(TIERS), default="free", help="default free")
        parser.add_argument(
            "--style", action="append", default=[], help="a style of the tier; repeat for several"
        )
        parser.add_argument(
            "--out", type=Path, default=ROOT / ".demo", help="folder for the pictures (default .demo)"
        )
        parser.add_argument(
            "--keep", action="store_true", help="leave the order in the store instead of deleting it"
        )
        parser.add_argument("--json", action="store_true", help="one machine-readable line for each event")

    def handle(self, *args: Any, **options: Any) -> None:
        self.console = Console(stderr=True, quiet=options["json"], highlight=False)
        self.as_json = options["json"]
        selfie = _selfie(options["selfie"])
        try:
            with _service(self.console) as client:
                self._run(client, selfie, options)
        except SiteError as error:
            raise CommandError(f"{error.code}: {error}", returncode=2) from None

    def _run(self, client: SiteClient, selfie: bytes, options: dict[str, Any]) -> None:
        started = time.monotonic()
        order = client.place(selfie, tier=options["tier"], styles=tuple(options["style"]))
        self._say("placed", f"Order placed: {order['headshots']} headshots, sealed selfie", order=order["id"])
        final = self._follow(client, order)
        if final["state"] != "ready":
            problem = final["problem"] or {
                "code": "failed",
                "message": "No picture could be made.",
                "advice": "",
            }
            raise SiteError(problem["code"], f"{problem['message']} {problem['advice']}")
        self._save(client, order, final, options["out"])
        self._say(
            "ready",
            f"{final['done']} of {final['headshots']} finished",
            seconds=round(time.monotonic() - started, 1),
        )
        if options["keep"]:
            self._say("kept", f"Kept until {final['expires_at']}", objects=purge.objects_left())
            return
        self._delete(client, order)

    def _follow(self, client: SiteClient, order: dict[str, Any]) -> dict[str, Any]:
        """Show progress until the order is final, paying on the way where it has to be paid."""
        columns = (
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console) as progress:
            bar = progress.add_task("assessing", total=order["headshots"])
            shown: dict[str, Any] = order
            while True:
                for shown in client.watch(order, timeout_seconds=ORDER_SECONDS):
                    progress.update(
                        bar, completed=shown["done"], description=shown["state"].replace("_", " ")
                    )
                if shown["state"] != "awaiting_payment":
                    return shown
                client.pay(order)
                self._say("paid", "Paid at the TEST checkout: no card, no money")

    def _save(self, client: SiteClient, order: dict[str, Any], final: dict[str, Any], out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        sheet = []
        for shot in final["shots"]:
            if shot["state"] != "done":
                continue
            jpeg = client.picture(order, shot["index"])
            path = out / f"headshot-{shot['index']:02d}-{shot['style']}.jpg"
            path.write_bytes(jpeg)
            sheet.append((f"{shot['index']}  {shot['style']}  {shot['width']} x {shot['height']}", jpeg))
            self._say("saved", f"{path}", width=shot["width"], height=shot["height"], bytes=len(jpeg))
        (out / "contact-sheet.jpg").write_bytes(contact_sheet(sheet))
        self._say("sheet", f"{out / 'contact-sheet.jpg'}")

    def _delete(self, client: SiteClient, order: dict[str, Any]) -> None:
        receipt_id = client.delete(order)
        self._say("deleted", "Keys destroyed and objects deleted; looking a second time", receipt=receipt_id)
        deadline = time.monotonic() + RECEIPT_SECONDS
        while (receipt := client.receipt(receipt_id))["state"] != "purged":
            if time.monotonic() > deadline:
                raise SiteError("timeout", f"the deletion has no receipt after {RECEIPT_SECONDS} s")
            time.sleep(0.3)
        try:
            client.order(order)
        except SiteError as gone:
            self._say("gone", f"The order answers now: {gone}", code=gone.code)
        else:
            raise SiteError("still_there", "the order can still be read after its deletion")
        if not self.as_json:
            self.stdout.write("\n" + receipt["text"])
        left = purge.objects_left()
        self._say("receipt", f"{left} objects left", objects_left=left, text=receipt["text"])

    def _say(self, event: str, line: str, **facts: Any) -> None:
        if self.as_json:
            self.stdout.write(json.dumps({"event": event, "line": line, **facts}))
        else:
            self.stdout.write(line)
        self.stdout.flush()


def _selfie(path: Path | None) -> bytes:
    if path is None:
        return sample_selfie()
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from None


@contextmanager
def _service(console: Console) -> Iterator[SiteClient]:
    """The service on a free port of this machine, stopped again at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    client = SiteClient(f"http://localhost:{port}")
    log = sys.stderr if settings.DEBUG else subprocess.DEVNULL
    with subprocess.Popen(
        [sys.executable, str(ROOT / "manage.py"), "dev", "--port", str(port)],
        # Whoever looks at it may look often; what a free order costs stays as it is.
        env={**os.environ, "SITE_URL": client.base_url, **dict.fromkeys(LIMITS, "1000")},
        stdout=log,
        stderr=log,
    ) as service:
        try:
            with console.status("Starting the site, the workers and the purge"):
                _wait_until_ready(client, service)
            yield client
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait()


def _wait_until_ready(client: SiteClient, service: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while not client.is_ready():
        if service.poll() is not None:
            raise SiteError(
                "not_started", f"the service ended with code {service.returncode} before it was ready"
            )
        if time.monotonic() > deadline:
            raise SiteError("not_started", f"the service was not ready after {START_SECONDS} s")
        time.sleep(0.1)
