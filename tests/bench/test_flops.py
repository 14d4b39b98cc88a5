"""The work of a picture, counted: the bars that the README's claim stands on, and that the count is right."""

from collections.abc import Iterator
from typing import Any

import pytest

from pipelines import compat

compat.install()

import torch  # noqa: E402
import torch.nn.functional as functional  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from pipelines.instantid.batch import Row, build_batch, predict  # noqa: E402
from pipelines.instantid.denoise import denoise_step  # noqa: E402
from pipelines.instantid.schedulers import build_schedule  # noqa: E402
from tests.bench.flops import (  # noqa: E402
    DTYPE,
    INTERVAL,
    META,
    PLAIN,
    WITHOUT_WINDOW,
    Counter,
    Plan,
    Work,
    ours,
    ratios,
    stock,
)
from tests.bench.full_size import (  # noqa: E402
    FULL,
    SCHEDULER,
    TINY,
    build_adapter,
    build_models,
    build_rrdbnet,
    build_vae,
    encode,
    shot,
)

FLOP_BAR = 0.93
OPERATIONS_BAR = 0.75


@pytest.fixture(scope="module")
def shares() -> dict[Plan, dict[str, float]]:
    """Our work over the stock way's at full size."""
    peer, plans = stock(), (PLAIN, WITHOUT_WINDOW, INTERVAL)
    return {plan: ratios(work, peer) for plan, work in zip(plans, ours(FULL, *plans), strict=True)}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_full_size_networks_have_as_many_parameters_as_the_published_files():
    models = build_models(FULL, META, DTYPE)
    adapter = build_adapter(FULL, models.unet, META, DTYPE)

    assert parameters(models.unet) == 2_567_463_684
    assert parameters(models.identitynet) + parameters(models.condition_embedding) == 1_251_014_160
    assert (
        parameters(models.resampler) == sum(t.numel() for t in adapter["image_proj"].values()) == 81_978_624
    )
    assert len(adapter["image_proj"]) == 51
    assert sum(tensor.numel() for tensor in adapter["ip_adapter"].values()) == 340_787_200
    assert list(adapter["ip_adapter"])[-1] == "139.to_v_ip.weight"
    assert parameters(build_vae(FULL, META, DTYPE)) == 83_653_863
    assert parameters(build_rrdbnet(FULL, META, DTYPE)) == 16_697_987


@pytest.mark.slow
def test_a_picture_takes_at_most_the_claimed_share_of_the_stock_work(shares: dict[Plan, dict[str, float]]):
    assert shares[PLAIN]["flop"] <= FLOP_BAR
    assert shares[PLAIN]["operations"] <= OPERATIONS_BAR


@pytest.mark.slow
def test_without_a_window_the_caches_save_work_but_neither_bar_is_met(shares: dict[Plan, dict[str, float]]):
    assert FLOP_BAR < shares[WITHOUT_WINDOW]["flop"] < 1
    assert OPERATIONS_BAR < shares[WITHOUT_WINDOW]["operations"] < 1


@pytest.mark.slow
def test_a_guidance_interval_saves_a_quarter_of_the_stock_work(shares: dict[Plan, dict[str, float]]):
    assert shares[INTERVAL]["flop"] <= 0.75
    assert shares[INTERVAL]["operations"] <= OPERATIONS_BAR


@pytest.mark.slow
def test_a_window_saves_work_here_and_none_the_stock_way():
    half, whole = ours(TINY, Plan("plain", 0.5), WITHOUT_WINDOW)

    assert half.flop < whole.flop
    assert stock(TINY, window=0.5).flop == stock(TINY, window=1.0).flop


def counted(steps: int, *, is_remembering: bool) -> Work:
    models = build_models(TINY, META, DTYPE)
    build_schedule(SCHEDULER, steps)
    counter = Counter()
    networks = (models.unet, models.identitynet) if is_remembering else ()
    with torch.inference_mode(), counter, counter.each_layout_once(*networks):
        sample = shot(TINY, encode(TINY, models), seed=1, steps=steps, method="apg_interval")
        while not sample.is_done:
            (sample,) = denoise_step(models, [sample])
    return counter.work


@pytest.mark.slow
def test_counting_a_repeated_call_once_counts_the_same():
    assert counted(5, is_remembering=True) == counted(5, is_remembering=False)


def test_products_and_attention_are_counted_as_a_gpu_runs_them():
    left, right = torch.empty(7, 20, device=META), torch.empty(30, 20, device=META)
    query, key = torch.empty(1, 2, 8, 64, device=META), torch.empty(1, 2, 5, 64, device=META)
    with torch.inference_mode(), Counter() as counter:
        functional.linear(left, right)
        product = counter.work
        functional.scaled_dot_product_attention(query, key, key)
        attention = counter.work - product

    assert product == Work(flop=2 * 7 * 20 * 30, operations=1, views=1)  # the weight is turned
    assert attention == Work(flop=2 * (2 * 2 * 8 * 5 * 64), operations=1, views=0)


class NothingOfTheHost(TorchDispatchMode):
    """Fails where an operation reads a number back or touches a tensor that is not on the device.

    The meta device stands in for a GPU: a graph can be captured of what passes here.
    """

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        answer = function(*args, **kwargs or {})
        for tensor in (*args, answer):
            if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta":
                raise AssertionError(f"{function} touches the {tensor.device}")
        return answer


def test_a_forward_never_touches_the_host_so_that_it_can_be_captured():
    models = build_models(TINY, META, DTYPE)
    told = encode(TINY, models)
    samples = [shot(TINY, told, seed=1, steps=4), shot(TINY, told, seed=2, steps=4, window=0.1)]
    rows = [Row(sample, is_negative) for sample in samples for is_negative in (False, True)]
    with torch.inference_mode():
        batch = build_batch(models, rows, torch.stack([row.sample.latents for row in rows]))
        assert batch.identitynet is not None
        assert batch.identitynet.rows is not None  # some rows ask for IdentityNet, others do not

        with NothingOfTheHost():
            assert predict(models, batch).shape == (4, 4, TINY.height // 8, TINY.width // 8)
            with pytest.raises(AssertionError, match="touches the cpu"):
                torch.zeros(1) + 1
