"""Small SDXL networks of diffusers' own classes, random weights in the production layout, and shots."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from pipelines import compat

compat.install()

import torch  # noqa: E402
from diffusers import (  # noqa: E402
    ControlNetModel,
    StableDiffusionXLControlNetPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection  # noqa: E402

from pipelines.instantid.adapter import Models, connect  # noqa: E402
from pipelines.instantid.conditioning import (  # noqa: E402
    Conditioning,
    encode_identity,
    encode_keypoints,
    encode_prompt,
)
from pipelines.instantid.guidance import Guidance, negative_embedding  # noqa: E402
from pipelines.instantid.samples import Sample, initial_latents, seeded  # noqa: E402
from pipelines.instantid.schedulers import build_schedule  # noqa: E402

CROSS_WIDTH = 64
POOLED_WIDTH = 32
TOKENS = 77
EMBEDDING_WIDTH = 512
FACE_TOKENS = 16
SIZE = 128  # pixels

_COMMON: dict[str, Any] = {
    "in_channels": 4,
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "layers_per_block": 2,
    "cross_attention_dim": CROSS_WIDTH,
    "attention_head_dim": (2, 4),
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": POOLED_WIDTH + 6 * 8,
    "norm_num_groups": 8,
}


def tiny_unet(seed: int = 0) -> UNet2DConditionModel:
    """An SDXL UNet of two blocks."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **_COMMON,
    ).eval()


def tiny_controlnet(seed: int = 1) -> ControlNetModel:
    """A ControlNet for it, its zero convolutions randomised: fresh ones would make it a no-op."""
    torch.manual_seed(seed)
    net = ControlNetModel(conditioning_embedding_out_channels=(8, 16, 16, 32), **_COMMON).eval()
    zeroed = [net.controlnet_mid_block, *net.controlnet_down_blocks, net.controlnet_cond_embedding.conv_out]
    with torch.no_grad():
        for convolution in zeroed:
            convolution.weight.normal_(std=0.1)
            convolution.bias.normal_(std=0.1)
        for convolution in (net.controlnet_cond_embedding.conv_in, *net.controlnet_cond_embedding.blocks):
            convolution.weight.mul_(3)  # so that a keypoint drawing tells
    return net


def tiny_adapter(unet: UNet2DConditionModel, seed: int = 2) -> dict[str, dict[str, torch.Tensor]]:
    """InstantID's ip-adapter state dict for it: a Resampler of depth 4 and two heads of 64."""
    generator = torch.Generator().manual_seed(seed)

    def linear(out: int, width: int) -> torch.Tensor:
        return torch.randn(out, width, generator=generator) / width**0.5

    width, image_proj = 128, {}
    image_proj["latents"] = torch.randn(1, FACE_TOKENS, width, generator=generator) / width**0.5
    for name, out, inner in (("proj_in", width, EMBEDDING_WIDTH), ("proj_out", CROSS_WIDTH, width)):
        image_proj |= {f"{name}.weight": linear(out, inner), f"{name}.bias": linear(1, out)[0]}
    norms = {"norm_out": CROSS_WIDTH}
    for layer in range(4):
        norms |= {f"layers.{layer}.{norm}": width for norm in ("0.norm1", "0.norm2", "1.0")}
        image_proj |= {
            f"layers.{layer}.0.to_q.weight": linear(width, width),
            f"layers.{layer}.0.to_kv.weight": linear(2 * width, width),
            f"layers.{layer}.0.to_out.weight": linear(width, width),
            f"layers.{layer}.1.1.weight": linear(4 * width, width),
            f"layers.{layer}.1.3.weight": linear(width, 4 * width),
        }
    for name, inner in norms.items():
        image_proj |= {f"{name}.weight": 1 + linear(1, inner)[0], f"{name}.bias": linear(1, inner)[0]}
    ip_adapter, index = {}, 1
    for name in unet.attn_processors:
        if "attn2" in name:
            out = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
            for part in ("to_k_ip", "to_v_ip"):
                ip_adapter[f"{index}.{part}.weight"] = linear(out, CROSS_WIDTH) * 2
            index += 2
    return {"image_proj": image_proj, "ip_adapter": ip_adapter}


class FaceControlNet(ControlNetModel):
    """A ControlNet whose cross-attention sees the face tokens; the stock loop hands it the prompt."""

    face_tokens: torch.Tensor

    def forward(
        self, sample: Any, timestep: Any, encoder_hidden_states: Any, *args: Any, **kwargs: Any
    ) -> Any:
        return super().forward(sample, timestep, self.face_tokens, *args, **kwargs)


def stock_pipeline(
    scheduler: Any,
    kind: Any = StableDiffusionXLControlNetPipeline,
    others: tuple[ControlNetModel, ...] = (),
) -> Any:
    """diffusers' own pipeline over equal weights, adapter loaded natively, IdentityNet fed with faces, and
    `others` as ordinary ControlNets beside it."""
    unet, controlnet = tiny_unet(), tiny_controlnet()
    controlnet.__class__ = FaceControlNet
    pipe = kind(
        vae=None,
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        controlnet=[controlnet, *others] if others else controlnet,
        scheduler=scheduler,
        add_watermarker=False,
    )
    pipe.load_ip_adapter(tiny_adapter(unet), subfolder="", weight_name=None, image_encoder_folder=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@lru_cache(maxsize=2)
def models(dtype: torch.dtype = torch.float32) -> Models:
    """The connected networks, made once for all tests."""
    return fresh_models(dtype)


def fresh_models(
    dtype: torch.dtype = torch.float32, *, bundle: Path | None = None, text_encoders: tuple[Any, ...] = ()
) -> Models:
    """Networks of equal weights for a test that changes them."""
    unet = tiny_unet().to(dtype)
    return connect(
        unet,
        tiny_controlnet().to(dtype),
        tiny_adapter(unet),
        bundle=bundle,
        text_encoders=text_encoders,
    )


def tiny_text_encoders(seed: int = 3) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """SDXL's two, of one width."""
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=0,
        eos_token_id=1,
    )
    return CLIPTextModel(config).eval(), CLIPTextModelWithProjection(config).eval()


def difference(got: torch.Tensor, want: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((got - want).abs().max() / want.abs().max())


def drawn(seed: int, *shape: int) -> torch.Tensor:
    """Normal noise of one seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def face(identity: int) -> torch.Tensor:
    """The embedding of a person who does not exist."""
    return drawn(1000 + identity, EMBEDDING_WIDTH)


def words(prompt: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the text encoders would say: (tokens, width) and pooled."""
    return drawn(2000 + prompt, TOKENS, CROSS_WIDTH), drawn(3000 + prompt, POOLED_WIDTH)


def keypoints(pose: int, size: tuple[int, int] = (SIZE, SIZE)) -> torch.Tensor:
    """A coarse picture in 0..1 of (width, height)."""
    coarse = torch.rand((1, 3, 4, 4), generator=torch.Generator().manual_seed(4000 + pose))
    return torch.nn.functional.interpolate(coarse, size=(size[1], size[0]))[0]


@lru_cache(maxsize=64)
def conditioning(
    prompt: int = 0,
    identity: int = 0,
    pose: int = 0,
    negative: str = "zeros",
    size: tuple[int, int] = (SIZE, SIZE),
    dtype: torch.dtype = torch.float32,
) -> Conditioning:
    """Everything encoded by the shared networks; numbers name prompts, people and poses."""
    return encoded(models(dtype), prompt=prompt, identity=identity, pose=pose, negative=negative, size=size)


def encoded(
    networks: Models,
    *,
    prompt: int = 0,
    identity: int = 0,
    pose: int = 0,
    negative: str = "zeros",
    size: tuple[int, int] = (SIZE, SIZE),
    control_kinds: tuple[str, ...] = (),
) -> Conditioning:
    """Everything encoded by these networks, under the LoRAs that are active."""
    width, height = size
    return Conditioning(
        prompt=encode_prompt(networks, *words(prompt), control_kinds=control_kinds),
        negative_prompt=encode_prompt(networks, *words(99), control_kinds=control_kinds),
        identity=encode_identity(networks, face(identity)),
        negative_identity=encode_identity(networks, negative_embedding(face(identity), negative)),
        time_ids=torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32),
        control=encode_keypoints(networks, keypoints(pose, size)),
    )


def sample(
    *,
    seed: int = 5,
    scheduler: str = "euler",
    steps: int = 4,
    guidance: tuple[str, float] = ("plain", 7.5),
    size: tuple[int, int] = (SIZE, SIZE),
    told: dict[str, Any] | Conditioning | None = None,
    **changes: Any,
) -> Sample:
    """A fresh shot of (width, height); `told` is its conditioning or goes to it, `changes` to the sample."""
    schedule, generator = build_schedule(scheduler, steps), seeded(seed)
    device = torch.device("cpu")
    latents = initial_latents(generator, schedule, width=size[0], height=size[1], device=device)
    plan = {"ip_adapter_scale": 0.8, "controlnet_conditioning_scale": 0.8, **changes}
    return Sample(
        shot_id=f"shot-{seed}",
        latents=latents,
        schedule=schedule,
        generator=generator,
        conditioning=told if isinstance(told, Conditioning) else conditioning(**(told or {})),
        guidance=Guidance(method=guidance[0], scale=guidance[1]),
        **plan,
    )
