"""python -m tests.bench.overlap: does the device ever wait for the rest of the service?

The real loop, claims, finishing, sealing and commits, on SQLite and a disk, over a device that only takes
time: it sleeps for as long as an H200 is busy at half of its measured 790 TFLOP/s. Three sections:

overlap     wall over device time while a pack is rendered, and the device's idle share until its last step
scheduling  what the loop does between two steps of a full batch in which no picture came or went
finishing   4K pictures a second of one core, from pixels to sealed bytes, against Pillow + Fernet and against
            libjpeg-turbo alone

The JSON is kept beside this file. `--quick` is a small run, for a test.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

import cv2
import numpy as np
import torch

from pipelines import compat

compat.install()

from pipelines.instantid import engine as loop  # noqa: E402
from pipelines.instantid.samples import seeded  # noqa: E402
from pipelines.presets import HEIGHT, WIDTH  # noqa: E402
from pipelines.types import FailedShot, FinishedShot, OutputSpec, Pixels, QualityReport, ShotRequest  # noqa: E402
from tests.paying import pay  # noqa: E402

TARGETS: Final = {
    "wall_over_device": 1.05,
    "idle_share": 0.02,
    "scheduling_milliseconds_per_step": 1.0,
    "finishing_over_libjpeg": 0.6,
}
SLOTS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds a device is busy with one picture's part, whatever else is in the batch."""

    step: float
    decode: float
    enlarge: float

    def scaled(self, factor: float) -> "Costs":
        """The same device, faster."""
        return Costs(step=self.step * factor, decode=self.decode * factor, enlarge=self.enlarge * factor)


# 586 TFLOP in 30 steps, at 395 TFLOP/s; VAE and Real-ESRGAN at what is aimed at on that device.
H200: Final = Costs(step=586 / 395 / 30, decode=0.040, enlarge=0.125)
STEPS: Final = 30


@dataclass(slots=True, eq=False)
class Device:
    """Takes time, and remembers when: (began, ended, pictures in the batch; 0 outside of denoising).

    `processor` holds, for each call, what the calling thread had used of a processor before and after it.
    """

    costs: Costs
    picture: Pixels
    large: Pixels
    calls: list[tuple[float, float, int]] = field(default_factory=list)
    processor: list[tuple[float, float]] = field(default_factory=list)

    def busy(self, seconds: float, batch: int = 0) -> None:
        """Sleep, as a thread that waits for a device does: without the interpreter."""
        began, used = time.perf_counter(), time.thread_time()
        time.sleep(seconds)
        self.calls.append((began, time.perf_counter(), batch))
        self.processor.append((used, time.thread_time()))

    def step(self, models: Any, samples: "Sequence[Shot]") -> "list[Shot]":
        """In place of `denoise_step`."""
        self.busy(self.costs.step * len(samples), len(samples))
        return [replace(sample, left=sample.left - 1) for sample in samples]

    def decode(self, vae: Any, latents: Any) -> Pixels:
        """In place of the VAE."""
        self.busy(self.costs.decode)
        return self.picture

    def enlarge(self, native: Pixels, long_edge: int) -> Pixels:
        """In place of Real-ESRGAN, with the copy off the device."""
        began = time.perf_counter()
        copied = self.large.copy()
        self.busy(max(0.0, self.costs.enlarge - (time.perf_counter() - began)))
        self.calls[-1] = (began, *self.calls[-1][1:])
        return copied

    @property
    def seconds(self) -> float:
        """How long it was busy."""
        return sum(ended - began for began, ended, _ in self.calls)

    @property
    def span(self) -> float:
        """From its first call to the end of its last."""
        return self.calls[-1][1] - self.calls[0][0]


@dataclass(frozen=True, slots=True)
class Shot:
    """In place of a sample: the count of its steps, and the generator whose state is kept over each."""

    shot_id: str
    left: int
    generator: torch.Generator
    latents: None = None

    @property
    def is_done(self) -> bool:
        """As a sample has it."""
        return self.left == 0


def photo(width: int = WIDTH, height: int = HEIGHT) -> Pixels:
    """The sample portrait at that size, with the fine grain of a rendered picture."""
    from pipelines.images import decode_jpeg
    from pipelines.sample import sample_selfie
    from pipelines.sandbox import clean_portrait_in_sandbox

    portrait = decode_jpeg(clean_portrait_in_sandbox(sample_selfie()))
    sized = cv2.resize(portrait, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    noise = np.random.default_rng(0).normal(0, 2, sized.shape).astype(np.int16)
    return np.clip(sized + noise, 0, 255).astype(np.uint8)


@contextmanager
def engine_over(device: Device, steps: int) -> Iterator[loop.InstantIdEngine]:
    """The real loop over that device; the gate lets everything pass."""

    def begin(parts: Any, prompts: Any, person: Any, request: ShotRequest, seed: int) -> Any:
        return SimpleNamespace(sample=Shot(request.shot_id, steps, seeded(seed)), remade=None)

    parts: Any = SimpleNamespace(
        models=None,
        vae=None,
        upscaler=SimpleNamespace(enlarge=device.enlarge),
        is_random=False,
        analysis=None,
        judge=None,
        is_unsafe=lambda picture: False,
        thresholds=None,
        proof={},
    )
    with mock.patch.multiple(
        loop,
        begin=begin,
        make_person=lambda *portraits: SimpleNamespace(reference=None),
        denoise_step=device.step,
        decode=device.decode,
        require_finite=lambda sample: sample,
        assess_headshot=lambda *picture, **parts: QualityReport(measures={}),
    ):
        yield loop.InstantIdEngine(parts, SLOTS)


# --- the sections -------------------------------------------------------------------------------------------


def measure_overlap(device: Device, steps: int) -> dict[str, float]:
    """Render everything that is claimable, as the task does. Django is set up, orders are placed."""
    from headshots.rendering import RenderRun, kept_alive

    run, deliveries, threads = RenderRun(), [0.0], {threading.get_ident()}

    def sink(result: FinishedShot | FailedShot) -> None:
        assert isinstance(result, FinishedShot), result
        began = time.perf_counter()
        run.sink(result)
        deliveries.append(time.perf_counter() - began)
        threads.add(threading.get_ident())

    with engine_over(device, steps) as engine, kept_alive(run):
        began = time.perf_counter()
        engine.run(run.source, sink, run.is_cancelled)
        wall = time.perf_counter() - began
    pauses = _pauses_of_full_batches(device) or [(0.0, 0.0)]  # a pack of less than a batch has none
    quiet = [pause for pause, _ in pauses]
    return {
        "pictures": len(deliveries) - 1,
        "delivering_threads": len(threads) - 1,
        "wall_seconds": wall,
        "device_seconds": device.seconds,
        "wall_over_device": wall / device.seconds,
        "idle_share": 1 - device.seconds / device.span,
        "seal_and_commit_seconds_per_picture": statistics.mean(deliveries[1:]),
        "scheduling_milliseconds_per_step": 1000 * statistics.mean(quiet),
        "scheduling_milliseconds_per_step_p50": 1000 * statistics.median(quiet),
        "scheduling_processor_milliseconds_per_step": 1000 * statistics.mean(used for _, used in pauses),
        "scheduling_milliseconds_per_step_p99": 1000 * sorted(quiet)[int(0.99 * len(quiet))],
    }


def _pauses_of_full_batches(device: Device) -> list[tuple[float, float]]:
    """Between two full steps with nothing in between but the loop itself: seconds, and of the processor."""
    timed = list(zip(device.calls, device.processor, strict=True))
    return [
        (later[0] - earlier[1], later_used[0] - earlier_used[1])
        for (earlier, earlier_used), (later, later_used) in pairwise(timed)
        if earlier[2] == later[2] == SLOTS
    ]


def measure_finishing(large: Pixels, turns: int) -> dict[str, float]:
    """Pictures for each second of processor time of one thread, the best of `turns`."""
    from io import BytesIO
    from uuid import uuid4

    from cryptography.fernet import Fernet
    from PIL import Image

    from headshots.vault.envelope import Kind, ObjectName, seal_object
    from pipelines.finish import QUALITY, finish
    from pipelines.provenance import SourceType

    output = OutputSpec(long_edge=max(large.shape), is_watermarked=False)
    name = ObjectName(order_id=uuid4(), object_id=uuid4(), kind=Kind.HEADSHOT, index=1, generation=1)
    key, fernet = os.urandom(32), Fernet(Fernet.generate_key())

    def ours() -> None:
        done = finish(large, output=output, marks=(), source_type=SourceType.GENERATED)
        seal_object(key, name, done.jpeg)
        seal_object(key, name, done.preview_jpeg)

    def pillow_and_fernet() -> None:
        out = BytesIO()
        Image.fromarray(large, "RGB").save(out, "JPEG", quality=QUALITY, subsampling=0)
        fernet.encrypt(out.getvalue())

    def libjpeg() -> None:
        sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, QUALITY, *sampling])

    rates = {
        call.__name__: 1 / _processor_seconds(call, turns) for call in (ours, pillow_and_fernet, libjpeg)
    }
    return {
        "pictures_per_core_second": rates["ours"],
        "pillow_and_fernet_per_core_second": rates["pillow_and_fernet"],
        "libjpeg_per_core_second": rates["libjpeg"],
        "finishing_over_pillow_and_fernet": rates["ours"] / rates["pillow_and_fernet"],
        "finishing_over_libjpeg": rates["ours"] / rates["libjpeg"],
    }


def _processor_seconds(call: Callable[[], None], turns: int) -> float:
    taken = []
    for _ in range(turns):
        began = time.thread_time()
        call()
        taken.append(time.thread_time() - began)
    return min(taken)


# --- the run ------------------------------------------------------------------------------------------------


def measure(*, scale: float, steps: int, turns: int, large_edge: int) -> dict[str, Any]:
    """All sections. Django is set up and its orders are placed; `scale` makes the device faster."""
    picture, large = photo(), photo(round(WIDTH * large_edge / HEIGHT), large_edge)
    costs = H200.scaled(scale)
    return {
        "overlap": measure_overlap(Device(costs, picture, large), steps),
        "finishing": measure_finishing(large, turns),
    }


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small pack on a device five times as fast")
    options = parser.parse_args()
    os.environ["HEADSHOTS_DATA"] = tempfile.mkdtemp(prefix="headshots-overlap-")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "headshots.settings")
    cv2.setNumThreads(1)
    import django

    django.setup()
    place_pack(16 if options.quick else 48)
    scale, steps = (0.2, 10) if options.quick else (1.0, STEPS)
    result = {
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "targets": TARGETS,
        **measure(scale=scale, steps=steps, turns=7, large_edge=3840),
    }
    text = json.dumps(result, indent=1, default=float)
    if not options.quick:
        (Path(__file__).parent / "results" / "overlap.json").write_text(text + "\n")
    sys.stdout.write(text + "\n")


def place_pack(headshots: int) -> None:
    """A database with one paid premium order of that many headshots."""
    from django.core.management import call_command

    from headshots import tiers
    from headshots.models import Order
    from headshots.services import clock, orders
    from headshots.services.consent import Consent
    from pipelines.sample import sample_selfie

    call_command("migrate", verbosity=0, skip_checks=True)
    call_command("seed_styles", stdout=sys.stderr)
    tiers.TIERS["premium"] = replace(tiers.TIERS["premium"], headshots=headshots, spares=0)
    placed = orders.place(
        raw=sample_selfie(),
        tier_slug="premium",
        style_slugs=(),
        agreed=Consent(is_given=True, is_adult=True),
        upload_id=None,
        now=clock.now(),
    )
    orders.accept(placed.order, clock.now())
    pay(Order.objects.get(), clock.now())


if __name__ == "__main__":
    main()
