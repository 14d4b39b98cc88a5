"""SDXL's text encoders through our own windows."""

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from pipelines.errors import Final
from pipelines.instantid.loading import Parts


def test_a_prompt_is_encoded_as_diffusers_own_pipeline_does_it(parts: Parts) -> None:
    text = "portrait photo of a person, navy suit, soft light"
    stock = StableDiffusionXLPipeline(
        vae=parts.vae,
        text_encoder=parts.text.encoders[0],
        text_encoder_2=parts.text.encoders[1],
        tokenizer=parts.text.tokenizers[0],
        tokenizer_2=parts.text.tokenizers[1],
        unet=parts.models.unet,
        scheduler=None,
    )
    hidden_states, _, pooled, _ = stock.encode_prompt(text, device="cpu", do_classifier_free_guidance=False)
    ours = parts.text.encode(text)
    assert ours.hidden_states.shape == (77, 64)
    assert torch.equal(ours.hidden_states, hidden_states[0])
    assert torch.equal(ours.pooled, pooled[0])


def test_a_long_prompt_is_read_to_its_end_in_windows(parts: Parts) -> None:
    start = "portrait, " * 8
    spelled = parts.text.tokenizers[0](start, add_special_tokens=False).input_ids
    assert len(spelled) <= 75
    text = start
    while len(parts.text.tokenizers[0](text, add_special_tokens=False).input_ids) <= 75:
        text += "portrait, "
    one, two = parts.text.encode(text + "red hat"), parts.text.encode(text + "blue hat")
    assert one.hidden_states.shape == (154, 64)
    assert torch.equal(one.hidden_states[:77], two.hidden_states[:77])
    assert not torch.allclose(one.hidden_states[77:], two.hidden_states[77:])
    assert torch.equal(one.pooled, two.pooled)


def test_a_prompt_beyond_four_windows_is_an_error_that_counts(parts: Parts) -> None:
    with pytest.raises(Final, match=r"at most 300 can be read") as refused:
        parts.text.encode("portrait, " * 400)
    assert refused.value.code == "prompt_too_long"
