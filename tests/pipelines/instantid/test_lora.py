"""LoRAs: every layout acts as if it were fused, only while it is active, and each set has its own forward."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines import compat

compat.install()

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from pipelines.errors import Final  # noqa: E402
from pipelines.instantid.adapter import Models  # noqa: E402
from pipelines.instantid.conditioning import encode_prompt  # noqa: E402
from pipelines.instantid.denoise import denoise_step, run  # noqa: E402
from pipelines.instantid.lora import canonical  # noqa: E402
from pipelines.instantid.samples import Sample, seeded  # noqa: E402
from pipelines.presets import Lora  # noqa: E402
from tests.pipelines.instantid.models import (  # noqa: E402
    difference,
    encoded,
    fresh_models,
    sample,
    tiny_text_encoders,
    tiny_unet,
    words,
)

ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0"
UNET = (
    f"{ATTENTION}.attn1.to_q",
    f"{ATTENTION}.attn2.to_k",
    f"{ATTENTION}.attn2.to_v",
    f"{ATTENTION}.attn2.to_out.0",
    "mid_block.attentions.0.proj_in",
    "up_blocks.0.attentions.1.transformer_blocks.0.ff.net.0.proj",
)
CONVOLUTION = "down_blocks.0.resnets.0.conv1"
TEXT = tuple(
    f"text_model.encoder.layers.{name}"
    for name in ("0.self_attn.q_proj", "0.self_attn.out_proj", "1.mlp.fc1")
)
NETWORKS = ("unet", "text_encoder", "text_encoder_2")
IDS = torch.arange(77)[None]

Delta = dict[str, dict[str, tuple[torch.Tensor, torch.Tensor, float]]]
"""By network and module: lower matrix, upper matrix, alpha."""


pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn_delta(seed: int, *, has_convolution: bool = False, has_text: bool = True) -> Delta:
    """Matrices of ranks 2 and 3 with alphas of their own, large enough to tell."""
    generator = torch.Generator().manual_seed(seed)
    networks = dict(zip(NETWORKS, (tiny_unet(), *tiny_text_encoders()), strict=True))
    modules = {"unet": (*UNET, *([CONVOLUTION] if has_convolution else []))}
    if has_text:
        modules |= {"text_encoder": TEXT, "text_encoder_2": TEXT[:2]}
    delta: Delta = {}
    for network, names in modules.items():
        delta[network] = {}
        for index, name in enumerate(names):
            shape, rank = layer_of(networks[network], name).weight.shape, 2 + index % 2
            down = torch.randn(rank, *shape[1:], generator=generator) / shape[1] ** 0.5
            up = torch.randn(shape[0], rank, *(1 for _ in shape[2:]), generator=generator) / 2
            delta[network][name] = (down, up, float(rank * (1 + index % 3)))
    return delta


def as_peft(delta: Delta) -> dict[str, torch.Tensor]:
    """What PEFT and diffusers save today. It has no alphas."""
    return {
        f"{network}.{name}.lora_{part}.weight": matrix
        for network, layers in delta.items()
        for name, (down, up, _) in layers.items()
        for part, matrix in (("A", down), ("B", up))
    }


def as_diffusers(delta: Delta) -> dict[str, torch.Tensor]:
    """What diffusers saved in 2023."""
    words_of = {"q_proj": "to_q_lora", "out_proj": "to_out_lora"}
    tensors = {}
    for network, layers in delta.items():
        for name, (down, up, _) in layers.items():
            stem, _, leaf = name.rpartition(".")
            if network != "unet":
                old = f"{stem}.{words_of[leaf]}" if leaf in words_of else f"{name}.lora_linear_layer"
            elif ".attn" in name:
                block, _, layer = name.replace(".to_out.0", ".to_out").rpartition(".")
                old = f"{block}.processor.{layer}_lora"
            else:
                old = f"{name}.lora"
            tensors |= {f"{network}.{old}.down.weight": down, f"{network}.{old}.up.weight": up}
    return tensors


def as_kohya(delta: Delta) -> dict[str, torch.Tensor]:
    """What kohya's trainer saves: its own names of everything, and alphas."""
    prefixes = {
        "unet": "lora_unet_",
        "text_encoder": "lora_te1_",
        "text_encoder_2": "lora_te2_",
    }
    tensors = {}
    for network, layers in delta.items():
        for name, (down, up, alpha) in layers.items():
            stem = prefixes[network] + name.replace(".", "_")
            tensors |= {
                f"{stem}.lora_down.weight": down,
                f"{stem}.lora_up.weight": up,
                f"{stem}.alpha": torch.tensor(alpha),
            }
    return tensors


def as_kohya_of_sgm(delta: Delta) -> dict[str, torch.Tensor]:
    """The same trainer on SDXL's original UNet, whose blocks are counted through."""
    blocks = {
        "down_blocks_1_attentions_0": "input_blocks_4_1",
        "mid_block_attentions_0": "middle_block_1",
        "up_blocks_0_attentions_1": "output_blocks_1_1",
    }
    tensors = as_kohya(delta)
    for ours, theirs in blocks.items():
        tensors = {key.replace(ours, theirs): tensor for key, tensor in tensors.items()}
    return tensors


def layer_of(network: Any, name: str) -> Any:
    """Files name the first text encoder's layers as they were called before transformers 5."""
    is_flat = not hasattr(network, "text_model")
    return network.get_submodule(name.removeprefix("text_model.") if is_flat else name)


def without_alphas(delta: Delta) -> Delta:
    return {
        network: {name: (down, up, float(len(down))) for name, (down, up, _) in layers.items()}
        for network, layers in delta.items()
    }


def add(bundle: Path, name: str, tensors: dict[str, torch.Tensor], **header: str) -> None:
    (bundle / "loras").mkdir(exist_ok=True)
    save_file(tensors, bundle / "loras" / f"{name}.safetensors", metadata=header or None)


def fuse(network: torch.nn.Module, layers: dict[str, Any], weight: float) -> None:
    """The reference: W + weight * alpha / rank * up @ down."""
    with torch.no_grad():
        for name, (down, up, alpha) in layers.items():
            target = layer_of(network, name).weight
            change = (up.flatten(1) @ down.flatten(1)).view_as(target)
            target += weight * alpha / len(down) * change


def fused(*deltas: tuple[Delta, float]) -> tuple[Models, tuple[Any, ...]]:
    """Networks with the LoRAs in their weights, and the text encoders."""
    models, encoders = fresh_models(), tiny_text_encoders()
    for delta, weight in deltas:
        for name, network in zip(NETWORKS, (models.unet, *encoders), strict=True):
            fuse(network, delta.get(name, {}), weight)
    return models, encoders


def shot(models: Models, loras: tuple[Lora, ...] = (), **plan: Any) -> Sample:
    with models.loras.activated(loras):
        return sample(told=encoded(models), loras=loras, **plan)


def latents(models: Models, loras: tuple[Lora, ...] = ()) -> torch.Tensor:
    return run(models, [shot(models, loras, steps=2)])[0].latents


@torch.inference_mode()
def read(encoders: tuple[Any, ...]) -> list[torch.Tensor]:
    return [encoder(IDS, output_hidden_states=True).hidden_states[-1] for encoder in encoders]


@pytest.mark.parametrize(
    ("layout", "delta"),
    [
        (as_peft, without_alphas(drawn_delta(1, has_convolution=True))),
        (as_diffusers, without_alphas(drawn_delta(2))),
        (as_kohya, drawn_delta(3, has_convolution=True)),
        (as_kohya_of_sgm, drawn_delta(4)),
    ],
    ids=["peft", "diffusers", "kohya", "kohya of sgm"],
)
def test_a_lora_acts_as_if_it_were_fused(layout: Callable[..., Any], delta: Delta, tmp_path: Path):
    add(tmp_path, "film", layout(delta))
    encoders = tiny_text_encoders()
    models = fresh_models(bundle=tmp_path, text_encoders=encoders)
    plain, loras = latents(models), (Lora(name="film", weight=0.7),)
    reference, reference_encoders = fused((delta, 0.7))

    got = latents(models, loras)
    with models.loras.activated(loras):
        texts = read(encoders)

    assert difference(got, latents(reference)) <= 1e-4
    assert difference(got, plain) > 1e-2
    for text, want, before in zip(texts, read(reference_encoders), read(encoders), strict=True):
        assert difference(text, want) <= 1e-5
        assert difference(text, before) > 1e-2


def test_several_act_together_by_their_weights(tmp_path: Path):
    first, second = drawn_delta(1), drawn_delta(2, has_text=False)
    add(tmp_path, "film", as_kohya(first))
    add(tmp_path, "light", as_kohya(second))
    models = fresh_models(bundle=tmp_path, text_encoders=tiny_text_encoders())
    reference, _ = fused((first, 0.5), (second, 1.2))

    got = latents(models, (Lora(name="light", weight=1.2), Lora(name="film", weight=0.5)))

    assert difference(got, latents(reference)) <= 1e-4


def test_the_header_of_a_file_says_how_much_its_matrices_count(tmp_path: Path):
    delta = drawn_delta(1, has_text=False)
    rank = {name: len(down) for name, (down, _, _) in delta["unet"].items()}
    header = {
        "unet.r": 2,
        "unet.lora_alpha": 6,
        "unet.rank_pattern": {f"^{name}": size for name, size in rank.items() if size != 2},
        "unet.target_modules": list(UNET),
    }
    add(tmp_path, "film", as_peft(delta), lora_adapter_metadata=json.dumps(header))
    told = {"unet": {name: (down, up, 6.0) for name, (down, up, _) in delta["unet"].items()}}
    reference, _ = fused((told, 0.7))

    got = latents(fresh_models(bundle=tmp_path), (Lora(name="film", weight=0.7),))

    assert difference(got, latents(reference)) <= 1e-4


def test_switched_off_the_networks_are_bitwise_what_they_were(tmp_path: Path):
    add(tmp_path, "film", as_kohya(drawn_delta(1, has_convolution=True)))
    encoders = tiny_text_encoders()
    models = fresh_models(bundle=tmp_path, text_encoders=encoders)
    before, texts = latents(models), read(encoders)
    told = encoded(models)

    latents(models, (Lora(name="film", weight=1.0),))

    assert models.loras.active == ()
    assert torch.equal(latents(models), before)
    assert all(torch.equal(*pair) for pair in zip(read(encoders), texts, strict=True))
    again = encoded(models)
    assert torch.equal(again.prompt.keys_values, told.prompt.keys_values)
    assert again.prompt.loras == ()


def test_a_set_within_a_set_gives_way_to_the_outer_one_again_also_after_an_error(tmp_path: Path):
    add(tmp_path, "film", as_kohya(drawn_delta(1)))
    add(tmp_path, "light", as_kohya(drawn_delta(2)))
    models = fresh_models(bundle=tmp_path, text_encoders=tiny_text_encoders())
    film, light = Lora(name="film", weight=0.7), Lora(name="light", weight=0.4)
    wanted = encode_in(models, film)

    with models.loras.activated((film,)):
        with models.loras.activated((light,)):
            assert models.loras.active == (light,)
        assert torch.equal(encode_prompt(models, *words(0)).keys_values, wanted)
        with pytest.raises(Final, match="lora"), models.loras.activated((Lora(name="none", weight=1.0),)):
            pass
        assert models.loras.active == (film,)
        assert torch.equal(encode_prompt(models, *words(0)).keys_values, wanted)
    assert models.loras.active == ()


def encode_in(models: Models, *loras: Lora) -> torch.Tensor:
    with models.loras.activated(loras):
        return encode_prompt(models, *words(0)).keys_values


def test_faces_and_identitynet_are_not_touched(tmp_path: Path):
    add(tmp_path, "film", as_kohya(drawn_delta(1)))
    models = fresh_models(bundle=tmp_path, text_encoders=tiny_text_encoders())
    plain = encoded(models)

    with models.loras.activated((Lora(name="film", weight=1.0),)):
        styled = encoded(models)

    assert torch.equal(styled.identity.keys_values, plain.identity.keys_values)
    assert torch.equal(styled.identity.identitynet_keys_values, plain.identity.identitynet_keys_values)
    assert torch.equal(styled.control, plain.control)
    assert difference(styled.prompt.keys_values, plain.prompt.keys_values) > 1e-2
    assert not any("lora" in name for name, _ in models.identitynet.named_modules())


def test_a_batch_of_several_sets_equals_one_by_one_with_a_forward_for_each_set(tmp_path: Path):
    add(tmp_path, "film", as_kohya(drawn_delta(1)))
    add(tmp_path, "light", as_kohya(drawn_delta(2)))
    models = fresh_models(bundle=tmp_path, text_encoders=tiny_text_encoders())
    film, light = Lora(name="film", weight=0.7), Lora(name="light", weight=0.4)
    sets = [(), (film,), (film, light), (replace(film, weight=0.2),), (), (light, film)]
    shots = [shot(models, loras, seed=seed, steps=2) for seed, loras in enumerate(sets)]
    alone = [run(models, [replace(one, generator=seeded(0))])[0].latents for one in shots]
    rows: list[int] = []
    hook = models.unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))

    denoise_step(models, shots)
    hook.remove()
    together = run(models, shots)

    assert rows == [4, 2, 4, 2]  # (), film, film and light in either order, less film; two rows a shot
    for one, want in zip(together, alone, strict=True):
        assert difference(one.latents, want) <= 1e-4


def test_a_set_is_the_same_in_any_order_and_without_what_weighs_nothing():
    film, light = Lora(name="film", weight=0.7), Lora(name="light", weight=0.4)

    assert (
        canonical((light, film)) == canonical((film, light, Lora(name="none", weight=0.0))) == (film, light)
    )


def test_a_prompt_encoded_under_other_loras_is_misuse(tmp_path: Path):
    add(tmp_path, "film", as_kohya(drawn_delta(1)))
    models = fresh_models(bundle=tmp_path, text_encoders=tiny_text_encoders())
    one = replace(shot(models), loras=(Lora(name="film", weight=0.7),))

    with pytest.raises(RuntimeError, match="shot-5: its prompt was encoded under other LoRAs"):
        denoise_step(models, [one])


def test_in_bfloat16_the_matrices_are_bfloat16_too(tmp_path: Path):
    add(tmp_path, "film", as_kohya(drawn_delta(1, has_text=False)))
    models = fresh_models(torch.bfloat16, bundle=tmp_path)

    got = latents(models, (Lora(name="film", weight=0.7),))

    matrices = {name: p.dtype for name, p in models.unet.named_parameters() if "lora_" in name}
    assert len(matrices) == 2 * len(UNET)
    assert set(matrices.values()) == {torch.bfloat16}
    assert difference(got, latents(fused((drawn_delta(1, has_text=False), 0.7))[0])) < 0.1


KEY = "lora_unet_mid_block_attentions_0_proj_in"


def changed(leaf: str, tensor: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """A good file with one tensor replaced, or left out."""
    whole = as_kohya(drawn_delta(1)) | {f"{KEY}.{leaf}": tensor}
    return {key: tensor for key, tensor in whole.items() if tensor is not None}


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        (changed("lora_down.weight", torch.zeros(2, 63)), rf"{KEY}.lora_down.weight is \(2, 63\), not"),
        (changed("lora_up.weight", torch.zeros(64, 5)), rf"{KEY}.lora_up.weight is \(64, 5\), not \(64, 2\)"),
        (changed("lora_up.weight", None), f"{KEY}.lora_up.weight"),
        (changed("lora_down.weight", None), f"{KEY}.lora_up.weight"),
        (changed("dora_scale", torch.zeros(64, 1)), f"{KEY}.dora_scale is not known"),
        (changed("hada_w1_a", torch.zeros(64, 1)), f"{KEY}.hada_w1_a"),
        (as_peft({"unet": {"mid_block.attentions.7.proj_in": (torch.zeros(2, 64), torch.zeros(64, 2), 2.0)}}),
         "unet.mid_block.attentions.7.proj_in.lora_A.weight is not known"),
        (as_peft(drawn_delta(1)) | {"transformer.proj.lora_A.weight": torch.zeros(2, 2)},
         "transformer.proj.lora_A.weight is not known"),
        ({"conv_in.weight": torch.zeros(2, 2)}, "conv_in.weight is not known"),
        ({}, "it is empty"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_a_final_error_naming_file_and_key(
    tensors: dict[str, torch.Tensor], named: str, tmp_path: Path
):
    add(tmp_path, "film", as_kohya(drawn_delta(2)))
    add(tmp_path, "odd", tensors)
    models = fresh_models(bundle=tmp_path, text_encoders=tiny_text_encoders())
    before = encode_in(models)

    with (
        pytest.raises(Final, match=rf"(?s)loras/odd\.safetensors.*{named}") as error,
        models.loras.activated((Lora(name="film", weight=0.5), Lora(name="odd", weight=0.5))),
    ):
        pass

    assert error.value.code == "bad_lora"
    assert models.loras.active == ()
    assert torch.equal(encode_in(models), before)


def test_a_header_that_does_not_fit_the_matrices_is_refused_and_leaves_the_next_lora_alone(tmp_path: Path):
    delta = drawn_delta(1, has_text=False)
    header = {"unet.r": 2, "unet.lora_alpha": 2, "unet.target_modules": list(UNET)}
    add(tmp_path, "odd", as_peft(delta), lora_adapter_metadata=json.dumps(header))
    add(tmp_path, "film", as_kohya(delta))
    models = fresh_models(bundle=tmp_path)
    reference, _ = fused((delta, 0.7))

    with (
        pytest.raises(Final, match=r"(?s)peft cannot load it into unet: .*size mismatch") as error,
        models.loras.activated((Lora(name="odd", weight=0.5),)),
    ):
        pass

    assert error.value.code == "bad_lora"
    assert difference(latents(models, (Lora(name="film", weight=0.7),)), latents(reference)) <= 1e-4


def test_a_file_that_is_no_safetensors_file_is_a_final_error(tmp_path: Path):
    add(tmp_path, "film", {})
    (tmp_path / "loras" / "film.safetensors").write_bytes(b"\x80\x04 a pickle, say")

    with pytest.raises(Final, match=r"loras/film\.safetensors: no safetensors file") as error:
        latents(fresh_models(bundle=tmp_path), (Lora(name="film", weight=1.0),))

    assert error.value.code == "bad_lora"


def test_a_missing_file_is_a_final_error_that_says_where_it_should_be(tmp_path: Path):
    with pytest.raises(Final, match=rf"{tmp_path}/loras/film\.safetensors is not there") as error:
        latents(fresh_models(bundle=tmp_path), (Lora(name="film", weight=1.0),))
    assert error.value.code == "lora_missing"

    with pytest.raises(Final, match="'film' was asked for, and no bundle was given") as error:
        latents(fresh_models(), (Lora(name="film", weight=1.0),))
    assert error.value.code == "lora_missing"
