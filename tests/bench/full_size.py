"""The networks of the product at full size, with random numbers for weights: for counting and timing.

Work and time do not depend on what the weights say, as long as they are not all zero; so benches need no
download. Any device and dtype, also the meta device, where tensors have shapes and no numbers. TINY is the
architecture of the tiny bundle, for machines without a GPU.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from pipelines import compat

compat.install()

import torch  # noqa: E402
from basicsr.archs.rrdbnet_arch import RRDBNet  # noqa: E402
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel  # noqa: E402

from pipelines.instantid import tiny  # noqa: E402
from pipelines.instantid.adapter import HEAD_WIDTH, Models, connect  # noqa: E402
from pipelines.instantid.attention import cross_attentions  # noqa: E402
from pipelines.instantid.conditioning import (  # noqa: E402
    Conditioning,
    encode_identity,
    encode_keypoints,
    encode_prompt,
)
from pipelines.instantid.guidance import Guidance, negative_embedding  # noqa: E402
from pipelines.instantid.samples import Sample, initial_latents, seeded  # noqa: E402
from pipelines.instantid.schedulers import build_schedule  # noqa: E402
from pipelines.upscale import Upscaler  # noqa: E402

TEXT_TOKENS: Final = 77  # of CLIP
EMBEDDING: Final = 512  # of ArcFace
SCHEDULER: Final = "dpmpp_2m_karras"  # DPM-Solver++ 2M with Karras' noise levels, the default of the styles


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampler:
    """The shape of InstantID's Resampler; its output is as wide as the UNet's context."""

    width: int
    depth: int
    heads: int
    queries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The published configurations, and the size of the pictures.

    `shared` is what UNet and IdentityNet have in common. `pooled` is the width of the pooled prompt;
    `delivered` the long edge of a 4K picture, 10/3 of the native one.
    """

    name: str
    shared: Mapping[str, Any]
    unet: Mapping[str, Any]
    identitynet: Mapping[str, Any]
    vae: Mapping[str, Any]
    upscaler: Mapping[str, int]
    resampler: Resampler
    pooled: int
    width: int
    height: int
    delivered: int

    @property
    def context(self) -> int:
        """The width of text and face tokens."""
        return int(self.shared["cross_attention_dim"])


FULL: Final = Architecture(
    name="full",
    shared={  # hub stabilityai/stable-diffusion-xl-base-1.0, unet/config.json
        "in_channels": 4,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "layers_per_block": 2,
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    unet={
        "sample_size": 128,
        "out_channels": 4,
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    },
    # hub InstantX/InstantID, ControlNetModel/config.json
    identitynet={"conditioning_embedding_out_channels": (16, 32, 96, 256)},
    vae={  # hub stabilityai/stable-diffusion-xl-base-1.0, vae/config.json
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": 32,
        "sample_size": 1024,
        "scaling_factor": 0.13025,
        "force_upcast": True,
    },
    # xinntao/Real-ESRGAN, inference_realesrgan.py, RealESRGAN_x4plus
    upscaler={"num_feat": 64, "num_block": 23, "num_grow_ch": 32},
    # instantX-research/InstantID, set_image_proj_model
    resampler=Resampler(width=1280, depth=4, heads=20, queries=16),
    pooled=1280,
    width=896,
    height=1152,
    delivered=3840,
)

TINY: Final = replace(
    FULL,
    name="tiny",
    shared={
        **FULL.shared,
        "block_out_channels": tiny.CHANNELS,
        "down_block_types": tiny.DOWN_BLOCKS,
        "layers_per_block": 1,
        "norm_num_groups": tiny.NORM_GROUPS,
        "transformer_layers_per_block": (1,) * len(tiny.CHANNELS),
        "attention_head_dim": tiny.HEADS,
        "cross_attention_dim": tiny.CONTEXT,
        "addition_time_embed_dim": tiny.TIME_WIDTH,
        "projection_class_embeddings_input_dim": tiny.TEXT_WIDTH + 6 * tiny.TIME_WIDTH,
    },
    unet={**FULL.unet, "up_block_types": tiny.UP_BLOCKS},
    identitynet={"conditioning_embedding_out_channels": (8, 8, 16, 16)},
    vae={**FULL.vae, "block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4},
    upscaler={"num_feat": 4, "num_block": 1, "num_grow_ch": 2},
    resampler=Resampler(
        width=tiny.RESAMPLER_WIDTH,
        depth=tiny.RESAMPLER_DEPTH,
        heads=tiny.RESAMPLER_HEADS,
        queries=tiny.FACE_TOKENS,
    ),
    pooled=tiny.TEXT_WIDTH,
    width=FULL.width // 8,
    height=FULL.height // 8,
    delivered=FULL.delivered // 8,
)


def build_unet(architecture: Architecture, device: torch.device, dtype: torch.dtype) -> Any:
    """The SDXL UNet as published, nothing connected."""
    config = {**architecture.shared, **architecture.unet}
    return _built(lambda: UNet2DConditionModel(**config), device, dtype)


def build_identitynet(
    architecture: Architecture,
    device: torch.device,
    dtype: torch.dtype,
    kind: type[ControlNetModel] = ControlNetModel,
) -> Any:
    """InstantID's ControlNet; its output convolutions are random too, so it is not a part without effect."""
    config = {**architecture.shared, **architecture.identitynet}
    return _built(lambda: kind(**config), device, dtype)


def build_vae(architecture: Architecture, device: torch.device, dtype: torch.dtype) -> Any:
    """The SDXL VAE."""
    return _built(lambda: AutoencoderKL(**architecture.vae), device, dtype)


def build_rrdbnet(architecture: Architecture, device: torch.device, dtype: torch.dtype) -> Any:
    """Real-ESRGAN's x4 network."""
    return _built(lambda: RRDBNet(3, 3, **architecture.upscaler), device, dtype)


def build_upscaler(architecture: Architecture, device: torch.device, dtype: torch.dtype) -> Upscaler:
    """Ours, around that network."""
    network = build_rrdbnet(architecture, device, dtype)
    features = architecture.upscaler["num_feat"]
    return Upscaler(network, scale=4, features=features, device=str(device), dtype=dtype)


def build_adapter(
    architecture: Architecture, unet: Any, device: torch.device, dtype: torch.dtype
) -> dict[str, dict[str, torch.Tensor]]:
    """InstantID's ip-adapter.bin: {'image_proj': the Resampler, 'ip_adapter': two projections a layer}."""

    def linear(out: int, width: int) -> torch.Tensor:
        return torch.randn(out, width, device=device, dtype=dtype).div_(width**0.5)

    def norm(name: str, width: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": 1 + linear(1, width)[0], f"{name}.bias": linear(1, width)[0]}

    shape, context = architecture.resampler, architecture.context
    width, inner = shape.width, shape.heads * HEAD_WIDTH
    image_proj = {
        "latents": linear(shape.queries, width)[None],
        "proj_in.weight": linear(width, EMBEDDING),
        "proj_in.bias": linear(1, width)[0],
        "proj_out.weight": linear(context, width),
        "proj_out.bias": linear(1, context)[0],
        **norm("norm_out", context),
    }
    for layer in range(shape.depth):
        attention, feed_forward = f"layers.{layer}.0", f"layers.{layer}.1"
        image_proj |= {
            **norm(f"{attention}.norm1", width),
            **norm(f"{attention}.norm2", width),
            **norm(f"{feed_forward}.0", width),
            f"{attention}.to_q.weight": linear(inner, width),
            f"{attention}.to_kv.weight": linear(2 * inner, width),
            f"{attention}.to_out.weight": linear(width, inner),
            f"{feed_forward}.1.weight": linear(4 * width, width),
            f"{feed_forward}.3.weight": linear(width, 4 * width),
        }
    ip_adapter = {
        f"{2 * index + 1}.to_{part}_ip.weight": linear(layer.to_k.out_features, context)
        for index, layer in enumerate(cross_attentions(unet))
        for part in ("k", "v")
    }
    return {"image_proj": image_proj, "ip_adapter": ip_adapter}


def build_models(architecture: Architecture, device: torch.device, dtype: torch.dtype) -> Models:
    """The networks of our loop, connected, in the memory format in which the engine loads them."""
    unet = build_unet(architecture, device, dtype)
    identitynet = build_identitynet(architecture, device, dtype)
    if device.type == "cuda":
        unet, identitynet = (net.to(memory_format=torch.channels_last) for net in (unet, identitynet))
    adapter = build_adapter(architecture, unet, device, dtype)
    with device:  # connect() makes the Resampler where tensors are made by default
        return connect(unet, identitynet, adapter)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    """Normal noise of one seed, on the CPU."""
    return torch.randn(shape, generator=seeded(seed))


def keypoint_drawing(architecture: Architecture, pose: int) -> torch.Tensor:
    """(3, height, width) in 0..1, standing in for a drawing of keypoints."""
    return drawn(4000 + pose, 3, architecture.height, architecture.width).clamp(0, 1)


def encode(architecture: Architecture, models: Models, person: int = 0) -> Conditioning:
    """What is computed once for a picture in our loop: two prompts, two faces, one drawing."""
    context, pooled = architecture.context, architecture.pooled
    words = [(drawn(n, TEXT_TOKENS, context), drawn(n + 10, pooled)) for n in (2000, 2001)]
    face = drawn(1000 + person, EMBEDDING)
    height, width = architecture.height, architecture.width
    return Conditioning(
        prompt=encode_prompt(models, *words[0]),
        negative_prompt=encode_prompt(models, *words[1]),
        identity=encode_identity(models, face),
        negative_identity=encode_identity(models, negative_embedding(face, "zeros")),
        time_ids=torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32),
        control=encode_keypoints(models, keypoint_drawing(architecture, person)),
    )


def shot(
    architecture: Architecture,
    conditioning: Conditioning,
    *,
    seed: int,
    steps: int,
    method: str = "plain",
    window: float = 0.8,
) -> Sample:
    """A fresh sample; IdentityNet acts in the first `window` of the steps."""
    schedule, generator = build_schedule(SCHEDULER, steps), seeded(seed)
    device = conditioning.control.device
    return Sample(
        shot_id=f"shot-{seed}",
        latents=initial_latents(
            generator, schedule, width=architecture.width, height=architecture.height, device=device
        ),
        schedule=schedule,
        generator=generator,
        conditioning=conditioning,
        guidance=Guidance(method=method, scale=7.5),
        ip_adapter_scale=0.8,
        controlnet_conditioning_scale=0.8,
        control_guidance_end=window,
    )


def _built(make: Callable[[], torch.nn.Module], device: torch.device, dtype: torch.dtype) -> Any:
    """The module on its device without a copy on the CPU first, frozen, its numbers normal."""
    with torch.device("meta"):
        module = make()
    # not the to() of diffusers, which warns of layers to keep in float32, and these have none
    module = torch.nn.Module.to(module, dtype).eval().requires_grad_(False)
    if device.type == "meta":
        return module
    module = module.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)  # keeps the variance of what it reads
            else:
                parameter.normal_(mean=float(name.endswith("weight")), std=0.05)
    return module
