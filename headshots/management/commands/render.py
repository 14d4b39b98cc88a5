"""manage.py render: the engine alone, from a selfie file to picture files, without database or server."""

import json
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from headshots.exceptions import text_of
from headshots.tiers import TIERS
from pipelines.engine import load_engine
from pipelines.errors import PipelineError, Refused
from pipelines.images import decode_jpeg
from pipelines.sandbox import clean_portrait_in_sandbox
from pipelines.styles import BUILTIN
from pipelines.types import (
    EngineConfig,
    FailedShot,
    FinishedShot,
    OutputSpec,
    Pixels,
    ShotRequest,
)

PRESETS = {builtin.preset.slug: builtin.preset for builtin in BUILTIN}


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise ArgumentTypeError("must be a whole number above 0")
    return int(text)


class Command(BaseCommand):
    help = "Render headshots of one selfie with the engine alone: no database, no queue, nothing encrypted."
    requires_system_checks = ()
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("selfie", type=Path, help="JPEG, PNG or WebP file with one face")
        parser.add_argument(
            "--style", action="append", choices=sorted(PRESETS), help="repeat for several; default: corporate"
        )
        parser.add_argument("--count", type=_positive, default=3, help="pictures of each style (default 3)")
        parser.add_argument(
            "--seed", type=int, default=1, help="seed of the first picture; the next ones count up"
        )
        parser.add_argument("--engine", default="preview", help="which engine (default preview)")
        parser.add_argument(
            "--tier", choices=sorted(TIERS), default="premium", help="size and watermark (default premium)"
        )
        parser.add_argument(
            "--out", type=Path, default=Path("rendered"), help="folder for the pictures (default rendered)"
        )
        parser.add_argument("--json", action="store_true", help="one machine-readable line for each picture")

    def handle(self, *args: Any, **options: Any) -> None:
        portrait = _portrait(options["selfie"])
        styles = options["style"] or ["corporate"]
        queue = _requests(portrait, styles, options["count"], options["seed"], TIERS[options["tier"]].slug)
        total = len(queue)
        options["out"].mkdir(parents=True, exist_ok=True)
        failed = 0

        def sink(result: FinishedShot | FailedShot) -> None:
            nonlocal failed
            path = options["out"] / f"{result.shot_id}.jpg"
            if isinstance(result, FinishedShot):
                path.write_bytes(result.jpeg)
            else:
                failed += 1
            self._report(result, path, total - len(queue), total, as_json=options["json"])

        try:
            engine = load_engine(EngineConfig(kind=options["engine"]))
            engine.assess(portrait)
            engine.run(
                lambda free: [queue.pop(0) for _ in range(min(free, len(queue)))], sink, lambda shot_id: False
            )
        except Refused as error:
            raise _refusal(error) from None
        except PipelineError as error:
            raise CommandError(str(error)) from None
        if failed:
            raise CommandError(f"{failed} of {total} pictures could not be made", returncode=1)

    def _report(
        self, result: FinishedShot | FailedShot, path: Path, done: int, total: int, *, as_json: bool
    ) -> None:
        if isinstance(result, FailedShot):
            facts: dict[str, Any] = {"shot": result.shot_id, "error": result.code}
            line = f"{done}/{total} {result.shot_id} failed: {result.code}"
        else:
            facts = {
                "shot": result.shot_id,
                "file": str(path),
                "seed": result.seed,
                "width": result.width,
                "height": result.height,
                "seconds": round(result.seconds, 3),
                "measures": dict(result.report.measures),
            }
            line = f"{done}/{total} {path}  {result.width} x {result.height}, {result.seconds:.2f} s"
        self.stdout.write(json.dumps(facts) if as_json else line)


def _portrait(path: Path) -> Pixels:
    """The cleaned selfie, through the same sandbox as an upload."""
    try:
        return decode_jpeg(clean_portrait_in_sandbox(path.read_bytes()))
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from None
    except Refused as error:
        raise _refusal(error) from None


def _refusal(error: Refused) -> CommandError:
    text = text_of(error)
    return CommandError(f"{error.code}: {text.message} {text.advice}", returncode=2)


def _requests(portrait: Pixels, styles: list[str], count: int, seed: int, tier: str) -> list[ShotRequest]:
    output = OutputSpec(long_edge=TIERS[tier].long_edge, is_watermarked=TIERS[tier].is_watermarked)
    return [
        ShotRequest(
            shot_id=f"{style}-{number}",
            identity="selfie",
            portrait=portrait,
            preset=PRESETS[style],
            seeds=(number, number + 1_000_000, number + 2_000_000),
            output=output,
        )
        for style in styles
        for number in range(seed, seed + count)
    ]
