"""While the engine runs, nothing can learn and every forward is inference."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from pipelines.types import Pixels

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The real engine over the tiny bundle; its shots come aboard with their last step to do."""
    pytest.importorskip("torch")
    from pipelines import compat

    compat.install()
    from pipelines.instantid import engine as loop
    from pipelines.instantid.loading import load_parts
    from pipelines.instantid.shots import begin
    from pipelines.instantid.tiny import make_tiny_bundle

    def late(*args: Any) -> Any:
        begun = begin(*args)
        return replace(begun, sample=replace(begun.sample, position=len(begun.sample.schedule) - 1))

    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_bundle(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "begin", late)
        yield loop.InstantIdEngine(load_parts(folder, "cpu"), slots=1)
    shutil.rmtree(folder)


def networks_of(parts: Any) -> dict[str, Any]:
    """Every network among the engine's parts, by its class's name and place."""
    from torch.nn import Module

    found: dict[str, Any] = {}
    ahead = [("parts", parts)]
    seen = set()
    while ahead:
        name, part = ahead.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, Module):
            found[name] = part
        elif isinstance(part, tuple | list):
            ahead += [(f"{name}[{place}]", each) for place, each in enumerate(part)]
        elif type(part).__module__.startswith("pipelines."):
            held = getattr(part, "__dict__", {}) | {
                slot: getattr(part, slot, None) for slot in getattr(part, "__slots__", ())
            }
            ahead += [(f"{name}.{attribute}", each) for attribute, each in held.items()]
        elif callable(part) and getattr(part, "__closure__", None):
            ahead += [(f"{name}()", cell.cell_contents) for cell in part.__closure__]
    return found


def test_no_network_of_the_engine_can_learn(engine: Any) -> None:
    networks = networks_of(engine.parts)

    models, parts = engine.parts.models, engine.parts
    known = [models.unet, models.identitynet, models.resampler, parts.vae, *parts.text.encoders]
    assert {id(network) for network in known} < {id(network) for network in networks.values()}
    assert len(networks) >= 8
    for name, network in networks.items():
        assert not network.training, name
        assert not [key for key, weight in network.named_parameters() if weight.requires_grad], name


def test_every_forward_of_a_whole_picture_is_inference(engine: Any, selfie: bytes) -> None:
    import torch
    from torch.nn.modules.module import register_module_forward_hook

    from pipelines.images import clean_portrait, decode_jpeg
    from pipelines.styles import BUILTIN
    from pipelines.types import FinishedShot, OutputSpec, ShotRequest

    portrait: Pixels = decode_jpeg(clean_portrait(selfie))
    request = ShotRequest(
        shot_id="one",
        identity="one",
        portrait=portrait,
        preset=replace(BUILTIN[0].preset, num_inference_steps=20),
        seeds=(7,),
        output=OutputSpec(long_edge=3840, is_watermarked=False),
    )
    batches = iter([[request]])
    results: list[Any] = []
    forwards: dict[str, set[tuple[bool, bool, bool]]] = {}

    def look(module: Any, given: Any, made: Any) -> None:
        tensors = [made] if isinstance(made, torch.Tensor) else []
        for tensor in tensors:
            seen = (torch.is_inference_mode_enabled(), tensor.is_inference(), tensor.requires_grad)
            forwards.setdefault(type(module).__name__, set()).add(seen)

    hook = register_module_forward_hook(look)
    before = {name: weights_of(network) for name, network in networks_of(engine.parts).items()}
    try:
        engine.run(lambda free: next(batches, []), results.append, lambda shot_id: False)
    finally:
        hook.remove()

    (result,) = results
    assert isinstance(result, FinishedShot)
    assert len(forwards) > 10
    assert set().union(*forwards.values()) == {(True, True, False)}, forwards
    after = {name: weights_of(network) for name, network in networks_of(engine.parts).items()}
    assert after == before


def weights_of(network: Any) -> list[tuple[str, float, bool]]:
    """Each parameter's name, its sum in double precision, and whether it collected a gradient."""
    return [
        (name, weight.double().sum().item(), weight.grad is None)
        for name, weight in network.named_parameters()
    ]


def test_a_forward_outside_of_inference_would_be_seen(engine: Any) -> None:
    import torch

    resampler = engine.parts.models.resampler
    width = next(resampler.parameters()).dtype
    made = resampler(torch.zeros(1, 1, 512, dtype=width))

    assert not made.is_inference()
