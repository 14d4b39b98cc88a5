"""What a shot is conditioned on, computed once: prompt per style, face per identity, keypoints per shot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as functional

from pipelines.instantid.adapter import Models
from pipelines.instantid.attention import text_keys_values
from pipelines.presets import Lora


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One encoded prompt: text keys and values of the UNet (tokens, columns) and the pooled vector.

    `control_keys_values` are those of second ControlNets, by kind; `loras` were active when it was encoded.
    """

    keys_values: torch.Tensor
    pooled: torch.Tensor
    control_keys_values: Mapping[str, torch.Tensor] = field(default_factory=dict)
    loras: tuple[Lora, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One face: keys and values (16, columns) of the UNet's face branch and of IdentityNet."""

    keys_values: torch.Tensor
    identitynet_keys_values: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditioning:
    """Everything the model is told about a shot. Parts are shared between shots by reference.

    `time_ids` (6,) float32: original height and width, crop top and left, target height and width.
    `control` (channels, height, width): the embedded keypoint drawing at latent size.
    """

    prompt: Prompt
    negative_prompt: Prompt
    identity: Identity
    negative_identity: Identity
    time_ids: torch.Tensor
    control: torch.Tensor


def encode_prompt(
    models: Models, prompt_embeds: torch.Tensor, pooled: torch.Tensor, *, control_kinds: Sequence[str] = ()
) -> Prompt:
    """The prompt of a style from its text encoders' outputs (tokens, cross dim) and (pooled dim,).

    For a style with LoRAs, encode the text and call this while they are active (`models.loras.activated`).
    `control_kinds` names the second ControlNets that will read it; raises Final("control_missing") and
    Final("bad_control") for one that cannot be loaded.
    """
    with torch.inference_mode():
        hidden_states = prompt_embeds[None].to(models.device, models.dtype)
        return Prompt(
            keys_values=text_keys_values(models.unet, hidden_states)[0],
            pooled=pooled.to(models.device, models.dtype),
            control_keys_values={
                kind: models.controls.text_keys_values(kind, hidden_states)[0] for kind in control_kinds
            },
            loras=models.loras.active,
        )


def encode_identity(models: Models, embedding: torch.Tensor) -> Identity:
    """The identity of a raw, not normalised recognition embedding (512,)."""
    with torch.inference_mode():
        tokens = models.resampler(embedding.reshape(1, 1, -1).to(models.device, models.dtype))
        return Identity(
            keys_values=functional.linear(tokens, models.face_projection)[0],
            identitynet_keys_values=text_keys_values(models.identitynet, tokens)[0],
        )


def encode_keypoints(models: Models, drawing: torch.Tensor) -> torch.Tensor:
    """The embedded keypoint drawing (channels, height / 8, width / 8).

    `drawing` (3, height, width) is RGB in 0..1, made at the picture's final size.
    """
    with torch.inference_mode():
        control: torch.Tensor = models.condition_embedding(drawing[None].to(models.device, models.dtype))
        return control[0]
