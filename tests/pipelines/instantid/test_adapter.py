"""The adapter's weights in our layout, against diffusers' own loading and attention."""

from collections import Counter
from collections.abc import Callable

import pytest

from pipelines import compat

compat.install()

import torch  # noqa: E402
from diffusers import DDIMScheduler, UNet2DConditionModel  # noqa: E402
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0  # noqa: E402

from pipelines.errors import Final  # noqa: E402
from pipelines.instantid.adapter import connect, load_resampler  # noqa: E402
from pipelines.instantid.attention import AttentionRows, cross_attentions, text_keys_values  # noqa: E402
from tests.pipelines.instantid.models import (  # noqa: E402
    CROSS_WIDTH,
    EMBEDDING_WIDTH,
    FACE_TOKENS,
    stock_pipeline,
    tiny_adapter,
    tiny_controlnet,
    tiny_unet,
)

SDXL_UNET = {
    "in_channels": 4,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
"""unet/config.json of SDXL base 1.0, as far as it differs from the defaults."""

Weights = dict[str, dict[str, torch.Tensor]]


@torch.inference_mode()
def test_the_resampler_equals_the_native_one():
    native = stock_pipeline(DDIMScheduler()).unet.encoder_hid_proj
    embeddings = torch.randn(3, 1, EMBEDDING_WIDTH) * 20

    tokens = load_resampler(tiny_adapter(tiny_unet())["image_proj"])(embeddings)

    assert tokens.shape == (3, FACE_TOKENS, CROSS_WIDTH)
    assert float((tokens - native([embeddings[:, None]])[0].squeeze(1)).abs().max()) <= 1e-5


def test_a_zero_embedding_does_not_give_zero_tokens():
    tokens = load_resampler(tiny_adapter(tiny_unet())["image_proj"])(torch.zeros(1, 1, EMBEDDING_WIDTH))

    assert float(tokens.abs().mean()) > 0.1


@torch.inference_mode()
def test_cached_attention_equals_the_native_one_computed_afresh_with_a_scale_per_row():
    unet, native_unet = tiny_unet(), stock_pipeline(DDIMScheduler()).unet
    models = connect(unet, tiny_controlnet(), tiny_adapter(unet))
    text, face = torch.randn(2, 77, CROSS_WIDTH), torch.randn(2, FACE_TOKENS, CROSS_WIDTH)
    scales = (0.3, 1.2)
    rows = AttentionRows(
        keys_values=text_keys_values(unet, text),
        face_keys_values=torch.nn.functional.linear(face, models.face_projection),
        face_weights={50: torch.tensor(scales).view(-1, 1, 1, 1)},
    )

    pairs = list(zip(cross_attentions(unet), cross_attentions(native_unet), strict=True))
    for layer, native in pairs:
        hidden_states = torch.randn(2, 50, layer.to_q.in_features)
        got = layer(hidden_states, ip_hidden_states=rows)
        assert isinstance(native.processor, IPAdapterAttnProcessor2_0)
        for row, scale in enumerate(scales):
            native.processor.scale = [scale]
            told = (text[row : row + 1], [face[row : row + 1, None]])
            want = native(hidden_states[row : row + 1], encoder_hidden_states=told)
            assert float((got[row] - want[0]).abs().max()) <= 1e-5

    assert len(pairs) == 12


def test_the_full_size_unet_has_the_layers_and_parameters_of_the_published_adapter():
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(SDXL_UNET)
    layers = cross_attentions(unet)

    assert len(layers) == 70
    assert Counter(layer.to_k.out_features for layer in layers) == {640: 10, 1280: 60}
    assert sum(2 * layer.to_k.weight.numel() for layer in layers) == 340_787_200
    stages = [key.split(".")[0] + "." + key.split(".")[1] for key in unet.attn_processors]
    order = ["down_blocks.1", "down_blocks.2", "up_blocks.0", "up_blocks.1", "mid_block.attentions"]
    assert list(dict.fromkeys(stages)) == order


def test_a_layer_without_its_cache_is_misuse():
    unet = tiny_unet()
    connect(unet, tiny_controlnet(), tiny_adapter(unet))
    layer = cross_attentions(unet)[0]

    with pytest.raises(RuntimeError, match="given none"):
        layer(torch.zeros(1, 4, layer.to_q.in_features))


def without(part: str, key: str) -> Callable[[Weights], None]:
    def change(weights: Weights) -> None:
        del weights[part][key]

    return change


def reshaped(part: str, key: str) -> Callable[[Weights], None]:
    def change(weights: Weights) -> None:
        weights[part][key] = weights[part][key][:-1]

    return change


def added(part: str, key: str) -> Callable[[Weights], None]:
    def change(weights: Weights) -> None:
        weights[part][key] = torch.zeros(3, 3)

    return change


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda weights: weights.pop("image_proj"), "image_proj"),
        (lambda weights: weights.pop("ip_adapter"), "ip_adapter"),
        (without("image_proj", "latents"), "latents"),
        (without("image_proj", "norm_out.bias"), "norm_out.bias"),
        (without("image_proj", "layers.2.0.to_kv.weight"), "layers.2.attn.to_k.weight"),
        (reshaped("image_proj", "layers.1.1.1.weight"), "layers.1.ff.1.net.0.proj.weight"),
        (reshaped("image_proj", "proj_out.weight"), "proj_out"),
        (added("image_proj", "extra.weight"), "extra.weight"),
        (without("ip_adapter", "5.to_v_ip.weight"), "5.to_v_ip.weight is missing"),
        (reshaped("ip_adapter", "1.to_k_ip.weight"), r"1.to_k_ip.weight is \(\d+, 64\), not"),
        (added("ip_adapter", "139.to_k_ip.weight"), "139.to_k_ip.weight is not known"),
    ],
)
def test_weights_that_do_not_fit_are_a_final_error_naming_file_and_key(
    damage: Callable[[Weights], object], named: str
):
    unet = tiny_unet()
    weights = tiny_adapter(unet)
    damage(weights)

    with pytest.raises(Final, match=rf"(?s)ip-adapter\.safetensors.*{named}") as error:
        connect(unet, tiny_controlnet(), weights, name="ip-adapter.safetensors")

    assert error.value.code == "bad_weights"


def test_tokens_of_another_width_than_the_unet_takes_are_refused():
    unet = tiny_unet()
    weights = tiny_adapter(unet)
    for key in ("proj_out.weight", "proj_out.bias", "norm_out.weight", "norm_out.bias"):
        weights["image_proj"][key] = weights["image_proj"][key][:32]

    with pytest.raises(Final, match="tokens of 32, the UNet takes 64"):
        connect(unet, tiny_controlnet(), weights)
