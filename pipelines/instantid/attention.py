"""Cross-attention over cached keys and values, for the UNet, IdentityNet and further ControlNets.

What is constant for a prompt or a person is computed once and never again in the loop: keys and values of
the text, of the face and of IdentityNet's own cross-attention. They travel packed, all layers side by side
in one tensor (tokens, 2 * sum of layer widths), so that building a batch is one copy; every layer reads its
own columns. InstantID itself (Apache-2.0) recomputes them each step and keeps an attention map per layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRows:
    """What the cross-attention of one forward reads: one row per row of the batch.

    `keys_values` (rows, tokens, columns) holds text for the UNet and face for IdentityNet;
    `face_keys_values` (rows, 16, columns) the face branch of the UNet, None where there is none.
    `face_weights` maps the number of positions of a layer to (rows, 1, 1 or positions, 1): the
    ip_adapter_scale of the row times its region mask.
    """

    keys_values: torch.Tensor
    face_keys_values: torch.Tensor | None = None
    face_weights: Mapping[int, torch.Tensor] | None = None


class DecoupledAttention:
    """Cross-attention of one layer over cached keys and values: text plus weighted face (arXiv 2308.06721).

    An attention processor of diffusers. The rows come as `ip_hidden_states` of cross_attention_kwargs, the
    one extra name that diffusers' self-attention lets pass in silence.
    """

    def __init__(self, start: int, width: int) -> None:
        self.keys = slice(start, start + width)
        self.values = slice(start + width, start + 2 * width)

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
        ip_hidden_states: AttentionRows | None = None,
    ) -> torch.Tensor:
        """(rows, positions, channels) in and out."""
        if ip_hidden_states is None:
            raise RuntimeError("this layer attends to cached keys and values, and was given none")
        rows = ip_hidden_states
        query = _heads(attn.to_q(hidden_states), attn.heads)
        attended = self._attend(query, rows.keys_values)
        if rows.face_keys_values is not None and rows.face_weights is not None:
            weights = rows.face_weights[hidden_states.shape[1]]
            attended = torch.addcmul(attended, weights, self._attend(query, rows.face_keys_values))
        attended = attended.transpose(1, 2).reshape(hidden_states.shape[0], hidden_states.shape[1], -1)
        return attn.to_out[1](attn.to_out[0](attended))

    def _attend(self, query: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
        heads = query.shape[1]
        keys, values = _heads(packed[..., self.keys], heads), _heads(packed[..., self.values], heads)
        return functional.scaled_dot_product_attention(query, keys, values)


def cross_attentions(network: Any) -> list[Any]:
    """The cross-attention modules in the order in which InstantID numbers them (1, 3, 5, ...)."""
    names = [key.removesuffix(".processor") for key in network.attn_processors]
    return [network.get_submodule(key) for key in names if key.endswith("attn2")]


def text_keys_values(network: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """(n, tokens, cross dim) through every cross-attention's own projections: (n, tokens, columns).

    A network without cross-attention, as small ControlNets are, has no columns.
    """
    layers = cross_attentions(network)
    parts = [part(hidden_states) for layer in layers for part in (layer.to_k, layer.to_v)]
    return torch.cat(parts, dim=-1) if parts else hidden_states[..., :0]


def attend_to_cache(network: Any) -> None:
    """Replace the cross-attention of `network`: now it reads the packed columns of `text_keys_values`."""
    start = 0
    for layer in cross_attentions(network):
        width = layer.to_k.out_features
        layer.set_processor(DecoupledAttention(start, width))
        start += 2 * width


def _heads(hidden_states: torch.Tensor, heads: int) -> torch.Tensor:
    rows, tokens, width = hidden_states.shape
    return hidden_states.view(rows, tokens, heads, width // heads).transpose(1, 2)
