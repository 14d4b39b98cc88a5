"""manage.py render: the engine alone, from a selfie file to picture files, without database or server."""

import json
from argparse import ArgumentTypeError, BooleanOptionalAction
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from django.core.management.base import BaseCommand, CommandError, CommandParser
from PIL import Image

from headshots.exceptions import text_of
from headshots.tiers import TIERS
from pipelines.engine import load_assessor, load_engine
from pipelines.errors import PipelineError, Refused
from pipelines.images import decode_jpeg
from pipelines.presets import (
    CONTROL_GUIDANCE_END,
    GUIDANCE_METHODS,
    HEIGHT,
    NEGATIVE_IDENTITIES,
    SCHEDULERS,
    WIDTH,
    PresetError,
    StylePreset,
)
from pipelines.sandbox import clean_portrait_in_sandbox
from pipelines.styles import BUILTIN
from pipelines.types import (
    Box,
    EngineConfig,
    FailedShot,
    FinishedShot,
    OutputSpec,
    Pixels,
    ShotRequest,
    StartingPicture,
)

PRESETS = {builtin.preset.slug: builtin.preset for builtin in BUILTIN}


MAX_PORTRAITS = 4
# Option of the command line -> field of the preset.
OVERRIDES = {
    "guidance": "guidance_scale",
    "steps": "num_inference_steps",
    "scheduler": "scheduler",
    "method": "guidance_method",
    "negative_identity": "negative_identity",
    "control_end": "control_guidance_end",
    "mask": "is_face_masked",
}


def _area(text: str) -> Any:
    if text == "face":
        return "face"
    try:
        left, top, width, height = map(int, text.split(","))
    except ValueError:
        raise ArgumentTypeError('must be "face" or LEFT,TOP,WIDTH,HEIGHT in pixels') from None
    return Box(left=left, top=top, width=width, height=height)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise ArgumentTypeError("must be a whole number above 0")
    return int(text)


def _add_overrides(parser: CommandParser) -> None:
    parser.add_argument("--guidance", type=float, help="guidance_scale instead of the style's (7 to 12)")
    parser.add_argument("--steps", type=int, help="num_inference_steps instead of the style's (20 to 50)")
    parser.add_argument("--scheduler", help=f"instead of the style's: {', '.join(SCHEDULERS)}")
    parser.add_argument(
        "--method", help=f"guidance_method instead of the style's: {', '.join(GUIDANCE_METHODS)}"
    )
    parser.add_argument(
        "--negative-identity", help=f"instead of the style's: {', '.join(NEGATIVE_IDENTITIES)}"
    )
    low, high = CONTROL_GUIDANCE_END
    parser.add_argument(
        "--control-end",
        type=float,
        help=f"share of the steps with IdentityNet instead of the style's ({low:g} to {high:g})",
    )
    parser.add_argument(
        "--mask",
        action=BooleanOptionalAction,
        help="whether identity acts inside the face alone, instead of the style's",
    )


def _add_start(parser: CommandParser) -> None:
    parser.add_argument(
        "--start", type=Path, help="picture to change (896 x 1152), instead of pure noise; instantid"
    )
    parser.add_argument(
        "--strength", type=float, default=0.6, help="how much of --start is made anew (default 0.6)"
    )
    parser.add_argument(
        "--inpaint", type=_area, help='of --start, change only "face" or a box LEFT,TOP,WIDTH,HEIGHT'
    )


class Command(BaseCommand):
    help = "Render headshots of one selfie with the engine alone: no database, no queue, nothing encrypted."
    requires_system_checks = ()
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "selfie",
            type=Path,
            nargs="+",
            help="JPEG, HEIC, PNG or WebP file with one face; up to four of one person, of which instantid "
            "takes the mean",
        )
        parser.add_argument(
            "--style", action="append", choices=sorted(PRESETS), help="repeat for several; default: corporate"
        )
        parser.add_argument("--count", type=_positive, default=3, help="pictures of each style (default 3)")
        parser.add_argument(
            "--seed", type=int, default=1, help="seed of the first picture; the next ones count up"
        )
        parser.add_argument("--engine", default="preview", help="preview (default) or instantid")
        parser.add_argument("--weights", type=Path, help="folder of weights, for instantid")
        parser.add_argument(
            "--device", choices=("cuda", "cpu"), default="cuda", help="where instantid renders (default cuda)"
        )
        parser.add_argument(
            "--slots", type=_positive, default=8, help="instantid: pictures in flight at once (default 8)"
        )
        _add_overrides(parser)
        parser.add_argument(
            "--raw", action="store_true", help="also the native pixels before finishing, as <shot>.raw.png"
        )
        _add_start(parser)
        parser.add_argument(
            "--tier", choices=sorted(TIERS), default="premium", help="size and watermark (default premium)"
        )
        parser.add_argument(
            "--out", type=Path, default=Path("rendered"), help="folder for the pictures (default rendered)"
        )
        parser.add_argument("--json", action="store_true", help="one machine-readable line for each picture")

    def handle(self, *args: Any, **options: Any) -> None:
        queue = _requests(options)
        total = len(queue)
        options["out"].mkdir(parents=True, exist_ok=True)
        failed = 0
        requests = {request.shot_id: request for request in queue}

        def sink(result: FinishedShot | FailedShot) -> None:
            nonlocal failed
            path = options["out"] / f"{result.shot_id}.jpg"
            if isinstance(result, FinishedShot):
                path.write_bytes(result.jpeg)
                if result.native is not None:
                    Image.fromarray(result.native).save(path.with_suffix(".raw.png"))
            else:
                failed += 1
            if options["json"]:
                facts = _facts(result, path) | _plan(requests[result.shot_id], options)
                self.stdout.write(json.dumps(facts | {"engine": engine.name, "runs_on": dict(engine.proof)}))
            else:
                self.stdout.write(_line(result, path, total - len(queue), total))

        config = EngineConfig(
            kind=options["engine"],
            weights_dir=options["weights"],
            device=options["device"],
            slots=options["slots"],
        )
        try:
            load_assessor(config)(queue[0].portrait)
            engine = load_engine(config)
            engine.run(
                lambda free: [queue.pop(0) for _ in range(min(free, len(queue)))], sink, lambda shot_id: False
            )
        except Refused as error:
            raise _refusal(error) from None
        except PipelineError as error:
            raise CommandError(str(error)) from None
        if failed:
            raise CommandError(f"{failed} of {total} pictures could not be made", returncode=1)


def _line(result: FinishedShot | FailedShot, path: Path, done: int, total: int) -> str:
    if isinstance(result, FailedShot):
        return f"{done}/{total} {result.shot_id} failed: {result.code}"
    return f"{done}/{total} {path}  {result.width} x {result.height}, {result.seconds:.2f} s"


def _facts(result: FinishedShot | FailedShot, path: Path) -> dict[str, Any]:
    """What became of the shot, and what was measured on its picture."""
    if isinstance(result, FailedShot):
        return {"shot": result.shot_id, "error": result.code}
    return {
        "shot": result.shot_id,
        "file": str(path),
        "seed": result.seed,
        "width": result.width,
        "height": result.height,
        "seconds": round(result.seconds, 3),
        "measures": dict(result.report.measures),
    }


def _plan(request: ShotRequest, options: dict[str, Any]) -> dict[str, Any]:
    """Everything besides the seed that repeats the picture, given the same photos."""
    start = request.start and {
        "file": str(options["start"]),
        "strength": request.start.strength,
        "inpaint": asdict(request.start.inpaint)
        if isinstance(request.start.inpaint, Box)
        else request.start.inpaint,
    }
    return {
        "preset": asdict(request.preset),
        "tier": options["tier"],
        "output": asdict(request.output),
        "photos": 1 + len(request.further_portraits),
        "start": start,
    }


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


def _requests(options: dict[str, Any]) -> list[ShotRequest]:
    if len(options["selfie"]) > MAX_PORTRAITS:
        raise CommandError(f"at most {MAX_PORTRAITS} photos, not {len(options['selfie'])}")
    portrait, *others = (_portrait(path) for path in options["selfie"])
    tier = TIERS[options["tier"]]
    output = OutputSpec(
        long_edge=tier.long_edge, is_watermarked=tier.is_watermarked, keeps_native=options["raw"]
    )
    start = _start(options["start"], options["strength"], options["inpaint"])
    return [
        ShotRequest(
            shot_id=f"{style}-{number}",
            identity="selfie",
            portrait=portrait,
            further_portraits=tuple(others),
            preset=_preset(style, options),
            seeds=(number, number + 1_000_000, number + 2_000_000),
            output=output,
            start=start,
        )
        for style in options["style"] or ["corporate"]
        for number in range(options["seed"], options["seed"] + options["count"])
    ]


def _preset(style: str, options: dict[str, Any]) -> StylePreset:
    """The style with the numbers the command line changes."""
    changes = {field: options[name] for name, field in OVERRIDES.items() if options[name] is not None}
    try:
        return replace(PRESETS[style], **changes)
    except PresetError as error:
        raise CommandError(str(error)) from None


def _start(path: Path | None, strength: float, inpaint: Any) -> StartingPicture | None:
    if path is None:
        return None
    try:
        picture = np.asarray(Image.open(path).convert("RGB"))  # the operator's own picture, kept to the pixel
    except OSError:
        raise CommandError(f"{path} cannot be read as a picture") from None
    if picture.shape[:2] != (HEIGHT, WIDTH):
        height, width = picture.shape[:2]
        raise CommandError(f"--start must be {WIDTH} x {HEIGHT} pixels, not {width} x {height}")
    return StartingPicture(pixels=picture, strength=strength, inpaint=inpaint)
