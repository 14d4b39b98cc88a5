"""Guidance methods against their formulas written out in numpy."""

import numpy as np
import pytest
import torch

from pipelines.instantid.guidance import Guidance, combine, is_guided, negative_embedding
from pipelines.presets import GUIDANCE_METHODS, PresetError

SIGMA = 2.5
SHAPE = (4, 16, 12)


def drawn(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


COND, UNCOND, INPUT, MOMENTUM = drawn(1), drawn(2), drawn(3), drawn(4)
C, U, X, M = (tensor.double().numpy() for tensor in (COND, UNCOND, INPUT, MOMENTUM))


def combined(method: str, scale: float, momentum: torch.Tensor | None = None) -> torch.Tensor:
    guidance = Guidance(method=method, scale=scale)
    return combine(guidance, COND, UNCOND, model_input=INPUT, sigma=SIGMA, momentum=momentum)[0]


@pytest.mark.parametrize("scale", [7.0, 9.5, 12.0])
@pytest.mark.parametrize("method", ["plain", "interval"])
def test_plain_guidance_extrapolates_from_uncond_to_cond(method: str, scale: float):
    np.testing.assert_allclose(combined(method, scale), U + scale * (C - U), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [7.0, 12.0])
@pytest.mark.parametrize("method", ["rescale", "rescale_interval"])
def test_rescale_gives_back_the_deviation_of_cond_mixed_by_phi(method: str, scale: float):
    guided = U + scale * (C - U)
    rescaled = guided * C.std(ddof=1) / guided.std(ddof=1)

    want = 0.7 * rescaled + 0.3 * guided

    np.testing.assert_allclose(combined(method, scale), want, rtol=1e-4, atol=1e-4)


def apg(scale: float, momentum: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Algorithm 1 of arXiv 2410.02416 on predicted pictures, in the scale of latents of unit variance."""
    alpha = 1 / (1 + SIGMA**2)
    picture_cond = (X - np.sqrt(1 - alpha) * C) / np.sqrt(alpha)
    picture_uncond = (X - np.sqrt(1 - alpha) * U) / np.sqrt(alpha)
    update = picture_cond - picture_uncond
    if momentum is not None:
        update = update - 0.5 * momentum
    capped = update * min(1.0, 15.0 / np.linalg.norm(update))
    parallel = np.vdot(capped, picture_cond) / np.vdot(picture_cond, picture_cond) * picture_cond
    picture = picture_cond + (scale - 1) * (capped - parallel)
    return (X - np.sqrt(alpha) * picture) / np.sqrt(1 - alpha), update


@pytest.mark.parametrize("momentum", [None, MOMENTUM])
@pytest.mark.parametrize("scale", [7.0, 12.0])
@pytest.mark.parametrize("method", ["apg", "apg_interval"])
def test_apg_keeps_the_capped_part_orthogonal_to_the_picture(
    method: str, scale: float, momentum: torch.Tensor | None
):
    want, remembered = apg(scale, None if momentum is None else M)

    guidance = Guidance(method=method, scale=scale)
    got, kept = combine(guidance, COND, UNCOND, model_input=INPUT, sigma=SIGMA, momentum=momentum)

    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert kept is not None
    np.testing.assert_allclose(kept, remembered, rtol=1e-4, atol=1e-4)


def test_a_small_update_is_not_capped():
    near = COND + 1e-3 * UNCOND
    guidance = Guidance(method="apg", scale=7.0)

    got, update = combine(guidance, COND, near, model_input=INPUT, sigma=SIGMA, momentum=None)

    assert update is not None
    assert float(update.norm()) < 15
    assert 0 < float((got - COND).norm()) <= 6 * float(update.norm()) / SIGMA


@pytest.mark.parametrize(
    ("sigma", "expected"), [(0.28, False), (0.2801, True), (5.42, True), (5.4201, False), (14.6, False)]
)
@pytest.mark.parametrize("method", GUIDANCE_METHODS)
def test_only_the_interval_methods_stop_outside_the_interval(method: str, sigma: float, expected: bool):
    assert is_guided(Guidance(method=method, scale=8.0), sigma) is (expected or "interval" not in method)


def test_without_uncond_the_answer_is_cond_and_the_momentum_rests():
    guidance = Guidance(method="apg_interval", scale=8.0)

    got, kept = combine(guidance, COND, None, model_input=INPUT, sigma=10.0, momentum=MOMENTUM)

    assert torch.equal(got, COND)
    assert kept is MOMENTUM


@pytest.mark.parametrize("scale", [6.9, 12.1, float("nan")])
def test_guidance_scale_out_of_bounds_cannot_be_built(scale: float):
    with pytest.raises(PresetError, match="guidance_scale must be between 7 and 12"):
        Guidance(method="plain", scale=scale)


def test_an_unknown_method_cannot_be_built():
    with pytest.raises(PresetError, match="'dynamic'"):
        Guidance(method="dynamic", scale=8.0)


def test_negative_identities():
    embedding = torch.randn(512, generator=torch.Generator().manual_seed(1))

    noise = negative_embedding(embedding, "noise")

    assert torch.equal(negative_embedding(embedding, "zeros"), torch.zeros(512))
    assert negative_embedding(embedding, "same") is embedding
    assert 0 <= float(noise.min()) < 0.01
    assert 0.34 < float(noise.max()) < 0.35
    assert torch.equal(noise, negative_embedding(embedding.clone(), "noise"))
    assert not torch.equal(noise, negative_embedding(embedding + 1, "noise"))
    with pytest.raises(PresetError, match="'mean'"):
        negative_embedding(embedding, "mean")
