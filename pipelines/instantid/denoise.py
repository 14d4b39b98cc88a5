"""The denoising loop: one UNet call per step over the rows of all shots, whatever step each is at.

A shot is a row of its own with its own timestep, scales, prompt, face and generator, so a batch may mix
anything but the picture size, and shots may come and go between two steps. Rows that do not count are not
computed: no unconditional row outside the guidance interval, no ControlNet outside its window. LoRAs change
the UNet itself, so each set of them has a forward of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from pipelines.instantid.adapter import Models
from pipelines.instantid.batch import Row, build_batch, predict
from pipelines.instantid.guidance import combine, is_guided
from pipelines.instantid.lora import canonical
from pipelines.instantid.samples import Sample, require_finite, with_kept_region
from pipelines.instantid.schedulers import step
from pipelines.presets import Lora


def run(
    models: Models,
    samples: Sequence[Sample],
    on_step: Callable[[Sample], None] = lambda sample: None,
    cancelled: Callable[[str], bool] = lambda shot_id: False,
) -> list[Sample]:
    """The finished samples, in the order given, less those for which `cancelled(shot_id)` turned true.

    `on_step` is told of every sample after each of its steps; `cancelled` is asked before each.
    Raises Final("nan_latents") if a finished sample is not finite.
    """
    flying = dict(enumerate(samples))
    finished: dict[int, Sample] = {}
    while flying:
        finished |= {index: sample for index, sample in flying.items() if sample.is_done}
        flying = {
            index: sample
            for index, sample in flying.items()
            if not sample.is_done and not cancelled(sample.shot_id)
        }
        moved = denoise_step(models, list(flying.values()))
        flying = dict(zip(flying, moved, strict=True))
        for sample in moved:
            on_step(sample)
    return [require_finite(finished[index]) for index in sorted(finished)]


def denoise_step(models: Models, samples: Sequence[Sample]) -> list[Sample]:
    """Each sample one step further, in the order given; none may be done, all are of one size.

    Raises Final as `Loras.activated` and `Controls.net` do.
    """
    groups: dict[tuple[Lora, ...], list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(canonical(sample.loras), []).append(index)
    moved: dict[int, Sample] = {}
    for loras, indices in groups.items():
        with models.loras.activated(loras):
            stepped = _forward(models, [samples[index] for index in indices])
        moved |= zip(indices, stepped, strict=True)
    return [moved[index] for index in range(len(samples))]


def _forward(models: Models, samples: Sequence[Sample]) -> list[Sample]:
    """One call of the UNet over samples of one set of LoRAs, and what each makes of its rows."""
    rows = [
        Row(sample, is_negative)
        for sample in samples
        for is_negative in ((False, True) if is_guided(sample.guidance, sample.move.sigma) else (False,))
    ]
    with torch.inference_mode():
        model_input = torch.stack([row.sample.latents * row.sample.move.input_scale for row in rows])
        noise_pred = predict(models, build_batch(models, rows, model_input))
        moved, at = [], 0
        for sample in samples:
            count = 2 if at + 1 < len(rows) and rows[at + 1].is_negative else 1
            moved.append(_advance(sample, model_input[at], noise_pred[at : at + count]))
            at += count
    return moved


def _advance(sample: Sample, model_input: torch.Tensor, noise_pred: torch.Tensor) -> Sample:
    """Guidance and scheduler of one sample, from its one or two predictions, and what inpainting keeps."""
    guided, momentum = combine(
        sample.guidance,
        noise_pred[0],
        noise_pred[1] if len(noise_pred) == 2 else None,
        model_input=model_input,
        sigma=sample.move.sigma,
        momentum=sample.momentum,
    )
    latents, history = step(sample.move, sample.latents, guided, sample.history, sample.generator)
    return with_kept_region(
        replace(sample, latents=latents, history=history, momentum=momentum, position=sample.position + 1)
    )
