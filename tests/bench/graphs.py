"""`predict` as a GPU likes it: compiled, and captured as a graph that is launched in one go."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch

from pipelines.instantid.adapter import Models
from pipelines.instantid.batch import Batch, predict
from tests.bench.trees import layout, mapped, tensors

WARM_UPS: Final = 3  # before a capture: libraries choose their algorithms and make their workspaces


@dataclass(frozen=True, slots=True)
class _Recorded:
    buffers: Batch
    run: Callable[[], torch.Tensor]


class StaticPredict:
    """In place of `predict`: numbers are copied into buffers that stay, and the same work is run on them.

    One recording for each layout of a batch (row counts, masks). On CUDA it is a captured graph; elsewhere
    the buffers are the same and the work is run as usual, so that the copying can be checked. The answer is
    a buffer too: it holds until the next call.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._pool = torch.cuda.graph_pool_handle() if self._is_cuda else None
        self._recorded: dict[str, _Recorded] = {}

    def __len__(self) -> int:
        """How many layouts have been met."""
        return len(self._recorded)

    def __call__(self, models: Models, batch: Batch) -> torch.Tensor:
        """As `predict`."""
        key = layout(batch)
        if key not in self._recorded:
            buffers = mapped(batch, lambda tensor: tensor.clone())
            run = self._captured(models, buffers) if self._is_cuda else lambda: predict(models, buffers)
            self._recorded[key] = _Recorded(buffers, run)
        recorded = self._recorded[key]
        for buffer, tensor in zip(tensors(recorded.buffers), tensors(batch), strict=True):
            buffer.copy_(tensor)
        return recorded.run()

    def _captured(self, models: Models, buffers: Batch) -> Callable[[], torch.Tensor]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                predict(models, buffers)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            answer = predict(models, buffers)

        def run() -> torch.Tensor:
            graph.replay()
            return answer

        return run


def compile_networks(models: Models, backend: str | Callable[..., Any] = "inductor") -> None:
    """Both networks compiled whole, each as one graph; with the second row count its rows become symbolic.

    Not block by block: every cross-attention reads columns of its own, so that each would compile anew.
    """
    for network in (models.unet, models.identitynet):
        network.compile(backend=backend, fullgraph=True)
