"""What the sections of the device's bench share: networks, shots, clocks and memory."""

import gc
import resource
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

import torch

from pipelines.errors import Retryable
from pipelines.instantid.adapter import Models
from pipelines.instantid.conditioning import encode_keypoints
from pipelines.instantid.loading import NETWORK_DTYPE, PICTURE_DTYPE
from pipelines.instantid.samples import Sample
from pipelines.upscale import Upscaler
from tests.bench.full_size import (
    Architecture,
    build_models,
    build_upscaler,
    build_vae,
    encode,
    keypoint_drawing,
    shot,
)

REPEATS: Final = {"cuda": 10, "cpu": 3}
OUT_OF_MEMORY: Final = "out of memory"
FAILED: Final = "failed"


class Bench:
    """One run on one device. The networks are made when first asked for, in the engine's own dtypes."""

    def __init__(self, architecture: Architecture, device: torch.device, steps: int) -> None:
        self.architecture, self.device, self.steps = architecture, device, steps
        self.is_cuda = device.type == "cuda"
        self.results: dict[str, Any] = {}

    @cached_property
    def models(self) -> Models:
        """The networks of our loop."""
        return build_models(self.architecture, self.device, NETWORK_DTYPE[self.device.type])

    @cached_property
    def vae(self) -> Any:
        """For decoding."""
        vae = build_vae(self.architecture, self.device, PICTURE_DTYPE[self.device.type])
        return vae.to(memory_format=torch.channels_last) if self.is_cuda else vae

    @cached_property
    def upscaler(self) -> Upscaler:
        """Ours."""
        return build_upscaler(self.architecture, self.device, PICTURE_DTYPE[self.device.type])

    def shots(self, count: int) -> list[Sample]:
        """Fresh samples of one person and style, each with its own keypoints, ready to be denoised."""
        told = encode(self.architecture, self.models)
        return [
            shot(
                self.architecture,
                replace(told, control=encode_keypoints(self.models, keypoint_drawing(self.architecture, n))),
                seed=n,
                steps=self.steps,
            )
            for n in range(count)
        ]

    def seconds(self, call: Callable[[], object]) -> float:
        """The median of several calls after one that does not count."""
        call()
        return statistics.median(self.wall(call) for _ in range(REPEATS[self.device.type]))

    def wall(self, call: Callable[[], object]) -> float:
        """Seconds of one call, the device's work included."""
        self._synchronise()
        started = time.perf_counter()
        call()
        self._synchronise()
        return time.perf_counter() - started

    def section(self, measure: Callable[["Bench"], Any]) -> Any:
        """What `measure` says, with the seconds it took and the peak of memory: that of the section on CUDA,
        that of the process so far elsewhere."""
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        result = attempted(lambda: measure(self))
        if not isinstance(result, dict):
            return result
        peak = torch.cuda.max_memory_allocated() if self.is_cuda else _resident_peak_bytes()
        return result | {"peak_bytes": peak, "section_seconds": time.perf_counter() - started}

    def _synchronise(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()


def attempted(measure: Callable[[], Any]) -> Any:
    """What `measure` says, or in words what went wrong: memory ran out, or it failed.

    A bench on a rented device goes on to what it can still measure; `has_failed` tells at the end.
    """
    try:
        return measure()
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError):
            return OUT_OF_MEMORY
        if isinstance(error, Retryable) and error.code == "out_of_memory":
            return OUT_OF_MEMORY
        traceback.print_exc()
        return f"{FAILED}: {type(error).__name__}: {error}"


def has_failed(results: Any) -> bool:
    """Whether anything in nested results failed; to run out of memory is a result."""
    if isinstance(results, dict):
        return any(map(has_failed, results.values()))
    return isinstance(results, str) and results.startswith(FAILED)


def rounded(results: Any) -> Any:
    """Nested results with four significant digits: more was not measured."""
    if isinstance(results, dict):
        return {key: rounded(value) for key, value in results.items()}
    return float(f"{results:.4g}") if isinstance(results, float) else results


def _resident_peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
