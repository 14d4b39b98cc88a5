"""From a request to a shot in flight: the person, the prompts, and what a seed decides."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from typing import Final as Constant

import numpy as np
import torch

from pipelines import keypoints
from pipelines.errors import Refused
from pipelines.instantid.conditioning import (
    Conditioning,
    Identity,
    Prompt,
    encode_identity,
    encode_keypoints,
    encode_prompt,
)
from pipelines.instantid.faces import IdentityFace, find_faces, mean_embedding, the_one_face
from pipelines.instantid.guidance import Guidance, negative_embedding
from pipelines.instantid.loading import Parts
from pipelines.instantid.lora import canonical
from pipelines.instantid.quality import Reference, make_reference
from pipelines.instantid.samples import Sample, initial_latents, seeded
from pipelines.instantid.schedulers import build_schedule
from pipelines.instantid.start import Start
from pipelines.instantid.start import begin as start_from
from pipelines.presets import HEIGHT, WIDTH, StylePreset
from pipelines.types import Pixels, ShotRequest

# For the prompts that are kept on the device. At full size and 2 bytes a number, a pair of 77 tokens takes
# 51 MB (166 400 columns of keys and values), so ten fit; longer texts and second ControlNets take more.
MAX_PROMPT_BYTES: Constant = 512 * 1024**2
LATENT_SCALE: Constant = 8  # pixels for each latent, along an edge


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Person:
    """What is derived from one portrait, once; lives in memory for the length of a run."""

    face: IdentityFace
    reference: Reference
    embedding: torch.Tensor
    identity: Identity
    negative_identities: dict[str, Identity] = field(default_factory=dict)


def make_person(parts: Parts, portrait: Pixels, further_portraits: Sequence[Pixels] = ()) -> Person:
    """The person of a portrait; what is recognised is the mean over all photos, the rest is the first one's.

    Raises Refused: no_face, several_faces, face_too_small.
    """
    face, *others = (the_one_face(parts.analysis, photo) for photo in (portrait, *further_portraits))
    embedding = torch.from_numpy(mean_embedding([face, *others]))
    return Person(
        face=face,
        reference=make_reference(portrait, face, parts.judge),
        embedding=embedding,
        identity=encode_identity(parts.models, embedding),
    )


class Prompts:
    """The encoded prompts of styles, kept between runs: they hold nothing of anybody.

    Those used last are kept, up to MAX_PROMPT_BYTES, and at least the last one.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._kept: OrderedDict[tuple[Any, ...], tuple[Prompt, Prompt]] = OrderedDict()

    def of(self, preset: StylePreset) -> tuple[Prompt, Prompt]:
        """Prompt and negative prompt of a style.

        Raises Final: prompt_too_long, lora_missing, bad_lora, control_missing, bad_control.
        """
        kinds = (preset.extra_control.kind,) if preset.extra_control else ()
        texts = (preset.prompt, preset.negative_prompt)
        key = (*texts, canonical(preset.loras), kinds)
        if key not in self._kept:
            with self._parts.models.loras.activated(preset.loras):
                self._kept[key] = (self._encoded(texts[0], kinds), self._encoded(texts[1], kinds))
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and sum(map(_size_bytes, self._kept.values())) > MAX_PROMPT_BYTES:
            self._kept.popitem(last=False)
        return self._kept[key]

    def _encoded(self, text: str, control_kinds: tuple[str, ...]) -> Prompt:
        encoded = self._parts.text.encode(text)
        return encode_prompt(
            self._parts.models, encoded.hidden_states, encoded.pooled, control_kinds=control_kinds
        )


def _size_bytes(pair: tuple[Prompt, Prompt]) -> int:
    return sum(
        tensor.nbytes
        for prompt in pair
        for tensor in (prompt.keys_values, prompt.pooled, *prompt.control_keys_values.values())
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Begun:
    """A shot before its first step; `remade` is the region of its starting picture that is made anew, for
    `start.blend`, None where all of it is."""

    sample: Sample
    remade: keypoints.Mask | None


def begin(parts: Parts, prompts: Prompts, person: Person, request: ShotRequest, seed: int) -> Begun:
    """The shot of `request` before its first step; `seed` decides noise, jitter and mirror, nothing else.

    Raises Final as `Prompts.of` does, and unknown_scheduler; PresetError for a start that cannot be; and
    Refused("no_face") where the face of a starting picture is to be made anew and it has none.
    """
    preset, device = request.preset, parts.models.device
    prompt, negative_prompt = prompts.of(preset)
    generator = seeded(seed)
    points, start = _beginning(parts, person, request, seed, generator)
    wanted = preset.extra_control
    sample = Sample(
        shot_id=request.shot_id,
        latents=start.latents,
        schedule=start.schedule,
        generator=generator,
        conditioning=Conditioning(
            prompt=prompt,
            negative_prompt=negative_prompt,
            identity=person.identity,
            negative_identity=_negative_identity(parts, person, preset.negative_identity),
            time_ids=torch.tensor([HEIGHT, WIDTH, 0, 0, HEIGHT, WIDTH], dtype=torch.float32),
            control=_drawn(parts, points),
        ),
        guidance=Guidance(method=preset.guidance_method, scale=preset.guidance_scale),
        ip_adapter_scale=preset.ip_adapter_scale,
        controlnet_conditioning_scale=preset.controlnet_conditioning_scale,
        control_guidance_end=preset.control_guidance_end,
        mask=_mask(points).to(device) if preset.is_face_masked else None,
        loras=canonical(preset.loras),
        control=parts.models.controls.control(wanted) if wanted else None,
        inpaint=start.inpaint,
    )
    return Begun(sample=sample, remade=start.mask)


def _beginning(
    parts: Parts, person: Person, request: ShotRequest, seed: int, generator: torch.Generator
) -> tuple[keypoints.Points, Start]:
    """Where the face goes, and the latents of the first step: noise, or the starting picture under noise."""
    preset, device = request.preset, parts.models.device
    points: keypoints.Points = keypoints.place(person.face.keypoints, preset.framing, seed)
    if request.start is None:
        schedule = build_schedule(preset.scheduler, preset.num_inference_steps)
        latents = initial_latents(generator, schedule, width=WIDTH, height=HEIGHT, device=device)
        return points, Start(schedule=schedule, latents=latents, inpaint=None, mask=None)
    found = find_faces(parts.analysis, request.start.pixels)
    if found:
        points = found[0].keypoints  # the face stays where it is in that picture
    elif request.start.inpaint == "face":
        raise Refused("no_face", "the starting picture has no face to make anew")
    return points, start_from(
        request.start,
        vae=parts.vae,
        scheduler=preset.scheduler,
        num_inference_steps=preset.num_inference_steps,
        generator=generator,
        device=device,
        keypoints=points,
    )


def _negative_identity(parts: Parts, person: Person, kind: str) -> Identity:
    if kind not in person.negative_identities:
        embedding = negative_embedding(person.embedding, kind)
        person.negative_identities[kind] = encode_identity(parts.models, embedding)
    return person.negative_identities[kind]


def _drawn(parts: Parts, points: keypoints.Points) -> torch.Tensor:
    drawing = keypoints.draw_keypoints(points, WIDTH, HEIGHT).astype(np.float32) / np.float32(255)
    return encode_keypoints(parts.models, torch.from_numpy(drawing).permute(2, 0, 1))


def _mask(points: keypoints.Points) -> torch.Tensor:
    return torch.from_numpy(keypoints.mask_at(keypoints.face_mask(points, WIDTH, HEIGHT), LATENT_SCALE))
