"""Enlarging by Real-ESRGAN: the native picture in, the delivered size out, nothing invented about colour.

The networks are those of basicsr and realesrgan; the way through them is our own, because `RealESRGANer`
prints an error inside a tile and goes on with a stale one (realesrgan/utils.py, `tile_process`), and takes
float32 off the device.
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from pipelines import compat
from pipelines.errors import Final as FinalError
from pipelines.errors import Retryable
from pipelines.types import Pixels

EDGE: Final = 16  # reflected around the picture: the networks pad with zeros, which shows as a dark rim
# Tiles overlap by 2 * MARGIN + RAMP = 64. The outer MARGIN, where a tile misses its surroundings, counts for
# nothing; over the RAMP in the middle one tile fades into the next.
MARGIN: Final = 24
RAMP: Final = 16
OVERLAP: Final = 2 * MARGIN + RAMP
MIN_TILE: Final = 128  # at least twice OVERLAP, so that no three tiles meet in one place
CPU_BUDGET_BYTES: Final = 2 * 1024**3
CUDA_SHARE: Final = 0.8  # of the free memory; the rest is for cuDNN's workspaces
LOW_PASS_SIGMA: Final = 8.0  # pixels of the input: colour is matched, texture is not
GAIN: Final = (0.8, 1.25)  # bounds of the contrast correction; a network further off is not mended by it
PURPOSE: Final = "the upscaler that makes the 4K pictures"

_log = logging.getLogger(__name__)


class Upscaler:
    """A network that enlarges by `scale`, on its device. For one thread at a time."""

    def __init__(
        self, network: nn.Module, *, scale: int, features: int, device: str, dtype: torch.dtype
    ) -> None:
        """`features`: the channels of the network's layers at full size, to estimate its memory by."""
        self.device = torch.device(device)
        self.dtype = dtype
        self.scale = scale
        network = network.to(self.device, dtype, memory_format=torch.channels_last)
        self._network = network.eval().requires_grad_(False)
        self._numbers_per_pixel = 3 * features * scale**2  # three such layers live at once
        self._tile_limit: int | None = None  # the largest tile after memory ran out; None: it never did
        self._logged: set[int] = set()

    def enlarge(self, pixels: Pixels, long_edge: int) -> Pixels:
        """The picture, (height, width, 3) uint8 RGB, with its long edge at exactly `long_edge`; a new array.

        Equal pictures give equal bytes at equal tile sizes; another tile size changes them by a level or so.
        The tiles depend on the memory that is free and stay small once it ran out. Raises
        Retryable("out_of_memory") if not even the smallest tile fits, or not the result; and
        Final("nan_pixels") if not all of it is finite, in single precision either.
        """
        height, width = pixels.shape[:2]
        factor = long_edge / max(height, width)
        size = (round(height * factor), round(width * factor))
        if factor <= 1:
            return np.asarray(cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)
        with torch.inference_mode():
            try:
                return self._made(pixels, size)
            except torch.OutOfMemoryError as error:  # beyond the tiles: smaller ones would not help
                raise Retryable(
                    "out_of_memory", "the upscaler has no memory for the whole picture"
                ) from error

    def _made(self, pixels: Pixels, size: tuple[int, int]) -> Pixels:
        """The picture at its size; made in single precision if a number left the range of half precision."""
        made = self._delivered(self._enlarged(pixels), pixels, size)
        if made is None and self.dtype != torch.float32:
            usual = self.dtype, self._tile_limit
            _log.warning("upscaler: not all pixels are finite in %s, once more in torch.float32", self.dtype)
            try:
                self._run_in(torch.float32)
                made = self._delivered(self._enlarged(pixels), pixels, size)
            finally:
                self._run_in(usual[0])
                self._tile_limit = usual[1]  # larger numbers meet the end of memory at smaller tiles
        if made is None:
            raise FinalError("nan_pixels", "the enlarged picture: not all pixels are finite in torch.float32")
        return made

    def _run_in(self, dtype: torch.dtype) -> None:
        """Nothing is lost on the way back: single precision holds every number of half precision."""
        self._network.to(dtype)
        self.dtype = dtype

    def _enlarged(self, pixels: Pixels) -> Tensor:
        """(1, 3, height * scale, width * scale), nominally 0 to 1, not clamped, on the device."""
        padded = np.pad(pixels, ((EDGE, EDGE), (EDGE, EDGE), (0, 0)), mode="reflect")
        picture = torch.from_numpy(padded).to(self.device).permute(2, 0, 1)[None].to(self.dtype).div_(255)
        large = self._through_network(picture.contiguous(memory_format=torch.channels_last))
        cut = EDGE * self.scale
        return large[:, :, cut:-cut, cut:-cut]

    def _through_network(self, picture: Tensor) -> Tensor:
        tile = self._first_tile(picture)
        while True:
            try:
                return self._tiled(picture, tile)
            except torch.OutOfMemoryError:
                failed = tile
            # outside of the except block: the error's traceback keeps the failed layers alive
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if failed <= MIN_TILE:
                raise Retryable("out_of_memory", f"the upscaler has no memory for a tile of {failed} pixels")
            tile = self._tile_limit = _half(failed)
            if failed not in self._logged:
                self._logged.add(failed)
                _log.warning("upscaler: out of memory at tile %d, going on with %d", failed, tile)

    def _first_tile(self, picture: Tensor) -> int:
        """The whole picture's long edge if it fits into memory, else halved until it does."""
        height, width = int(picture.shape[2]), int(picture.shape[3])
        budget: float = CPU_BUDGET_BYTES
        if self.device.type == "cuda":
            idle = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            budget = CUDA_SHARE * (torch.cuda.mem_get_info(self.device)[0] + idle)
        tile = max(MIN_TILE, height, width)
        limit, bytes_per_pixel = self._tile_limit or tile, self._numbers_per_pixel * self.dtype.itemsize
        while tile > MIN_TILE and (
            tile > limit or min(tile, height) * min(tile, width) * bytes_per_pixel > budget
        ):
            tile = _half(tile)
        return tile

    def _tiled(self, picture: Tensor, tile: int) -> Tensor:
        """(1, 3, height * scale, width * scale): one forward if the tile covers all, else blended tiles."""
        height, width = picture.shape[2:]
        if tile >= max(height, width):
            return self._forward(picture)
        scale = self.scale
        total = torch.zeros((1, 3, height * scale, width * scale), dtype=torch.float32, device=self.device)
        for top, high, down in _spans(height, tile, scale):
            for left, wide, across in _spans(width, tile, scale):
                piece = picture[:, :, top : top + high, left : left + wide]
                enlarged = self._forward(piece.contiguous(memory_format=torch.channels_last)).float()
                enlarged = enlarged * down.to(self.device)[:, None] * across.to(self.device)
                rows = slice(top * scale, (top + high) * scale)
                columns = slice(left * scale, (left + wide) * scale)
                total[:, :, rows, columns] += enlarged
        return total

    def _forward(self, piece: Tensor) -> Tensor:
        enlarged: Tensor = self._network(piece)
        return enlarged

    def _delivered(self, large: Tensor, source: Pixels, size: tuple[int, int]) -> Pixels | None:
        """Resized, colour-matched and rounded on the device, one channel at a time; only uint8 leaves it.

        None if a pixel is not finite: the means of its channel are not finite then, and the colour that is
        matched by them would make the whole channel black.
        torch has no Lanczos; its antialiased bicubic filter is as sharp at these factors (5/6 for 4K).
        """
        gain, offset = _colour_match(large, source, self.scale)
        if not all(map(math.isfinite, gain + offset)):
            return None
        result = torch.empty((*size, 3), dtype=torch.uint8, device=self.device)
        for channel in range(3):
            plane = large[:, channel : channel + 1].float()
            if plane.shape[2:] != size:
                plane = functional.interpolate(plane, size, mode="bicubic", antialias=True)
            plane = plane.mul(255 * gain[channel]).add_(255 * offset[channel])
            result[..., channel] = plane[0, 0].round_().clamp_(0, 255)
        return np.asarray(result.cpu().numpy(), dtype=np.uint8)


def load_upscaler(path: Path, *, device: str, dtype: torch.dtype | None = None) -> Upscaler:
    """The network in a safetensors file, basicsr's RRDBNet or realesrgan's SRVGGNetCompact, on `device`.

    Sizes are read from the weights' shapes. `dtype` None means float32 on the CPU and float16 on CUDA: it
    keeps three bits more than bfloat16 of what becomes 8-bit levels. Half precision on the CPU is a
    ValueError (it is hundreds of times slower there). Raises Final("no_cuda") for a CUDA device on a
    machine without one, Final("weights_missing"), and Final("weights_altered") for a corrupt file or another
    layout.
    """
    is_cuda = torch.device(device).type == "cuda"
    if is_cuda and not torch.cuda.is_available():
        raise FinalError("no_cuda", f"the upscaler was asked to run on {device}, but there is no CUDA device")
    chosen = dtype or (torch.float16 if is_cuda else torch.float32)
    if not is_cuda and chosen != torch.float32:
        raise ValueError(f"the upscaler runs in float32 on the CPU, not in {chosen}")
    if not path.is_file():
        raise FinalError("weights_missing", f"{path.name}, {PURPOSE}, is missing")
    try:
        weights = load_file(path)
        network, scale, features = _network(weights)
        network.load_state_dict(weights, strict=True)
        if not all(bool(torch.isfinite(weight).all()) for weight in weights.values()):
            raise ValueError("not all of its numbers are finite")
    except (SafetensorError, OSError, RuntimeError, KeyError, ValueError) as error:
        raise FinalError("weights_altered", f"{path.name}, {PURPOSE}, cannot be used: {error}") from error
    return Upscaler(network, scale=scale, features=features, device=device, dtype=chosen)


def _network(weights: Mapping[str, Tensor]) -> tuple[nn.Module, int, int]:
    """An empty network of the weights' layout, its scale, and its channels at full size."""
    compat.install()
    if "conv_first.weight" in weights:
        from basicsr.archs.rrdbnet_arch import RRDBNet

        features, channels = weights["conv_first.weight"].shape[:2]
        if channels != 3:
            raise ValueError(f"its first layer takes {channels} channels, not the 3 of an x4 network")
        blocks = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("body."))
        growth = weights["body.0.rdb1.conv1.weight"].shape[0]
        return RRDBNet(3, 3, num_feat=features, num_block=blocks, num_grow_ch=growth), 4, features
    if "body.0.weight" in weights:
        from realesrgan.archs.srvgg_arch import SRVGGNetCompact

        features = weights["body.0.weight"].shape[0]
        last = max(int(name.split(".")[1]) for name in weights if name.startswith("body."))
        scale = math.isqrt(weights[f"body.{last}.weight"].shape[0] // 3)
        network = SRVGGNetCompact(num_feat=features, num_conv=last // 2 - 1, upscale=scale, act_type="prelu")
        return network, scale, max(3, features // scale**2)  # all but its last layer run at the input's size
    raise ValueError("its layers are neither RRDBNet's nor SRVGGNetCompact's")


def _half(tile: int) -> int:
    return max(MIN_TILE, -(-tile // 2))


def _spans(length: int, tile: int, scale: int) -> list[tuple[int, int, Tensor]]:
    """Start, length and weights, (length * scale,), of the tiles along one axis; the weights sum to 1."""
    tile = min(tile, length)
    count = 1 if tile == length else math.ceil((length - OVERLAP) / (tile - OVERLAP))
    starts = [round(index * (length - tile) / max(1, count - 1)) for index in range(count)]
    weights = [torch.ones(tile * scale) for _ in starts]
    for index in range(1, count):
        middle = (starts[index] + starts[index - 1] + tile) / 2  # of what both tiles see
        position = (torch.arange(length * scale) + 0.5) / scale
        rising = ((position - middle) / RAMP + 0.5).clamp(0, 1)
        weights[index] *= rising[starts[index] * scale :][: tile * scale]
        weights[index - 1] *= 1 - rising[starts[index - 1] * scale :][: tile * scale]
    return [(start, tile, weight) for start, weight in zip(starts, weights, strict=True)]


def _colour_match(large: Tensor, source: Pixels, scale: int) -> tuple[list[float], list[float]]:
    """Gain and offset per channel that give the enlarged picture the low-passed colour of its source.

    Mean and standard deviation of both after the same blur, at the source's size: the networks shift white
    balance and contrast (easydiffusion#147).
    """
    # Two means over views: on a CPU they take less than half as long as avg_pool2d over channels_last.
    rows = large.unflatten(3, (-1, scale)).mean(4, dtype=torch.float32)
    small = rows.unflatten(2, (-1, scale)).mean(3)[0].permute(1, 2, 0).cpu().numpy()
    made, wanted = _low_pass(small), _low_pass(source.astype(np.float32) / 255)
    gains, offsets = [], []
    for channel in range(3):
        here, there = made[..., channel], wanted[..., channel]
        spread, spread_wanted = float(here.std()), float(there.std())
        gain = 1.0 if spread < 1e-3 else min(max(spread_wanted / spread, GAIN[0]), GAIN[1])
        gains.append(gain)
        offsets.append(float(there.mean()) - gain * float(here.mean()))
    return gains, offsets


def _low_pass(picture: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    blurred = cv2.GaussianBlur(picture, (0, 0), LOW_PASS_SIGMA, borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred, dtype=np.float64)
