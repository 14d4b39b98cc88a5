"""Starting from a picture: later steps of a schedule, and inpainting, where only a region is made anew.

img2img as in SDEdit (arXiv 2108.01073); inpainting keeps what is outside of the mask by putting it back
after each step at the noise level just reached (arXiv 2201.09865), which needs no special UNet.
"""

from dataclasses import dataclass
from typing import Any, Literal
from typing import Final as Constant

import numpy as np
import torch

from pipelines.instantid.samples import LATENT_CHANNELS, Inpaint
from pipelines.instantid.schedulers import Schedule, add_noise, build_schedule
from pipelines.keypoints import Mask, Points, face_mask
from pipelines.presets import PresetError
from pipelines.types import Box, Pixels, StartingPicture

LATENT_SCALE: Constant = 8
MIN_BOX_SIDE: Constant = 64  # pixels: 8 latents; a smaller region holds nothing that could be made anew
BOX_FEATHER: Constant = 32  # pixels; a quarter of the box's shorter side if that is less


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Start:
    """Where a shot begins. `schedule`, `latents` and `inpaint` go into its Sample; `mask` (height, width),
    1 where the picture is made anew and 0 where it keeps its pixels, goes to `blend`; None without inpaint.
    """

    schedule: Schedule
    latents: torch.Tensor
    inpaint: Inpaint | None
    mask: Mask | None


def begin(
    picture: StartingPicture,
    *,
    vae: Any,
    scheduler: str,
    num_inference_steps: int,
    generator: torch.Generator,
    device: torch.device,
    keypoints: Points | None = None,
) -> Start:
    """The start of a shot from `picture`.

    `generator` is the shot's own; it is asked once, as for a start from pure noise. `keypoints` (5, 2) of the
    face in that picture are needed for inpaint "face". Raises PresetError where `strength` leaves no step
    or the box is none of the picture, and Refused("no_face") for keypoints that are no face.
    """
    schedule = shortened(scheduler, num_inference_steps, picture.strength)
    original = encode(vae, picture.pixels).to(device)
    mask = None
    if picture.inpaint is not None:
        mask = region(picture.inpaint, picture.pixels.shape[1], picture.pixels.shape[0], keypoints)
    noise = torch.randn(original.shape, generator=generator, dtype=torch.float32).to(device)
    inpaint = None
    if mask is not None:
        inpaint = Inpaint(original=original, noise=noise, mask=latent_mask(mask).to(device))
    latents = add_noise(schedule, 0, original, noise)
    return Start(schedule=schedule, latents=latents, inpaint=inpaint, mask=mask)


def shortened(scheduler: str, num_inference_steps: int, strength: float) -> Schedule:
    """The schedule with only its last int(num_inference_steps * strength) steps, as img2img of diffusers
    counts them; multistep schedulers begin again at first order.

    Strength 1 is the whole schedule. Raises PresetError for a strength that leaves no step.
    """
    if not 0.0 < strength <= 1.0:  # also refuses NaN
        raise PresetError(f"strength must be above 0 and at most 1, not {strength:g}")
    count = int(num_inference_steps * strength)
    if count < 1:
        raise PresetError(
            f"strength must be at least {1 / num_inference_steps:g} with {num_inference_steps} steps, "
            f"else none is left; not {strength:g}"
        )
    return build_schedule(scheduler, num_inference_steps, first=num_inference_steps - count)


def encode(vae: Any, pixels: Pixels) -> torch.Tensor:
    """The picture's latents (4, height / 8, width / 8), float32: the posterior's mean, in the UNet's scale.

    The mean and not a draw: the same picture gives the same latents. Raises PresetError for sides that are
    no multiples of 8.
    """
    height, width = pixels.shape[:2]
    if height % LATENT_SCALE or width % LATENT_SCALE:
        raise PresetError(f"a starting picture's sides must be multiples of 8, not {width} x {height}")
    with torch.inference_mode():
        scaled = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float() / 127.5 - 1
        mean = vae.encode(scaled.to(vae.device, vae.dtype)).latent_dist.mean[0, :LATENT_CHANNELS]
        return mean.float() * float(vae.config.scaling_factor)


def region(inpaint: Literal["face"] | Box, width: int, height: int, keypoints: Points | None = None) -> Mask:
    """Where a picture is made anew: (height, width) float32, 1 inside, smoothly 0 at the rim, 0 outside.

    Raises PresetError for a box that is not inside the picture or too small, ValueError for "face" without
    keypoints, and Refused("no_face") for keypoints that are no face.
    """
    if isinstance(inpaint, Box):
        return _box_mask(inpaint, width, height)
    if keypoints is None:
        raise ValueError("inpaint 'face' needs the five points of the face in the starting picture")
    return face_mask(keypoints, width, height)


def latent_mask(mask: Mask) -> torch.Tensor:
    """(height / 8, width / 8), 1 in every block of pixels that the mask touches, so that its soft rim blends
    pixels made for that place, and 0 elsewhere."""
    height, width = mask.shape
    blocks = mask.reshape(height // LATENT_SCALE, LATENT_SCALE, width // LATENT_SCALE, LATENT_SCALE)
    return torch.from_numpy((blocks.max(axis=(1, 3)) > 0).astype(np.float32))


def blend(picture: StartingPicture, made: Pixels, mask: Mask | None) -> Pixels:
    """The finished picture: `made` inside the mask of its Start, and outside the very pixels of `picture`.

    Without mask it is `made` itself.
    """
    if mask is None:
        return made
    original = picture.pixels.astype(np.float32)
    mixed = original + mask[..., None] * (made.astype(np.float32) - original)
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def _box_mask(box: Box, width: int, height: int) -> Mask:
    right, bottom = box.left + box.width, box.top + box.height
    inside = box.left >= 0 and box.top >= 0 and right <= width and bottom <= height
    if not inside or min(box.width, box.height) < MIN_BOX_SIDE:
        raise PresetError(
            f"an inpaint box must lie in the {width} x {height} picture with sides of at least "
            f"{MIN_BOX_SIDE}, not {box.width} x {box.height} at ({box.left}, {box.top})"
        )
    feather = min(BOX_FEATHER, min(box.width, box.height) // 4)
    across = _ramp(box.left, right, width, feather)
    down = _ramp(box.top, bottom, height, feather)
    return np.asarray(np.minimum(across[None, :], down[:, None]), dtype=np.float32)


def _ramp(start: int, end: int, size: int, feather: int) -> Mask:
    """1 between `start` and `end`, falling smoothly to 0 within `feather` of them; a picture's own edge has
    nothing beside it to blend with."""
    at = np.arange(size, dtype=np.float32) + 0.5
    rise = np.ones(size, np.float32) if start == 0 else (at - start) / feather
    fall = np.ones(size, np.float32) if end == size else (end - at) / feather
    share = np.clip(np.minimum(rise, fall), 0.0, 1.0)
    share[:start], share[end:] = 0.0, 0.0
    return np.asarray(share * share * (3 - 2 * share), dtype=np.float32)
