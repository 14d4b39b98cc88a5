"""The safety checker: whether a rendered picture shows what must not be shown.

Stable Diffusion's own checker (Rando and others 2022, arXiv 2210.04610, describe it): the picture's CLIP
embedding is compared with those of seventeen concepts, each of which has its own bound.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors import SafetensorError
from transformers import CLIPImageProcessor

from pipelines.errors import Final as FinalError
from pipelines.types import Pixels

FILES: Final = ("config.json", "preprocessor_config.json", "model.safetensors")


def load_safety(folder: Path, device: str, dtype: torch.dtype) -> Callable[[Pixels], bool]:
    """The checker of `folder` on `device`: called with a picture of any size, True says that it is unsafe.

    The weights are published as float16; in bfloat16 a cosine of 0.25 is known to 0.001 only, and so is the
    verdict. Raises Final: weights_missing, bad_weights.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise FinalError(
            "weights_missing", f"{folder} lacks {', '.join(missing)}; it refuses unsafe pictures"
        )
    checker, processor = _read(folder, dtype)
    checker.to(device).eval().requires_grad_(False)

    def is_unsafe(picture: Pixels) -> bool:
        pixels = processor(images=picture, return_tensors="pt", input_data_format="channels_last")
        with torch.inference_mode():
            # The checker blackens the pictures it is handed in place: it gets an empty one.
            _, verdicts = checker(
                clip_input=pixels["pixel_values"].to(device, dtype), images=[torch.zeros(1)]
            )
        return bool(verdicts[0])

    return is_unsafe


def _read(folder: Path, dtype: torch.dtype) -> tuple[StableDiffusionSafetyChecker, CLIPImageProcessor]:
    try:
        checker, info = StableDiffusionSafetyChecker.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
    except (
        OSError,
        SafetensorError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,
    ) as error:
        raise FinalError(
            "bad_weights", f"{folder} cannot be loaded ({type(error).__name__}: {str(error)[:300]})"
        ) from error
    wrong = {
        what: sorted(map(str, info[what]))[:3] for what in ("missing_keys", "mismatched_keys") if info[what]
    }
    if wrong:  # what the file lacks would silently be random numbers
        raise FinalError("bad_weights", f"{folder} does not fit its configuration: {wrong}")
    return checker, processor
