"""python -m tests.bench.flops: the work of one picture at full size, ours over the stock way; no GPU needed.

Counts floating-point operations of matrix products and convolutions (one multiply-add is two) and ATen
operations that are not mere views, while both loops run for real, at 896 x 1152 on the meta device, where
tensors have shapes and no numbers. Ratios below 1 are work not done. The result is kept beside this file.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pipelines import compat

compat.install()

import diffusers  # noqa: E402
import torch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from pipelines.instantid.denoise import denoise_step  # noqa: E402
from pipelines.instantid.schedulers import build_schedule  # noqa: E402
from tests.bench.full_size import FULL, SCHEDULER, Architecture, build_models, encode, shot  # noqa: E402
from tests.bench.stock import stock_call, stock_pipeline  # noqa: E402
from tests.bench.trees import layout  # noqa: E402

STEPS: Final = 30
WINDOW: Final = 0.8
DTYPE: Final = torch.bfloat16
META: Final = torch.device("meta")
RESULT: Final = Path(__file__).parent / "results" / "flops.json"


@dataclass(frozen=True, slots=True)
class Plan:
    """How a picture is guided, and in which share of the steps IdentityNet acts."""

    method: str
    window: float


PLAIN: Final = Plan("plain", WINDOW)
WITHOUT_WINDOW: Final = Plan("plain", 1.0)
INTERVAL: Final = Plan("apg_interval", WINDOW)


@dataclass(frozen=True, slots=True)
class Work:
    """What was executed: `operations` make or move numbers, and `views` do not."""

    flop: int = 0
    operations: int = 0
    views: int = 0

    def __add__(self, other: "Work") -> "Work":
        """Both together."""
        return Work(self.flop + other.flop, self.operations + other.operations, self.views + other.views)

    def __sub__(self, other: "Work") -> "Work":
        """What was done since `other`."""
        return Work(self.flop - other.flop, self.operations - other.operations, self.views - other.views)


class _Operations(TorchDispatchMode):
    """Counts ATen operations as a GPU executes them: composite ones by their parts, attention as one."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.views = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.ops.aten.scaled_dot_product_attention.default:
            # The meta device would take it apart; a GPU has one kernel for it.
            return self.__torch_dispatch__(
                torch.ops.aten._scaled_dot_product_flash_attention.default, types, args[:3]
            )[0]
        if torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd"):
            with self:
                return function.decompose(*args, **kwargs or {})
        if function.is_view:
            self.views += 1
        else:
            self.count += 1
        return function(*args, **kwargs or {})


class Counter:
    """The work done inside `with counter:`, networks' repeated calls included without repeating them."""

    def __init__(self) -> None:
        self._flop = FlopCounterMode(display=False)
        self._operations = _Operations()
        self._known = Work()

    def __enter__(self) -> "Counter":
        self._flop.__enter__()
        self._operations.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._operations.__exit__(*error)
        self._flop.__exit__(*error)

    @property
    def work(self) -> Work:
        """Up to now."""
        executed = Work(self._flop.get_total_flops(), self._operations.count, self._operations.views)
        return executed + self._known

    @contextmanager
    def each_layout_once(self, *networks: Any) -> Iterator[None]:
        """Within, a call with inputs of a known layout answers what the first one did, at its work.

        On the meta device all answers of one shape are the same, and only the networks take time.
        """
        for network in networks:
            network.forward = self._remembering(network.forward)
        try:
            yield
        finally:
            for network in networks:
                del network.forward

    def _remembering(self, forward: Any) -> Any:
        seen: dict[str, tuple[Any, Work]] = {}

        def call(*args: Any, **kwargs: Any) -> Any:
            key = layout((args, kwargs))
            if key in seen:
                answer, work = seen[key]
                self._known += work
                return answer
            before = self.work
            answer = forward(*args, **kwargs)
            seen[key] = answer, self.work - before
            return answer

        return call


def ours(architecture: Architecture = FULL, *plans: Plan) -> list[Work]:
    """One picture of each plan by our loop, all that could be shared between pictures encoded for each."""
    models = build_models(architecture, META, DTYPE)
    build_schedule(SCHEDULER, STEPS)  # made once for all pictures, so it is no picture's work
    counter, works = Counter(), list[Work]()
    with torch.inference_mode(), counter, counter.each_layout_once(models.unet, models.identitynet):
        for plan in plans:
            before = counter.work
            sample = shot(
                architecture,
                encode(architecture, models),
                seed=1,
                steps=STEPS,
                method=plan.method,
                window=plan.window,
            )
            while not sample.is_done:
                (sample,) = denoise_step(models, [sample])
            works.append(counter.work - before)
    return works


def stock(architecture: Architecture = FULL, *, window: float = WINDOW) -> Work:
    """One picture by diffusers' pipeline."""
    pipe = stock_pipeline(architecture, META, DTYPE)
    counter = Counter()
    with torch.inference_mode(), counter, counter.each_layout_once(pipe.unet, pipe.controlnet):
        stock_call(architecture, pipe, seed=1, steps=STEPS, window=window)
    return counter.work


def ratios(work: Work, of: Work) -> dict[str, float]:
    """`work` over `of`, unrounded."""
    return {
        "flop": work.flop / of.flop,
        "operations": work.operations / of.operations,
        "operations_and_views": (work.operations + work.views) / (of.operations + of.views),
    }


def main() -> None:
    """Count, print, keep."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    peer = stock()
    plans = (WITHOUT_WINDOW, PLAIN, INTERVAL)
    counted = dict(zip(plans, ours(FULL, *plans), strict=True))
    result = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "picture": [FULL.width, FULL.height],
        "steps": STEPS,
        "scheduler": SCHEDULER,
        "stock": asdict(peer),
        "ours": [
            {
                **asdict(plan),
                **asdict(work),
                "ratios": {key: round(value, 4) for key, value in ratios(work, peer).items()},
            }
            for plan, work in counted.items()
        ],
    }
    text = json.dumps(result, indent=1)
    RESULT.write_text(text + "\n")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
