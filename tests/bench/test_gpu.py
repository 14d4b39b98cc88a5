"""The bench of the device at tiny size on the CPU, so that it works on the day a GPU is at hand."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines import compat

compat.install()

import torch  # noqa: E402

from pipelines.errors import Retryable  # noqa: E402
from pipelines.instantid import denoise  # noqa: E402
from pipelines.instantid.samples import Sample  # noqa: E402
from tests.bench.full_size import TINY  # noqa: E402
from tests.bench.gpu import PACKS, SECTIONS, Pack, make, neighbours, predicting  # noqa: E402
from tests.bench.graphs import StaticPredict, compile_networks  # noqa: E402
from tests.bench.measuring import OUT_OF_MEMORY, Bench, attempted, has_failed, rounded  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def latents(samples: list[Sample]) -> torch.Tensor:
    return torch.stack([sample.latents for sample in samples])


@pytest.mark.slow
def test_the_tiny_bench_measures_every_section_beside_the_stock_way(tmp_path: Path):
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "tests.bench.gpu", "--tiny", "--device", "cpu", "--steps", "2"]

    subprocess.run([*command, "--out", str(out)], check=True, capture_output=True, timeout=1200)

    result = json.loads(out.read_text())
    sections = result["sections"]
    assert list(sections) == list(SECTIONS)
    assert sections["ceiling"]["tflop_per_second"] > 0
    for way in ("eager", "static"):
        by_pictures = sections[way]["by_pictures"]
        assert list(by_pictures) == ["1", "2", "4", "8", "16"]
        for measured in by_pictures.values():
            assert measured["tflop_per_second"] > 0
            assert measured["share_of_ceiling"] > 0
            assert measured["difference_from_eager"] <= 1e-5
    assert sections["decoding"]["milliseconds_per_picture"] > 0
    assert sections["enlarging"]["milliseconds_per_picture"] > 0
    for name, pack in PACKS.items():
        ours, theirs = sections["packs"][name]["eager"], sections["stock"][name]
        assert ours["pictures"] == pack.count
        assert ours["size"] == ([373, 480] if pack.is_enlarged else [112, 144])
        assert theirs["seconds"] > 0
        assert sections["ratios"][name]["eager"] == pytest.approx(
            ours["seconds"] / theirs["seconds"], rel=1e-2
        )
    assert all(sections[name]["peak_bytes"] > 0 for name in ("eager", "packs", "stock"))
    assert sections["static"]["captured"] == sections["compiled"] == "not on this device"
    assert (result["device"], result["architecture"], result["steps"]) == ("cpu", "tiny", 2)


def test_static_buffers_give_what_the_loop_gives_in_every_layout_and_again():
    bench = Bench(TINY, CPU, 4)
    predict = StaticPredict(CPU)
    fresh = bench.shots(3)
    ahead = denoise.denoise_step(bench.models, fresh)
    windowed = [fresh[0], replace(fresh[1], control_guidance_end=0.1), fresh[2]]
    batches = [fresh, ahead, windowed, fresh[:1], ahead]
    want = [latents(denoise.denoise_step(bench.models, batch)) for batch in batches]

    with predicting(predict):
        got = [latents(denoise.denoise_step(bench.models, batch)) for batch in batches]

    assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))
    assert len(predict) == 3  # layouts: a batch at a later step reuses the buffers of the first
    assert not torch.equal(want[0], want[1])


@pytest.mark.slow
def test_the_compiler_sees_each_network_as_one_graph_and_takes_other_batch_sizes():
    bench = Bench(TINY, CPU, 4)
    samples = bench.shots(3)
    want = [latents(denoise.denoise_step(bench.models, samples[:count])) for count in (1, 2, 3)]
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compile_networks(bench.models, backend=backend)
    got = [latents(denoise.denoise_step(bench.models, samples[:count])) for count in (1, 2, 3)]

    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other)
    assert len(graphs) < 6  # two networks: not once more for every row count


def test_how_far_a_picture_in_a_batch_is_from_itself_alone_is_told_in_levels():
    by_pictures = neighbours(Bench(TINY, CPU, 2))

    assert list(by_pictures) == ["1", "2", "4", "8", "16"]
    assert by_pictures["1"] == {"largest_level": 0, "mean_level": 0.0, "changed_share": 0.0}
    assert all(measured["largest_level"] <= 1 for measured in by_pictures.values())  # in float32


def test_a_pack_larger_than_the_slots_is_made_whole():
    bench = Bench(TINY, CPU, 2)

    done = make(bench, Pack(9, is_enlarged=False))

    assert len(done) == 9
    assert len({picture.jpeg for picture in done}) == 9  # nine seeds, nine pictures
    assert {(picture.width, picture.height) for picture in done} == {(TINY.width, TINY.height)}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("x"), Retryable("out_of_memory", "x")], ids=repr)
def test_a_section_without_memory_says_so_and_is_no_failure(error: Exception):
    def measure(bench: Bench) -> Any:
        raise error

    result = Bench(TINY, CPU, 1).section(measure)

    assert result == OUT_OF_MEMORY
    assert not has_failed({"sections": {"eager": result}})


def test_another_error_is_reported_and_ends_the_run_as_failed(capsys: pytest.CaptureFixture[str]):
    def measure() -> Any:
        raise RuntimeError("capture went wrong")

    result = attempted(measure)

    assert result == "failed: RuntimeError: capture went wrong"
    assert has_failed({"packs": {"captured": result}, "eager": {"seconds": 1.0}})
    assert "Traceback" in capsys.readouterr().err


def test_results_keep_four_digits():
    assert rounded({"a": {"b": 0.123456, "c": 123456}}) == {"a": {"b": 0.1235, "c": 123456}}
