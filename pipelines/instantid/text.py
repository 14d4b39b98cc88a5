"""SDXL's two text encoders: what a prompt becomes before the UNet's attention reads it."""

from dataclasses import dataclass
from typing import Any
from typing import Final as Constant

import torch

from pipelines.errors import Final

WINDOW_TOKENS: Constant = 77  # what CLIP reads at once, with the marks of start and end
MAX_WINDOWS: Constant = 4  # a power of two, see `_windows`


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedText:
    """`hidden_states` (77 * windows, 2048) of both encoders side by side, `pooled` (1280,) of the second."""

    hidden_states: torch.Tensor
    pooled: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoders:
    """Both tokenizers and encoders of an SDXL folder, in the order in which SDXL joins them."""

    tokenizers: tuple[Any, Any]
    encoders: tuple[Any, Any]

    def encode(self, text: str) -> EncodedText:
        """The text as SDXL reads it: the last but one layer of each encoder, and the pooled vector.

        A text of more than 75 tokens is read window by window, and the windows stand one after the other;
        the pooled vector is the first window's. Raises Final("prompt_too_long") beyond MAX_WINDOWS.
        """
        states = []
        with torch.inference_mode():
            for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True):
                output = encoder(_windows(tokenizer, text).to(encoder.device), output_hidden_states=True)
                hidden = output.hidden_states[-2]  # as SDXL was trained, arXiv 2307.01952, section 2.1
                states.append(hidden.reshape(-1, hidden.shape[-1]))
        return EncodedText(hidden_states=torch.cat(states, dim=-1), pooled=output.text_embeds[0])


def _windows(tokenizer: Any, text: str) -> torch.Tensor:
    """(windows, 77) token ids. Their count is 1, 2 or 4, so that the shorter of two prompts fits the longer
    one's place a whole number of times (see `batch`)."""
    inner = WINDOW_TOKENS - 2
    ids = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
    count = 1
    while count * inner < len(ids):
        count *= 2
    if count > MAX_WINDOWS:
        raise Final(
            "prompt_too_long", f"a prompt of {len(ids)} tokens; at most {MAX_WINDOWS * inner} can be read"
        )
    rows = []
    for start in range(0, count * inner, inner):
        part = [tokenizer.bos_token_id, *ids[start : start + inner], tokenizer.eos_token_id]
        rows.append(part + [tokenizer.pad_token_id] * (WINDOW_TOKENS - len(part)))
    return torch.tensor(rows)
