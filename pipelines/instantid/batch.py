"""One forward of the networks: rows of any shots put into tensors, and the prediction from those alone.

`build_batch` is where shots meet; `predict` sees tensors only, takes no decision that needs their values,
and can be compiled or captured as a graph for each pair of row counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional

from pipelines.instantid.adapter import Models
from pipelines.instantid.attention import AttentionRows
from pipelines.instantid.conditioning import Identity, Prompt
from pipelines.instantid.lora import canonical
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
    """What one network is given: the same for the UNet and for ControlNets, which may have fewer rows.

    `latents` (rows, 4, height, width) in the networks' dtype, `timesteps` (rows,) float32, `pooled`
    (rows, pooled dim), `time_ids` (rows, 6).
    """

    latents: torch.Tensor
    timesteps: torch.Tensor
    pooled: torch.Tensor
    time_ids: torch.Tensor
    attention: AttentionRows


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlNetInput:
    """What a ControlNet adds: `rows` (n,) says which rows of the batch are asked, None if all are.

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
    """One forward. `identitynet` is None where no row asks for it, and then it is not called; `controls`
    are the second ControlNets that rows ask for, by kind."""

    unet: NetworkInput
    identitynet: ControlNetInput | None
    controls: Mapping[str, ControlNetInput]


def build_batch(models: Models, rows: Sequence[Row], model_input: torch.Tensor) -> Batch:
    """The tensors of one forward; `model_input` (rows, 4, height, width) are the scaled latents.

    Raises RuntimeError for a prompt that was encoded under other LoRAs than its shot asks for, or not for
    its second ControlNet.
    """
    for row in rows:
        _require_fitting(row)
    latents = model_input.to(models.dtype)
    asked = [index for index, row in enumerate(rows) if row.sample.needs_identitynet]
    by_kind: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        if row.sample.control is not None and row.sample.needs_control:
            by_kind.setdefault(row.sample.control.kind, []).append(index)
    return Batch(
        unet=_network_input(rows, latents, _unet_attention(models, rows, latents)),
        identitynet=_identitynet_input(models, rows, latents, asked) if asked else None,
        controls={
            kind: _control_input(kind, rows, latents, indices) for kind, indices in sorted(by_kind.items())
        },
    )


def predict(models: Models, batch: Batch) -> torch.Tensor:
    """The noise predicted for every row (rows, 4, height, width)."""
    given = batch.unet
    residuals = _residuals(models, batch)
    prediction: torch.Tensor = models.unet(
        given.latents,
        given.timesteps,
        encoder_hidden_states=None,  # every layer reads its cached keys and values
        added_cond_kwargs={"text_embeds": given.pooled, "time_ids": given.time_ids},
        cross_attention_kwargs={"ip_hidden_states": given.attention},
        down_block_additional_residuals=residuals[:-1] if residuals else None,
        mid_block_additional_residual=residuals[-1] if residuals else None,
        return_dict=False,
    )[0]
    return prediction


def _require_fitting(row: Row) -> None:
    sample, prompt = row.sample, row.prompt
    if prompt.loras != canonical(sample.loras):
        raise RuntimeError(
            f"shot {sample.shot_id}: its prompt was encoded under other LoRAs than it asks for"
        )
    if sample.control is not None and sample.control.kind not in prompt.control_keys_values:
        raise RuntimeError(f"shot {sample.shot_id}: its prompt was not encoded for {sample.control.kind}")


def _residuals(models: Models, batch: Batch) -> list[torch.Tensor]:
    """The ControlNets' residuals for the UNet, the mid block's last, zero in rows that ask for none; empty
    if no row asks."""
    calls = [(models.controls.net(kind).network, asked) for kind, asked in batch.controls.items()]
    if batch.identitynet is not None:
        calls.insert(0, (models.identitynet, batch.identitynet))
    count, total = len(batch.unet.latents), list[torch.Tensor]()
    for network, asked in calls:
        parts = [_spread(residual, asked, count) for residual in _controlled(network, asked)]
        total = [one + other for one, other in zip(total, parts, strict=True)] if total else parts
    return total


def _controlled(network: Any, asked: ControlNetInput) -> list[torch.Tensor]:
    """The scaled residuals of one ControlNet for the rows it is asked for, the mid block's last."""
    given = asked.network
    down, mid = network(
        given.latents,
        given.timesteps,
        encoder_hidden_states=None,
        controlnet_cond=asked.control,
        conditioning_scale=asked.scales,
        added_cond_kwargs={"text_embeds": given.pooled, "time_ids": given.time_ids},
        cross_attention_kwargs={"ip_hidden_states": given.attention},
        return_dict=False,
    )
    return [*down, mid]


def _spread(residual: torch.Tensor, asked: ControlNetInput, count: int) -> torch.Tensor:
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
) -> ControlNetInput:
    some = [rows[index] for index in asked]
    masks = _masks(models, some, latents)
    return _controlnet_input(
        rows,
        latents,
        asked,
        keys_values=torch.stack([row.identity.identitynet_keys_values for row in some]),
        control=torch.stack([row.sample.conditioning.control for row in some]),
        scales=[row.sample.controlnet_conditioning_scale for row in some],
        masks=None if masks is None else {mask.shape[-2]: mask for mask in masks},
    )


def _control_input(
    kind: str, rows: Sequence[Row], latents: torch.Tensor, asked: Sequence[int]
) -> ControlNetInput:
    some = [rows[index] for index in asked]
    controls = [control for row in some if (control := row.sample.control) is not None]
    return _controlnet_input(
        rows,
        latents,
        asked,
        keys_values=_even([row.prompt.control_keys_values[kind] for row in some]),
        control=torch.stack([control.condition for control in controls]),
        scales=[control.conditioning_scale for control in controls],
        masks=None,  # the mask says where the face acts; depth and edges are of the whole picture
    )


def _controlnet_input(
    rows: Sequence[Row],
    latents: torch.Tensor,
    asked: Sequence[int],
    *,
    keys_values: torch.Tensor,
    control: torch.Tensor,
    scales: Sequence[float],
    masks: dict[int, torch.Tensor] | None,
) -> ControlNetInput:
    index = None if len(asked) == len(rows) else torch.tensor(asked, device=latents.device)
    latents = latents if index is None else latents[index]
    return ControlNetInput(
        network=_network_input([rows[i] for i in asked], latents, AttentionRows(keys_values=keys_values)),
        rows=index,
        control=control,
        scales=_column(scales, latents.device).to(latents.dtype).view(-1, 1, 1, 1),
        masks=masks,
    )


def _unet_attention(models: Models, rows: Sequence[Row], latents: torch.Tensor) -> AttentionRows:
    texts = _even([row.prompt.keys_values for row in rows])
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


def _even(texts: Sequence[torch.Tensor]) -> torch.Tensor:
    """(rows, tokens, columns) of texts of 1, 2 or 4 windows: shorter ones are repeated, which leaves
    softmax attention as it is, where padding would need a mask."""
    longest = max(len(text) for text in texts)
    return torch.stack([text.repeat(longest // len(text), 1) for text in texts])


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
