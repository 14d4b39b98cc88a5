"""Enlarging on the real architectures at tiny size."""

import itertools
import logging
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from pipelines import compat, upscale  # noqa: E402
from pipelines.errors import Final, Retryable  # noqa: E402
from pipelines.types import Pixels  # noqa: E402

compat.install()
rrdbnet_arch = pytest.importorskip("basicsr.archs.rrdbnet_arch")
srvgg_arch = pytest.importorskip("realesrgan.archs.srvgg_arch")
from safetensors.torch import save_file  # noqa: E402

pytestmark = pytest.mark.slow


def _pass_through(network: "torch.nn.Module") -> "torch.nn.Module":
    """Tiny RRDBNet whose first three channels carry the picture, so that the result looks like it."""
    with torch.no_grad():
        for name in ("conv_first", "conv_up1", "conv_up2", "conv_hr", "conv_last"):
            layer = getattr(network, name)
            layer.weight.mul_(0.02)
            for channel in range(3):
                layer.weight[channel, channel, 1, 1] += 1.0
    return network


def _rrdb() -> "torch.nn.Module":
    torch.manual_seed(3)
    return _pass_through(rrdbnet_arch.RRDBNet(3, 3, num_feat=8, num_block=1, num_grow_ch=4))


def _compact() -> "torch.nn.Module":
    torch.manual_seed(4)
    return srvgg_arch.SRVGGNetCompact(num_feat=8, num_conv=2, upscale=4)


def _upscaler(network: "torch.nn.Module") -> upscale.Upscaler:
    return upscale.Upscaler(network, scale=4, features=8, device="cpu", dtype=torch.float32)


def _saved(network: "torch.nn.Module", folder: Path) -> Path:
    path = folder / "RealESRGAN_x4plus.safetensors"
    save_file(network.state_dict(), path)
    return path


def _picture(height: int, width: int) -> Pixels:
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [np.sin(x / 9 + y / 17), np.sin(x / 13 - y / 7), np.cos(x / 21 + y / 5)]
    noise = np.random.default_rng(0).normal(0, 6, (height, width, 3))
    return np.clip(np.stack(waves, axis=-1) * 50 + (150, 120, 100) + noise, 0, 255).astype(np.uint8)


class _Limited(rrdbnet_arch.RRDBNet):  # type: ignore[name-defined, misc]
    """The real network on a device with memory for so many pixels."""

    limit = 0
    calls: list[tuple[int, int]]

    def forward(self, x: "torch.Tensor") -> "torch.Tensor":
        self.calls.append(tuple(x.shape[2:]))
        if x.shape[2] * x.shape[3] > self.limit:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(x)


def _limited(limit: int) -> _Limited:
    network = _Limited(3, 3, num_feat=8, num_block=1, num_grow_ch=4)
    network.load_state_dict(_rrdb().state_dict())
    network.limit, network.calls = limit, []
    return network


@pytest.mark.parametrize("build", [_rrdb, _compact], ids=["RRDBNet", "SRVGGNetCompact"])
def test_a_file_of_either_architecture_gives_its_own_network(build, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    network, picture = build(), _picture(48, 40)

    loaded = upscale.load_upscaler(_saved(network, tmp_path), device="cpu", dtype=torch.float32)

    assert loaded.scale == 4
    expected = upscale.Upscaler(build(), scale=4, features=8, device="cpu", dtype=torch.float32)
    np.testing.assert_array_equal(loaded.enlarge(picture, 192), expected.enlarge(picture, 192))


def test_a_portrait_becomes_exactly_2987_by_3840() -> None:
    large = _upscaler(_compact()).enlarge(_picture(1152, 896), 3840)

    assert large.shape == (3840, 2987, 3)
    assert large.dtype == np.uint8
    assert large.flags.c_contiguous


@pytest.mark.parametrize(
    ("height", "width", "long_edge", "expected"),
    [
        (37, 53, 212, (148, 212)),
        (37, 53, 200, (140, 200)),
        (53, 37, 90, (90, 63)),
        (9, 5, 36, (36, 20)),
        (64, 48, 300, (300, 225)),
        (64, 48, 64, (64, 48)),
        (64, 48, 32, (32, 24)),
    ],
)
def test_odd_sizes_come_out_exact(height: int, width: int, long_edge: int, expected: tuple[int, int]) -> None:
    assert _upscaler(_rrdb()).enlarge(_picture(height, width), long_edge).shape == (*expected, 3)


def test_the_same_picture_gives_the_same_bytes() -> None:
    picture = _picture(70, 90)

    first = _upscaler(_rrdb()).enlarge(picture, 300)

    np.testing.assert_array_equal(first, _upscaler(_rrdb()).enlarge(picture, 300))
    np.testing.assert_array_equal(picture, _picture(70, 90))


def test_tiles_leave_no_seams() -> None:
    picture = _picture(301, 217)
    whole = _upscaler(_rrdb()).enlarge(picture, 1204)

    network = _limited(150 * 150)
    tiled = _upscaler(network).enlarge(picture, 1204)

    assert len(network.calls) > 6
    difference = np.abs(whole.astype(np.int16) - tiled)
    assert int(difference.max()) <= 1
    assert float((difference > 0).mean()) < 0.001


@pytest.mark.parametrize(("length", "tile"), [(333, 128), (248, 167), (1184, 592), (129, 128), (100, 128)])
def test_the_weights_of_the_tiles_sum_to_one(length: int, tile: int) -> None:
    total = torch.zeros(length * 4)
    spans = upscale._spans(length, tile, 4)
    for start, size, weights in spans:
        total[start * 4 : (start + size) * 4] += weights

    assert spans[-1][0] + spans[-1][1] == length
    assert all(a[0] + a[1] - b[0] >= 32 for a, b in itertools.pairwise(spans))
    np.testing.assert_allclose(total.numpy(), 1.0, atol=1e-6)
    if len(spans) > 1:  # where a tile misses its surroundings it counts for nothing
        assert float(spans[0][2][-upscale.MARGIN * 4 + 4 :].max()) == 0.0
        assert float(spans[1][2][: upscale.MARGIN * 4 - 4].max()) == 0.0


def test_out_of_memory_halves_the_tile_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    network = _limited(170 * 170)
    upscaler = _upscaler(network)
    picture = _picture(300, 260)

    with caplog.at_level(logging.WARNING, logger="pipelines.upscale"):
        first = upscaler.enlarge(picture, 600)
        second = upscaler.enlarge(picture, 600)

    assert network.calls[:2] == [(332, 292), (166, 166)]
    assert network.calls.count((332, 292)) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "upscaler: out of memory at tile 332, going on with 166"
    ]
    np.testing.assert_array_equal(first, second)


def test_no_memory_for_the_smallest_tile_gives_the_work_back() -> None:
    network = _limited(100)

    with pytest.raises(Retryable) as failure:
        _upscaler(network).enlarge(_picture(300, 260), 600)

    assert failure.value.code == "out_of_memory"
    assert network.calls == [(332, 292), (166, 166), (128, 128)]


class _Overflowing(rrdbnet_arch.RRDBNet):  # type: ignore[name-defined, misc]
    """The real network, of whose numbers one leaves the range of the formats in `overflowing`."""

    value = float("nan")
    overflowing: tuple["torch.dtype", ...] = ()

    def forward(self, x: "torch.Tensor") -> "torch.Tensor":
        large = super().forward(x)
        if x.dtype in self.overflowing:
            large[0, 1, 150, 170] = self.value
        return large


def _overflowing(value: float, *overflowing: "torch.dtype") -> upscale.Upscaler:
    network = _Overflowing(3, 3, num_feat=8, num_block=1, num_grow_ch=4)
    network.load_state_dict(_rrdb().bfloat16().float().state_dict())
    network.value, network.overflowing = value, overflowing
    return upscale.Upscaler(network, scale=4, features=8, device="cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_picture_that_overflows_half_precision_is_enlarged_in_single_precision(
    value: float, caplog: pytest.LogCaptureFixture
) -> None:
    picture = _picture(60, 70)
    exact = _rrdb().bfloat16().float()
    expected = _upscaler(exact).enlarge(picture, 200)
    upscaler = _overflowing(value, torch.bfloat16)

    with caplog.at_level(logging.WARNING, logger="pipelines.upscale"):
        large = upscaler.enlarge(picture, 200)

    np.testing.assert_array_equal(large, expected)
    assert [record.getMessage() for record in caplog.records] == [
        "upscaler: not all pixels are finite in torch.bfloat16, once more in torch.float32"
    ]
    assert upscaler.dtype == torch.bfloat16  # for the next picture
    assert {weight.dtype for weight in upscaler._network.parameters()} == {torch.bfloat16}


def test_a_picture_that_no_precision_makes_finite_is_an_error_and_is_not_delivered() -> None:
    upscaler = _overflowing(float("nan"), torch.bfloat16, torch.float32)

    with pytest.raises(Final, match=r"not all pixels are finite in torch\.float32") as failure:
        upscaler.enlarge(_picture(60, 70), 200)

    assert failure.value.code == "nan_pixels"
    assert {weight.dtype for weight in upscaler._network.parameters()} == {torch.bfloat16}


def test_another_error_of_the_network_is_not_swallowed() -> None:
    network = _rrdb()
    network.conv_last = torch.nn.Conv2d(5, 3, 3)

    with pytest.raises(RuntimeError, match="channels"):
        _upscaler(network).enlarge(_picture(40, 40), 100)


def test_a_picture_too_large_for_the_budget_starts_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upscale, "CPU_BUDGET_BYTES", 3 * 8 * 16 * 4 * 200 * 200)
    network = _limited(10**9)

    _upscaler(network).enlarge(_picture(300, 260), 600)

    assert set(network.calls) == {(166, 166)}


def test_a_colour_cast_of_the_network_is_taken_out() -> None:
    network, picture = _rrdb(), _picture(160, 120)
    with torch.no_grad():
        network.conv_body.weight.mul_(
            0.05
        )  # else blue takes so much of red that the bound of the gain is met
        network.conv_last.weight.mul_(1.1)
        network.conv_last.bias.add_(torch.tensor([0.08, -0.05, 0.12]))

    large = _upscaler(network).enlarge(picture, 640)

    blurred = [upscale._low_pass(p.astype(np.float32)) for p in (picture, large[2::4, 2::4])]
    means = [b.mean(axis=(0, 1)) for b in blurred]
    np.testing.assert_allclose(means[1], means[0], atol=1.0)
    np.testing.assert_allclose(blurred[1].std(axis=(0, 1)), blurred[0].std(axis=(0, 1)), rtol=0.02)


def test_a_flat_picture_keeps_its_colour() -> None:
    picture = np.full((60, 50, 3), (200, 120, 30), np.uint8)

    large = _upscaler(_rrdb()).enlarge(picture, 240)

    assert np.abs(large.astype(np.int16) - (200, 120, 30)).max() <= 1


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _scrambled(path: Path) -> None:
    path.write_bytes(b"\xff" * 4096)


def _of_another_layout(path: Path) -> None:
    save_file({"encoder.weight": torch.zeros(3, 3)}, path)


def _with_a_layer_missing(path: Path) -> None:
    save_file({name: w for name, w in _rrdb().state_dict().items() if name != "conv_hr.bias"}, path)


def _of_an_x2_network(path: Path) -> None:
    save_file(rrdbnet_arch.RRDBNet(3, 3, 2, 8, 1, 4).state_dict(), path)


def _with_a_number_that_is_none(path: Path) -> None:
    weights = _rrdb().state_dict()
    weights["conv_hr.bias"] = torch.full_like(weights["conv_hr.bias"], float("nan"))
    save_file(weights, path)


@pytest.mark.parametrize(
    "harm",
    [
        _truncated,
        _scrambled,
        _of_another_layout,
        _with_a_layer_missing,
        _of_an_x2_network,
        _with_a_number_that_is_none,
    ],
)
def test_a_harmed_file_is_named_with_what_it_is_for(harm, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = _saved(_rrdb(), tmp_path)
    harm(path)

    with pytest.raises(
        Final, match=r"^RealESRGAN_x4plus.safetensors, the upscaler that makes the 4K"
    ) as failure:
        upscale.load_upscaler(path, device="cpu")

    assert failure.value.code == "weights_altered"
    assert str(tmp_path) not in str(failure.value)


def test_a_missing_file_is_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(
        Final, match=r"^gone.safetensors, the upscaler that makes the 4K pictures, is miss"
    ) as failure:
        upscale.load_upscaler(tmp_path / "gone.safetensors", device="cpu")

    assert failure.value.code == "weights_missing"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_cuda_is_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(Final) as failure:
        upscale.load_upscaler(_saved(_rrdb(), tmp_path), device="cuda")

    assert failure.value.code == "no_cuda"


def test_half_precision_on_the_cpu_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="float32 on the CPU"):
        upscale.load_upscaler(_saved(_rrdb(), tmp_path), device="cpu", dtype=torch.float16)
