"""InstantID's published weights put into an SDXL UNet and ControlNet: Resampler and decoupled attention."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.embeddings import IPAdapterPlusImageProjection

from pipelines.errors import Final
from pipelines.instantid.attention import attend_to_cache, cross_attentions
from pipelines.instantid.controls import Controls
from pipelines.instantid.lora import Loras

HEAD_WIDTH = 64  # of the Resampler; its state dict does not say


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The networks of the loop, connected. Shared by all shots and never changed by one.

    `condition_embedding` is the part of IdentityNet that reads the keypoint drawing, taken out so that it
    runs once per shot; `face_projection` (columns, cross dim) makes all the face keys and values at once.
    `loras` and `controls` are what else the bundle holds for a style, loaded when first asked for.
    """

    unet: Any
    identitynet: Any
    condition_embedding: Any
    resampler: Any
    face_projection: torch.Tensor
    loras: Loras
    controls: Controls

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.face_projection.device

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in; latents and schedulers stay float32."""
        return self.face_projection.dtype


def connect(
    unet: Any,
    controlnet: Any,
    state_dict: Mapping[str, Any],
    name: str = "ip-adapter",
    *,
    bundle: Path | None = None,
    text_encoders: Sequence[Any] = (),
) -> Models:
    """The models of the loop from a plain SDXL UNet and InstantID's ControlNet and adapter weights.

    `state_dict` is the published layout: {'image_proj': ..., 'ip_adapter': ...}; `name` is its file, for
    messages. Both networks change hands: their cross-attention is replaced, they are frozen, and the
    ControlNet's condition embedding moves out. LoRAs and further ControlNets come from the folder `bundle`;
    without it a shot may ask for none. `text_encoders` are SDXL's two, which LoRAs act on too. Raises
    Final("bad_weights") for missing, unexpected or wrongly shaped tensors, naming file and keys.
    """
    missing = [part for part in ("image_proj", "ip_adapter") if part not in state_dict]
    if missing:
        raise Final("bad_weights", f"{name}: no {' and no '.join(missing)}")
    projection = _face_projection(unet, state_dict["ip_adapter"], name)
    resampler = load_resampler(state_dict["image_proj"], name)
    if resampler.proj_out.out_features != unet.config.cross_attention_dim:
        raise Final(
            "bad_weights",
            f"{name}: image_proj gives tokens of {resampler.proj_out.out_features}, "
            f"the UNet takes {unet.config.cross_attention_dim}",
        )
    unet, controlnet = unet.eval().requires_grad_(False), controlnet.eval().requires_grad_(False)
    condition_embedding = controlnet.controlnet_cond_embedding
    controlnet.controlnet_cond_embedding = torch.nn.Identity()
    for network in (unet, controlnet):
        attend_to_cache(network)
    return Models(
        unet=unet,
        identitynet=controlnet,
        condition_embedding=condition_embedding,
        resampler=resampler.to(unet.device, unet.dtype),
        face_projection=projection.to(unet.device, unet.dtype),
        loras=Loras(bundle, unet, text_encoders),
        controls=Controls(bundle, unet),
    )


def load_resampler(image_proj: Mapping[str, torch.Tensor], name: str = "ip-adapter") -> Any:
    """InstantID's Resampler, (n, 1, 512) to (n, 16, cross dim), as diffusers' class of the same layout.

    Raises Final("bad_weights") naming `name` and the keys.
    """
    try:
        latents, proj_in, proj_out = (image_proj[k] for k in ("latents", "proj_in.weight", "proj_out.weight"))
        heads = image_proj["layers.0.0.to_q.weight"].shape[0] // HEAD_WIDTH
        ratio = image_proj["layers.0.1.1.weight"].shape[0] / latents.shape[2]
    except KeyError as error:
        raise Final("bad_weights", f"{name}: image_proj has no {error.args[0]}") from error
    resampler = IPAdapterPlusImageProjection(
        embed_dims=proj_in.shape[1],
        output_dims=proj_out.shape[0],
        hidden_dims=latents.shape[2],
        depth=1 + max(int(key.split(".")[1]) for key in image_proj if key.startswith("layers.")),
        dim_head=HEAD_WIDTH,
        heads=heads,
        num_queries=latents.shape[1],
        ffn_ratio=ratio,
    )
    try:
        resampler.load_state_dict(_renamed(image_proj), strict=True)
    except RuntimeError as error:
        raise Final("bad_weights", f"{name}: image_proj does not fit: {error}") from error
    return resampler.eval().requires_grad_(False)


def _face_projection(unet: Any, ip_adapter: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """to_k_ip and to_v_ip of every layer, stacked to (columns, cross dim)."""
    expected = {}
    for index, layer in enumerate(cross_attentions(unet)):
        for part, linear in (("to_k_ip", layer.to_k), ("to_v_ip", layer.to_v)):
            expected[f"{2 * index + 1}.{part}.weight"] = tuple(linear.weight.shape)
    wrong = [f"{key} is missing" for key in expected.keys() - ip_adapter.keys()]
    wrong += [f"{key} is not known" for key in ip_adapter.keys() - expected.keys()]
    wrong += [
        f"{key} is {tuple(ip_adapter[key].shape)}, not {shape}"
        for key, shape in expected.items()
        if key in ip_adapter and tuple(ip_adapter[key].shape) != shape
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise Final("bad_weights", f"{name}: ip_adapter: {'; '.join(sorted(wrong)[:5])}{more}")
    return torch.cat([ip_adapter[key] for key in expected])


def _renamed(image_proj: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """InstantID's names into diffusers': the fused to_kv is split, the numbers of a layer get words."""
    words = {
        "0.norm1": "ln0",
        "0.norm2": "ln1",
        "0.to_q": "attn.to_q",
        "0.to_out": "attn.to_out.0",
        "1.0": "ff.0",
        "1.1": "ff.1.net.0.proj",
        "1.3": "ff.1.net.2",
    }
    renamed: dict[str, torch.Tensor] = {}
    for key, tensor in image_proj.items():
        if not key.startswith("layers."):
            renamed[key] = tensor
            continue
        _, layer, part = key.split(".", 2)
        stem, leaf = part.rsplit(".", 1)
        if stem == "0.to_kv":
            to_k, to_v = tensor.chunk(2)
            renamed[f"layers.{layer}.attn.to_k.{leaf}"] = to_k
            renamed[f"layers.{layer}.attn.to_v.{leaf}"] = to_v
        else:
            renamed[f"layers.{layer}.{words.get(stem, stem)}.{leaf}"] = tensor
    return renamed
