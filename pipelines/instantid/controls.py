"""Second ControlNets beside IdentityNet: canny, depth or pose, each loaded when first asked for."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import ControlNetModel

from pipelines.errors import Final
from pipelines.instantid.attention import attend_to_cache, text_keys_values
from pipelines.presets import HEIGHT, WIDTH, ExtraControl

# What must be equal for the residuals of one to fit the other.
_SHARED_SHAPE = (
    "in_channels",
    "block_out_channels",
    "layers_per_block",
    "cross_attention_dim",
    "addition_embed_type",
    "projection_class_embeddings_input_dim",
)
_MEND = "put a diffusers ControlNet of SDXL there: config.json and diffusion_pytorch_model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Control:
    """What a second ControlNet is told about a shot; the text comes with the shot's prompts.

    `condition` (channels, height / 8, width / 8) is its picture, embedded. It acts until `end`, a share of
    the steps.
    """

    kind: str
    condition: torch.Tensor
    conditioning_scale: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlNet:
    """One connected ControlNet: it attends to cached text, and its condition embedding is taken out."""

    network: Any
    condition_embedding: Any


class Controls:
    """The further ControlNets of one bundle, and their embedded pictures. For one thread."""

    def __init__(self, bundle: Path | None, unet: Any) -> None:
        """`unet` says what fits: shapes, device and number format."""
        self._folder = None if bundle is None else bundle / "controls"
        self._unet = unet
        self._nets: dict[str, ControlNet] = {}
        self._conditions: dict[tuple[str, str, int, int], torch.Tensor] = {}

    def control(self, wanted: ExtraControl, *, width: int = WIDTH, height: int = HEIGHT) -> Control:
        """What a shot of `width` x `height` pixels carries for its style's ControlNet.

        Its picture, `controls/images/<image>.png`, is resized to the shot's size, and embedded once.
        Raises Final("control_missing") and Final("bad_control") with the path and what to do.
        """
        key = (wanted.kind, wanted.image, width, height)
        if key not in self._conditions:
            net = self.net(wanted.kind)
            picture = _picture(self._require_folder() / "images" / f"{wanted.image}.png", width, height)
            with torch.inference_mode():
                pixels = picture[None].to(self._unet.device, self._unet.dtype)
                self._conditions[key] = net.condition_embedding(pixels)[0]
        return Control(
            kind=wanted.kind,
            condition=self._conditions[key],
            conditioning_scale=wanted.conditioning_scale,
            end=wanted.end,
        )

    def net(self, kind: str) -> ControlNet:
        """The ControlNet of `kind`, loaded once from `controls/<kind>/`. Raises as `control` does."""
        if kind not in self._nets:
            self._nets[kind] = _load(self._require_folder() / kind, self._unet)
        return self._nets[kind]

    def text_keys_values(self, kind: str, hidden_states: torch.Tensor) -> torch.Tensor:
        """The text (n, tokens, cross dim) as the cross-attention of `kind` reads it. Raises as `control`."""
        return text_keys_values(self.net(kind).network, hidden_states)

    def _require_folder(self) -> Path:
        if self._folder is None:
            raise Final("control_missing", "a second ControlNet was asked for, and no bundle was given")
        return self._folder


def _load(folder: Path, unet: Any) -> ControlNet:
    if not (folder / "config.json").is_file():
        raise Final("control_missing", f"{folder} is not there. Mend: {_MEND}")
    try:
        with torch.inference_mode(False):
            network, info = ControlNetModel.from_pretrained(
                folder,
                torch_dtype=unet.dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # whatever the library makes of a wrong file is the file's fault
        raise _bad(folder, f"cannot be loaded ({type(error).__name__}: {str(error)[:300]})") from error
    gaps = [key for what in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in info[what]]
    if gaps:  # what the file lacks would silently be random numbers
        raise _bad(folder, f"does not fit its config.json: {sorted(map(str, gaps))[:3]}")
    for name in _SHARED_SHAPE:
        own, fitting = (json.dumps(config[name]) for config in (network.config, unet.config))
        if own != fitting:  # as in config.json, where tuples are lists
            raise _bad(folder, f"is made for another UNet: {name} is {own}, not {fitting}")
    network = network.to(unet.device).eval().requires_grad_(False)
    if unet.device.type == "cuda":
        network = network.to(memory_format=torch.channels_last)
    condition_embedding = network.controlnet_cond_embedding
    network.controlnet_cond_embedding = torch.nn.Identity()
    attend_to_cache(network)
    return ControlNet(network=network, condition_embedding=condition_embedding)


def _picture(path: Path, width: int, height: int) -> torch.Tensor:
    """(3, height, width) RGB in 0..1."""
    if not path.is_file():
        raise Final("control_missing", f"{path} is not there. Mend: put a {width} x {height} PNG there")
    decoded = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
    if decoded is None:
        raise Final("bad_control", f"{path} is no picture. Mend: put a {width} x {height} PNG there")
    if decoded.shape[:2] != (height, width):
        shrinks = decoded.shape[0] >= height and decoded.shape[1] >= width
        decoded = cv2.resize(
            decoded, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        )
    return torch.from_numpy(decoded[..., ::-1].copy()).permute(2, 0, 1).float() / 255


def _bad(folder: Path, problem: str) -> Final:
    return Final("bad_control", f"{folder} {problem}. Mend: {_MEND}")
