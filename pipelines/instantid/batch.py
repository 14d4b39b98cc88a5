"""One forward of the networks: rows of any shots put into tensors, and the prediction from those alone.

`build_batch` is where shots meet; `predict` sees tensors only, takes no decision that needs their values,
and can be compiled or captured as a graph for each pair of row counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as functional

from pipelines.instantid.adapter import AttentionRows, Models
from pipelines.instantid.conditioning import Identity, Prompt
from pipelines.instantid.samples import Sample


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the model's batch: a shot, with its own conditioning or the negative one."""

    sample: Sample
    is_negative: bool

    @property
    def prompt(self) -> Prompt:
        """The prompt or the negative prompt."""
        conditioning = self.sample.conditioning
        return conditioning.negative_prompt if self.is_negative else conditioning.prompt

    @property
    def identity(self) -> Identity:
        """The face, or the one the negative branch is given."""
        conditioning = self.sample.conditioning
        return conditioning.negative_identity if self.is_negative else conditioning.identity


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkInput:
    """What one network is given: the same for the UNet and for IdentityNet, which may have fewer rows.

    `latents` (rows, 4, height, width) in the networks' dtype, `timesteps` (rows,) float32, `pooled`
    (rows, pooled dim), `time_ids` (rows, 6).
    """

    latents: torch.Tensor
    timesteps: torch.Tensor
    pooled: torch.Tensor
    time_ids: torch.Tensor
    attention: AttentionRows


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityNetInput:
    """What IdentityNet adds: `rows` (n,) says which rows of the batch are asked, None if all are.

    `control` (n, channels, height, width); `scales` (n, 1, 1, 1); `masks` by height of the residual, each
    (n, 1, height, width), None without masks.
    """

    network: NetworkInput
    rows: torch.Tensor | None
    control: torch.Tensor
    scales: torch.Tensor
    masks: dict[int, torch.Tensor] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One forward. `identitynet` is None where no row asks for it, and then it is not called."""

    unet: NetworkInput
    identitynet: IdentityNetInput | None


def build_batch(models: Models, rows: Sequence[Row], model_input: torch.Tensor) -> Batch:
    """The tensors of one forward; `model_input` (rows, 4, height, width) are the scaled latents."""
    latents = model_input.to(models.dtype)
    asked = [index for index, row in enumerate(rows) if row.sample.needs_identitynet]
    return Batch(
        unet=_network_input(rows, latents, _unet_attention(models, rows, latents)),
        identitynet=_identitynet_input(models, rows, latents, asked) if asked else None,
    )


def predict(models: Models, batch: Batch) -> torch.Tensor:
    """The noise predicted for every row (rows, 4, height, width)."""
    given = batch.unet
    down, mid = _residuals(models, batch)
    prediction: torch.Tensor = models.unet(
        given.latents,
        given.timesteps,
        encoder_hidden_states=None,  # every layer reads its cached keys and values
        added_cond_kwargs={"text_embeds": given.pooled, "time_ids": given.time_ids},
        cross_attention_kwargs={"ip_hidden_states": given.attention},
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
        return_dict=False,
    )[0]
    return prediction


def _residuals(models: Models, batch: Batch) -> tuple[list[torch.Tensor] | None, torch.Tensor | None]:
    """IdentityNet's residuals for the UNet, zero in rows it was not asked for; None if asked for none."""
    if batch.identitynet is None:
        return None, None
    asked, given = batch.identitynet, batch.identitynet.network
    down, mid = models.identitynet(
        given.latents,
        given.timesteps,
        encoder_hidden_states=None,
        controlnet_cond=asked.control,
        conditioning_scale=asked.scales,
        added_cond_kwargs={"text_embeds": given.pooled, "time_ids": given.time_ids},
        cross_attention_kwargs={"ip_hidden_states": given.attention},
        return_dict=False,
    )
    count = len(batch.unet.latents)
    spread = [_spread(residual, asked, count) for residual in (*down, mid)]
    return spread[:-1], spread[-1]


def _spread(residual: torch.Tensor, asked: IdentityNetInput, count: int) -> torch.Tensor:
    if asked.masks is not None:
        residual = residual * asked.masks[residual.shape[-2]]
    if asked.rows is None:
        return residual
    return residual.new_zeros((count, *residual.shape[1:])).index_copy_(0, asked.rows, residual)


def _network_input(rows: Sequence[Row], latents: torch.Tensor, attention: AttentionRows) -> NetworkInput:
    return NetworkInput(
        latents=latents,
        timesteps=_column([row.sample.move.timestep for row in rows], latents.device),
        pooled=torch.stack([row.prompt.pooled for row in rows]),
        time_ids=torch.stack([row.sample.conditioning.time_ids for row in rows]).to(latents.device),
        attention=attention,
    )


def _identitynet_input(
    models: Models, rows: Sequence[Row], latents: torch.Tensor, asked: Sequence[int]
) -> IdentityNetInput:
    some = [rows[index] for index in asked]
    index = None if len(some) == len(rows) else torch.tensor(asked, device=latents.device)
    latents = latents if index is None else latents[index]
    scales = _column([row.sample.controlnet_conditioning_scale for row in some], latents.device)
    faces = torch.stack([row.identity.identitynet_keys_values for row in some])
    masks = _masks(models, some, latents)
    return IdentityNetInput(
        network=_network_input(some, latents, AttentionRows(keys_values=faces)),
        rows=index,
        control=torch.stack([row.sample.conditioning.control for row in some]),
        scales=scales.to(latents.dtype).view(-1, 1, 1, 1),
        masks=None if masks is None else {mask.shape[-2]: mask for mask in masks},
    )


def _unet_attention(models: Models, rows: Sequence[Row], latents: torch.Tensor) -> AttentionRows:
    texts = torch.stack([row.prompt.keys_values for row in rows])
    scales = [row.sample.ip_adapter_scale for row in rows]
    if not any(scales):
        return AttentionRows(keys_values=texts)
    weight = _column(scales, latents.device).to(latents.dtype).view(-1, 1, 1, 1)
    masks = _masks(models, rows, latents)
    weights = {
        height * width: weight if masks is None else weight * masks[level].view(len(rows), 1, -1, 1)
        for level, (height, width) in enumerate(_sizes(models, latents))
    }
    return AttentionRows(
        keys_values=texts,
        face_keys_values=torch.stack([row.identity.keys_values for row in rows]),
        face_weights=weights,
    )


def _masks(models: Models, rows: Sequence[Row], latents: torch.Tensor) -> list[torch.Tensor] | None:
    """(rows, 1, height, width) for each level, one where a shot has no mask; None if none has."""
    masks = [row.sample.mask for row in rows]
    if all(mask is None for mask in masks):
        return None
    full = latents.new_ones(latents.shape[-2:])
    stacked = torch.stack([full if mask is None else mask.to(latents) for mask in masks])[:, None]
    return [functional.interpolate(stacked, size=size, mode="area") for size in _sizes(models, latents)]


def _sizes(models: Models, latents: torch.Tensor) -> list[tuple[int, int]]:
    """(height, width) of each level of the UNet; a level is half the one above, rounded up."""
    height, width = latents.shape[-2:]
    levels = range(len(models.unet.config.block_out_channels))
    return [(-(-height // 2**level), -(-width // 2**level)) for level in levels]


def _column(values: Sequence[float], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)
