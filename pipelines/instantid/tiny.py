"""A weight bundle of a few megabytes: random numbers in the production layout, for tests and trying out.

Folders, file names, formats and state-dict keys are those of the real files, and the shapes follow from the
same configuration files, so nothing that loads a bundle can tell. The pictures it gives mean nothing, so its
calibration lets every picture through the quality gate.
"""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipelines import compat
from pipelines.instantid.tiny_faces import make_detector, make_landmarks, make_recogniser
from pipelines.instantid.tiny_safety import make_safety
from pipelines.weights import ALTERNATIVES, CALIBRATION, MANIFEST, Locked, digest, write_lock

SEED: Final = 20261121

# Attention only at an eighth of the latents' size: at a half, where SDXL's begins, it would take a core one
# second for each step.
CHANNELS: Final = (8, 8, 16, 32)
HEADS: Final = (1, 1, 1, 2)
NORM_GROUPS: Final = 4
DOWN_BLOCKS: Final = ("DownBlock2D", "DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D")
UP_BLOCKS: Final = ("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D")
TEXT_WIDTH: Final = 32  # of each text encoder; the cross-attention sees both, side by side
CONTEXT: Final = 2 * TEXT_WIDTH
TIME_WIDTH: Final = 8  # of each of the six size and crop numbers
FACE_TOKENS: Final = 16
RESAMPLER_WIDTH: Final = 64
RESAMPLER_HEADS: Final = 2
RESAMPLER_DEPTH: Final = 4
HEAD_WIDTH: Final = 64  # InstantID's Resampler; loaders derive the number of heads from it
EMBEDDING: Final = 512

_VERSION: Final = "0.19.0.dev0"  # the published SDXL base says so; loaders ignore it
_STARTOFTEXT, _ENDOFTEXT = "<|startoftext|>", "<|endoftext|>"


def make_tiny_bundle(folder: Path) -> None:
    """Write a complete bundle with its lock into `folder`, created if need be; the same bytes every time
    with the same versions of the libraries.

    Seven megabytes, some seconds. Files of a bundle that is already there are overwritten.
    """
    compat.install()
    import torch

    for name in ("base", "vae", "identitynet", "adapter", "faces", "judge", "upscaler", "safety"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED)
        _write_base(folder / "base")
        _write_vae(folder / "vae")
        _write_upscaler(folder / "upscaler" / "realesrgan.safetensors")
        make_safety(folder / "safety")
    make_detector(folder / "faces" / "scrfd_10g_bnkps.onnx")
    make_landmarks(folder / "faces" / "1k3d68.onnx")
    make_recogniser(folder / "faces" / "glintr100.onnx", seed=SEED, pool=8)
    make_recogniser(folder / "judge" / "auraface.onnx", seed=SEED + 1, pool=7)
    _write_json(folder / CALIBRATION, _CALIBRATION)
    keys = {file.path: file.key for file in MANIFEST if file.key not in ALTERNATIVES}
    write_lock(
        folder,
        {
            path: Locked(
                key=key,
                size_bytes=(folder / path).stat().st_size,
                sha256=digest(folder / path),
                licence="",
            )
            for path, key in (keys | {CALIBRATION: "calibration"}).items()
        },
    )


# Bounds that no picture crosses, whether or not something in it looks like the sample's face.
_CALIBRATION: Final = {
    "requires_face": False,
    "max_second_face": 1.0,
    "min_similarity": -1.0,
    "min_sharpness": 0.0,
    "min_texture": 0.0,
    "max_texture": 1e6,
    "max_clipped": 1.0,
    "max_saturated": 1.0,
    "max_cheek_distance": 1e6,
    "max_unnatural_colour": 1e6,
}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _write_base(folder: Path) -> None:
    """The SDXL folder, and beside it what must fit its UNet: IdentityNet and the adapter."""
    parts = {
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    about = {"_class_name": "StableDiffusionXLPipeline", "_diffusers_version": _VERSION}
    _write_json(folder / "model_index.json", about | {"force_zeros_for_empty_prompt": True} | parts)
    _write_json(folder / "scheduler" / "scheduler_config.json", _SCHEDULER)
    vocabulary = _write_tokenizer(folder / "tokenizer", padding=_ENDOFTEXT)
    _write_tokenizer(folder / "tokenizer_2", padding="!")
    _write_text_encoders(folder, vocabulary)
    unet = _write_unet(folder / "unet")
    _write_identitynet(folder.parent / "identitynet")
    _write_adapter(folder.parent / "adapter" / "ip-adapter.safetensors", unet)


_SCHEDULER: Final = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": _VERSION,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}


def _byte_symbols() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in its order, which CLIP's vocabulary begins with."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(others))]


def _write_tokenizer(folder: Path, *, padding: str) -> int:
    """A CLIP tokenizer that spells nearly everything, byte by byte; the size of its vocabulary."""
    symbols = _byte_symbols()
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), "ph", "to</w>", "an"]
    tokens += [_STARTOFTEXT, _ENDOFTEXT]
    _write_json(folder / "vocab.json", {token: place for place, token in enumerate(tokens)})
    (folder / "merges.txt").write_text("#version: 0.2\np h\nt o</w>\na n\n", encoding="utf-8")
    special = {
        "bos_token": _STARTOFTEXT,
        "eos_token": _ENDOFTEXT,
        "pad_token": padding,
        "unk_token": _ENDOFTEXT,
    }
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(
        folder / "tokenizer_config.json",
        special
        | {
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": True,
            "do_lower_case": True,
            "errors": "replace",
            "model_max_length": 77,
            "tokenizer_class": "CLIPTokenizer",
        },
    )
    return len(tokens)


def _write_text_encoders(folder: Path, vocabulary: int) -> None:
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    for name, kind in (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection)):
        config = CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            hidden_act="quick_gelu" if name == "text_encoder" else "gelu",
            bos_token_id=0,
            eos_token_id=2,  # as published: the model then takes the highest id, which is the end of the text
            pad_token_id=1,
        )
        encoder = kind(config)
        for parameter in encoder.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)  # CLIP's own start is so small that all prompts look alike
        # The published files keep the older names, with "text_model." before all but the projection.
        tensors = {
            tensor_name
            if tensor_name.startswith(("text_model.", "text_projection."))
            else f"text_model.{tensor_name}": tensor
            for tensor_name, tensor in encoder.state_dict().items()
        }
        config.architectures = [kind.__name__]
        config.save_pretrained(folder / name)
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})


def _unet_shape() -> dict[str, Any]:
    """What UNet and IdentityNet share."""
    return {
        "in_channels": 4,
        "block_out_channels": CHANNELS,
        "down_block_types": DOWN_BLOCKS,
        "layers_per_block": 1,
        "norm_num_groups": NORM_GROUPS,
        "transformer_layers_per_block": (1,) * len(CHANNELS),
        "attention_head_dim": HEADS,  # SDXL's published name for the number of heads
        "cross_attention_dim": CONTEXT,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_WIDTH,
        "projection_class_embeddings_input_dim": TEXT_WIDTH + 6 * TIME_WIDTH,
    }


def _write_unet(folder: Path) -> Any:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=128,
        out_channels=4,
        up_block_types=UP_BLOCKS,
        **_unet_shape(),
    )
    for name, parameter in unet.named_parameters():
        if name.endswith("attn2.to_out.0.weight"):
            parameter.mul_(8)  # else three levels of skips would drown what prompt and face say
    unet.save_pretrained(folder)
    return unet


def _write_identitynet(folder: Path) -> None:
    """The ControlNet. Its output convolutions start at zero, which would make it a part without effect."""
    from diffusers import ControlNetModel

    net = ControlNetModel(conditioning_embedding_out_channels=(4, 4, 8, 8), **_unet_shape())
    for layer in (*net.controlnet_down_blocks, net.controlnet_mid_block):
        layer.weight.normal_(std=0.1)
        layer.bias.normal_(std=0.1)
    drawing = net.controlnet_cond_embedding
    for layer in (drawing.conv_in, *drawing.blocks, drawing.conv_out):
        layer.weight.normal_(std=1.4 / np.sqrt(layer.weight[0].numel()).item())
    net.save_pretrained(folder)


def _write_adapter(path: Path, unet: Any) -> None:
    """The Resampler and one pair of key and value projections for each cross-attention of `unet`."""
    from safetensors.torch import save_file

    tensors = {f"image_proj.{name}": tensor for name, tensor in _resampler().items()}
    # Odd numbers over all attention processors: the even ones are the self-attentions.
    for number, name in enumerate(unet.attn_processors):
        if number % 2 == 0:
            continue
        layer = unet.get_submodule(name.removesuffix(".processor"))
        for kind in ("k", "v"):
            tensors[f"ip_adapter.{number}.to_{kind}_ip.weight"] = 2 * _random(layer.inner_dim, CONTEXT)
    save_file(tensors, path, metadata={"format": "pt"})


def _resampler() -> dict[str, Any]:
    import torch

    width, inner = RESAMPLER_WIDTH, RESAMPLER_HEADS * HEAD_WIDTH

    def norm(name: str, size: int) -> dict[str, Any]:
        return {f"{name}.weight": 1 + 0.1 * torch.randn(size), f"{name}.bias": 0.1 * torch.randn(size)}

    tensors = {
        "latents": torch.randn(1, FACE_TOKENS, width),
        "proj_in.weight": _random(width, EMBEDDING),
        "proj_in.bias": 0.1 * torch.randn(width),
        "proj_out.weight": _random(CONTEXT, width),
        "proj_out.bias": 0.1 * torch.randn(CONTEXT),
        **norm("norm_out", CONTEXT),
    }
    for depth in range(RESAMPLER_DEPTH):
        attention, feed_forward = f"layers.{depth}.0", f"layers.{depth}.1"
        tensors |= norm(f"{attention}.norm1", width) | norm(f"{attention}.norm2", width)
        tensors |= norm(f"{feed_forward}.0", width) | {
            f"{attention}.to_q.weight": _random(inner, width),
            f"{attention}.to_kv.weight": _random(2 * inner, width),
            f"{attention}.to_out.weight": _random(width, inner),
            f"{feed_forward}.1.weight": _random(4 * width, width),
            f"{feed_forward}.3.weight": _random(width, 4 * width),
        }
    return tensors


def _random(rows: int, columns: int) -> Any:
    """(rows, columns), of a size that keeps the variance of what it multiplies."""
    import torch

    return torch.randn(rows, columns) / np.sqrt(columns).item()


def _write_vae(folder: Path) -> None:
    """Four blocks, so that the factor stays 8; scaled as SDXL's, decodes with some contrast.

    Without the attention in its middle, which over all latents at once would take a core another second.
    """
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        mid_block_add_attention=False,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=1024,
        scaling_factor=0.13025,
        force_upcast=False,
    )
    vae.save_pretrained(folder)


def _write_upscaler(path: Path) -> None:
    """RRDBNet with 3 features, one block, growth 1: passes the picture on, enlarged, with a little noise.

    The unit taps make it a plain enlargement, so that an upscaled picture can be compared with its source.
    """
    from basicsr.archs.rrdbnet_arch import RRDBNet
    from safetensors.torch import save_file

    net = RRDBNet(num_in_ch=3, num_out_ch=3, scale=4, num_feat=3, num_block=1, num_grow_ch=1)
    for parameter in net.parameters():
        parameter.normal_(std=0.001)
    for layer in (net.conv_first, net.conv_up1, net.conv_up2, net.conv_hr, net.conv_last):
        for channel in range(3):
            layer.weight[channel, channel, 1, 1] += 1
    save_file(net.state_dict(), path, metadata={"format": "pt"})
