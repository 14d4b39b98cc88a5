"""python -m tests.bench.pack: a premium pack of fifty in 4K on tiny random weights, and a GPU worker's start.

What a pack costs beside its networks, which are tiny here: the loop, fifty upscalings by tiles, fifty gates
and fifty JPEGs of 2987 x 3840. The pack is rendered in a process of its own, by one thread of torch and with
as many slots as a worker has by default; its seconds are given by the clock and in processor time, which a
busy machine changes less. A worker's start counts from the shell's command to its engine's first step.
The JSON is kept beside this file.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

from tests.bench.installation import MIB, machine

PICTURES: Final = 50
ROOT: Final = Path(__file__).parents[2]
SLOTS: Final = 8
PATIENCE_SECONDS: Final = 240
LIBRARIES: Final = ("torch", "diffusers", "transformers", "insightface", "basicsr", "realesrgan")
IMPORTS: Final = """
import time
started = time.perf_counter()
from pipelines import compat
compat.install()
import pipelines.instantid.engine, pipelines.instantid.loading
print(time.perf_counter() - started)
"""


def main() -> None:
    """Measure in processes of their own, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one picture; nothing is kept")
    parser.add_argument("--here", type=Path, metavar="WEIGHTS", help="the pack, in this process")
    options = parser.parse_args()
    pictures = 1 if options.quick else PICTURES
    if options.here:
        sys.stdout.write(json.dumps(render(options.here, pictures)))
        return
    with tempfile.TemporaryDirectory(prefix="headshots-bench-") as folder:
        weights = Path(folder) / "tiny"
        _python("manage.py", "weights", "tiny", str(weights))
        quick = ("--quick",) if options.quick else ()
        result = {
            **machine(),
            "imports_seconds": round(float(_python("-c", IMPORTS)), 1),
            "worker_start_seconds": start_worker(Path(folder), weights),
            "pack": json.loads(_python("-m", "tests.bench.pack", "--here", str(weights), *quick)),
        }
    text = json.dumps(result, indent=1)
    if not options.quick:
        (Path(__file__).parent / "results" / "pack.json").write_text(text + "\n")
    sys.stdout.write(text + "\n")


def _python(*arguments: str, **environment: str) -> str:
    command = [sys.executable, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def start_worker(folder: Path, weights: Path) -> float:
    """Seconds from the command to the first step of the worker's engine, by the worker's own word.

    Raises RuntimeError when it ends without one.
    """
    data = folder / "data"
    data.mkdir(mode=0o700)
    settings = {
        "HEADSHOTS_DATA": str(data),
        "ENGINE": "instantid",
        "WEIGHTS": str(weights),
        "DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    _python("manage.py", "migrate", "-v0", "--skip-checks", **settings)
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "manage.py", "worker", "gpu"],
        cwd=ROOT,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as worker:
        assert worker.stdout
        patience = threading.Timer(PATIENCE_SECONDS, worker.kill)
        patience.start()
        try:
            for line in worker.stdout:
                if "made its first step" in line:
                    return round(time.perf_counter() - started, 1)
        finally:
            patience.cancel()
            worker.terminate()
    raise RuntimeError(f"the worker ended with code {worker.returncode} before its first step")


def render(weights: Path, count: int) -> dict[str, Any]:
    """`count` pictures over the eight styles through the engine of a worker. Raises AssertionError if one
    is missing or of the wrong size."""
    import importlib.metadata

    import torch

    from pipelines.engine import load_engine
    from pipelines.images import decode_jpeg
    from pipelines.sample import sample_selfie
    from pipelines.styles import BUILTIN
    from pipelines.types import EngineConfig, FailedShot, FinishedShot, OutputSpec, ShotRequest

    torch.set_num_threads(1)
    config = EngineConfig(kind="instantid", weights_dir=weights, device="cpu", slots=SLOTS)
    engine = load_engine(config)
    portrait = decode_jpeg(sample_selfie())
    waiting = [
        ShotRequest(
            shot_id=f"{number}",
            identity="one",
            portrait=portrait,
            preset=BUILTIN[number % len(BUILTIN)].preset,
            seeds=(number,),
            output=OutputSpec(long_edge=3840, is_watermarked=False),
        )
        for number in range(count)
    ]
    finished: list[FinishedShot] = []
    first_at = 0.0

    def sink(result: FinishedShot | FailedShot) -> None:
        nonlocal first_at
        assert isinstance(result, FinishedShot), result
        assert (result.width, result.height) == (2987, 3840)
        first_at = first_at or time.perf_counter()
        finished.append(result)

    loaded_bytes = _peak_bytes()
    started, cpu_started = time.perf_counter(), time.process_time()
    engine.run(lambda free: [waiting.pop(0) for _ in range(min(free, len(waiting)))], sink, lambda _: False)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    assert len(finished) == count
    return {
        "pictures": count,
        "slots": SLOTS,
        "seconds": round(wall, 1),
        "first_picture_seconds": round(first_at - started, 1),
        "processor_seconds": round(cpu, 1),
        "processor_seconds_a_picture": round(cpu / count, 2),
        "jpeg_mib": round(sum(len(each.jpeg) for each in finished) / MIB, 1),
        "peak_mib_before": round(loaded_bytes / MIB),
        "peak_mib": round(_peak_bytes() / MIB),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
