"""python -m tests.bench.gpu: the engine's speed on a device, and the stock way beside it in the same run.

At full size (random weights, no download) on CUDA: the device's own ceiling for matrix products, denoising
by batch size and mode against that ceiling, decoding, enlarging, whole packs with finishing, peak memory.
With --tiny, the default without CUDA, the same code on the tiny bundle's architecture: it shows that the
bench works, and its times say nothing of a GPU. What runs out of memory says so and the others go on; the
JSON is written after each section.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from pipelines import compat

compat.install()

import diffusers  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from pipelines.finish import Finished, finish  # noqa: E402
from pipelines.instantid import batch as batching  # noqa: E402
from pipelines.instantid import denoise  # noqa: E402
from pipelines.instantid.engine import FINISHERS, decode  # noqa: E402
from pipelines.instantid.samples import Sample, require_finite  # noqa: E402
from pipelines.provenance import SourceType  # noqa: E402
from pipelines.types import OutputSpec, Pixels  # noqa: E402
from tests.bench.flops import DTYPE, META, Counter  # noqa: E402
from tests.bench.full_size import FULL, TINY, Architecture, build_models, build_vae, encode, shot  # noqa: E402
from tests.bench.graphs import StaticPredict, compile_networks  # noqa: E402
from tests.bench.measuring import Bench, attempted, has_failed, rounded  # noqa: E402
from tests.bench.stock import StockUpscaler, stock_call, stock_pipeline  # noqa: E402

BATCHES: Final = (1, 2, 4, 8, 16)
SLOTS: Final = 8
STOCK_PICTURES: Final = 2
CEILING_SIDE: Final = {"cuda": 8192, "cpu": 1024}
TINY_STEPS: Final = 4
NOT_HERE: Final = "not on this device"

Predict = Callable[[Any, Any], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Pack:
    """What a tier delivers; `is_enlarged` by the network to 4K."""

    count: int
    is_enlarged: bool


PACKS: Final = {
    "pack of 3": Pack(3, is_enlarged=False),
    "pack of 50 in 4K": Pack(50, is_enlarged=True),
}


def ceiling(bench: Bench) -> dict[str, Any]:
    """Square matrix products, in the dtype of the networks: the most that any network can reach."""
    side, dtype = CEILING_SIDE[bench.device.type], bench.models.dtype
    # Never zeros: a device that draws less power for them is faster than it will ever be in earnest.
    a, b = (torch.randn(side, side, device=bench.device, dtype=dtype) for _ in range(2))
    taken = bench.seconds(lambda: a @ b)
    return {"side": side, "dtype": str(dtype), "tflop_per_second": 2 * side**3 / taken / 1e12}


def eager(bench: Bench) -> dict[str, Any]:
    """Denoising as the engine does it."""
    return _denoising(bench, batching.predict)


def static(bench: Bench) -> dict[str, Any]:
    """The same over static buffers: on CUDA a captured graph."""
    captured = True if bench.is_cuda else NOT_HERE
    return {"captured": captured, **_denoising(bench, StaticPredict(bench.device))}


def compiled(bench: Bench) -> dict[str, Any] | str:
    """The same with compiled networks, plain and captured. The last section: compiled they stay."""
    if not bench.is_cuda:
        return NOT_HERE
    compile_networks(bench.models)
    return {
        "plain": _denoising(bench, batching.predict),
        "captured": _denoising(bench, StaticPredict(bench.device)),
    }


def neighbours(bench: Bench) -> dict[str, Any]:
    """How far a picture made in a batch is from the same picture made alone, in levels of 255.

    A device chooses its kernels by the batch's shape, and in half precision another order of adding shows.
    """
    alone = _first_of(bench, 1)

    def measured(count: int) -> dict[str, Any]:
        levels = np.abs(_first_of(bench, count).astype(np.int16) - alone)
        return {
            "largest_level": int(levels.max()),
            "mean_level": float(levels.mean()),
            "changed_share": float((levels > 0).mean()),
        }

    return {str(count): attempted(lambda count=count: measured(count)) for count in BATCHES}


def _first_of(bench: Bench, count: int) -> Pixels:
    """The first picture of so many that are made together, from the first step to its pixels."""
    flying = bench.shots(count)
    while not flying[0].is_done:
        flying = denoise.denoise_step(bench.models, flying)
    return decode(bench.vae, require_finite(flying[0]).latents)


def decoding(bench: Bench) -> dict[str, Any]:
    """Latents to 8-bit pixels off the device."""
    (sample,) = bench.shots(1)
    taken = bench.seconds(lambda: decode(bench.vae, sample.latents))
    return {"milliseconds_per_picture": 1e3 * taken}


def enlarging(bench: Bench) -> dict[str, Any]:
    """Native pixels to 4K pixels off the device."""
    size = (bench.architecture.height, bench.architecture.width, 3)
    picture = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    taken = bench.seconds(lambda: bench.upscaler.enlarge(picture, bench.architecture.delivered))
    return {"milliseconds_per_picture": 1e3 * taken}


def packs(bench: Bench) -> dict[str, Any]:
    """Wall seconds of whole packs, from the first encoding to the last JPEG."""
    ways: dict[str, Predict] = {"eager": batching.predict}
    if bench.is_cuda:
        ways["captured"] = StaticPredict(bench.device)

    def measured(pack: Pack, predict: Predict) -> dict[str, Any]:
        done: list[Finished] = []
        with predicting(predict):
            make(bench, replace(pack, count=1))  # what happens once in a process does not count
            taken = bench.wall(lambda: done.extend(make(bench, pack)))
        return {
            "seconds": taken,
            "seconds_per_picture": taken / pack.count,
            "pictures": len(done),
            "size": [done[0].width, done[0].height],
        }

    return {
        name: {way: attempted(lambda p=pack, by=by: measured(p, by)) for way, by in ways.items()}
        for name, pack in PACKS.items()
    }


def stock(bench: Bench) -> dict[str, Any]:
    """The same pictures the stock way, one a call; a pack is so many times the mean of a few."""
    dtype = torch.float16 if bench.is_cuda else torch.float32  # as InstantID's own scripts
    vae = build_vae(bench.architecture, bench.device, dtype)
    pipe = stock_pipeline(bench.architecture, bench.device, dtype, vae)
    upscaler = StockUpscaler(bench.architecture, bench.device)

    def picture(seed: int, pack: Pack) -> bytes:
        made = stock_call(bench.architecture, pipe, seed=seed, steps=bench.steps, output_type="pil")
        if pack.is_enlarged:
            large = upscaler.enlarge(np.asarray(made), bench.architecture.delivered)
            made = Image.fromarray(large)
        jpeg = BytesIO()
        made.save(jpeg, "JPEG", quality=95)
        return jpeg.getvalue()

    def measured(pack: Pack) -> dict[str, Any]:
        picture(0, pack)
        each = statistics.mean(
            bench.wall(lambda seed=seed: picture(seed, pack)) for seed in range(STOCK_PICTURES)
        )
        return {"seconds": each * pack.count, "seconds_per_picture": each, "pictures": STOCK_PICTURES}

    return {name: attempted(lambda p=pack: measured(p)) for name, pack in PACKS.items()}


def ratios(bench: Bench) -> dict[str, Any]:
    """Our seconds over the stock way's, pack by pack, both of this run."""
    ours, theirs = bench.results.get("packs"), bench.results.get("stock")
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        return {}
    return {
        name: {
            way: measured["seconds"] / theirs[name]["seconds"]
            for way, measured in ours[name].items()
            if isinstance(measured, dict) and isinstance(theirs[name], dict)
        }
        for name in PACKS
    }


SECTIONS: Final[dict[str, Callable[[Bench], Any]]] = {
    section.__name__: section
    for section in (
        ceiling,
        eager,
        static,
        neighbours,
        decoding,
        enlarging,
        packs,
        stock,
        ratios,
        compiled,
    )
}


def _denoising(bench: Bench, predict: Predict) -> dict[str, Any]:
    """Whole first steps by batch size: TFLOP/s, share of the ceiling, distance from eager."""
    flop = _step_flop(bench.architecture)
    known = bench.results.get("ceiling")
    limit = known["tflop_per_second"] if isinstance(known, dict) else None
    samples = bench.shots(max(BATCHES))

    def stepped(count: int) -> torch.Tensor:
        return torch.stack([one.latents for one in denoise.denoise_step(bench.models, samples[:count])])

    def measured(count: int) -> dict[str, Any]:
        want = stepped(count)
        with predicting(predict):
            started = time.perf_counter()
            difference = float((stepped(count) - want).abs().max() / want.abs().max())
            first = time.perf_counter() - started
            taken = bench.seconds(lambda: stepped(count))
        reached = count * flop / taken / 1e12
        return {
            "first_step_seconds": first,  # with compiling and capturing, where there is any
            "step_seconds": taken,
            "step_seconds_per_picture": taken / count,
            "tflop_per_second": reached,
            "share_of_ceiling": reached / limit if limit else None,
            "difference_from_eager": difference,
        }

    by_pictures = {str(count): attempted(lambda count=count: measured(count)) for count in BATCHES}
    return {"flop_per_picture_and_step": flop, "by_pictures": by_pictures}


def _step_flop(architecture: Architecture) -> int:
    """FLOP of one step of one picture, guided and with IdentityNet, counted on the meta device."""
    models = build_models(architecture, META, DTYPE)
    sample = shot(architecture, encode(architecture, models), seed=0, steps=2, window=1.0)
    with Counter() as counter:
        denoise.denoise_step(models, [sample])
    return counter.work.flop


@contextmanager
def predicting(predict: Predict) -> Iterator[None]:
    """The denoising loop as it is, with another way to run its networks."""
    with patch.object(denoise, "predict", predict):
        yield


def make(bench: Bench, pack: Pack) -> list[Finished]:
    """The pictures of a pack as the engine makes them: slots are filled as they fall free, and finishing in
    threads overlaps with denoising."""
    output = _output(bench.architecture, pack)
    waiting, flying = deque(bench.shots(pack.count)), list[Sample]()
    finishing: list[Future[Finished]] = []
    with ThreadPoolExecutor(FINISHERS) as finishers:
        while waiting or flying:
            while waiting and len(flying) < SLOTS:
                flying.append(waiting.popleft())
            moved = denoise.denoise_step(bench.models, flying)
            flying = [sample for sample in moved if not sample.is_done]
            for sample in moved:
                if sample.is_done:
                    pixels = _picture(bench, sample, pack)
                    finishing.append(
                        finishers.submit(
                            finish, pixels, output=output, marks=(), source_type=SourceType.GENERATED
                        )
                    )
        return [future.result() for future in finishing]


def _picture(bench: Bench, sample: Sample, pack: Pack) -> Pixels:
    pixels = decode(bench.vae, require_finite(sample).latents)
    return bench.upscaler.enlarge(pixels, bench.architecture.delivered) if pack.is_enlarged else pixels


def _output(architecture: Architecture, pack: Pack) -> OutputSpec:
    if pack.is_enlarged:
        return OutputSpec(long_edge=architecture.delivered, is_watermarked=False)
    return OutputSpec(long_edge=architecture.height, is_watermarked=True)


def main() -> None:
    """Measure section by section; print and write after each."""
    has_cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", default=not has_cuda)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if has_cuda else "cpu")
    parser.add_argument("--steps", type=int, help=f"of a picture; 30, with --tiny {TINY_STEPS}")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--out", type=Path, help="results/gpu_full.json or gpu_tiny.json beside this file")
    options = parser.parse_args()
    architecture = TINY if options.tiny else FULL
    out = options.out or Path(__file__).parent / "results" / f"gpu_{architecture.name}.json"
    steps = options.steps or (TINY_STEPS if options.tiny else 30)
    bench = Bench(architecture, torch.device(options.device), steps)
    about = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if bench.is_cuda else "cpu",
        "architecture": architecture.name,
        "picture": [architecture.width, architecture.height],
        "steps": steps,
        "slots": SLOTS,
    }
    for name in options.sections:
        bench.results[name] = bench.section(SECTIONS[name])
        sys.stdout.write(json.dumps({name: rounded(bench.results[name])}) + "\n")
        sys.stdout.flush()
        out.write_text(json.dumps(about | {"sections": rounded(bench.results)}, indent=1) + "\n")
    if has_failed(bench.results):
        raise SystemExit("some measurements failed; the others stand in the result")


if __name__ == "__main__":
    main()
