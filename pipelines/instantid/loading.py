"""From a folder of weights to networks on their device, and the proof of what they run on."""

import hashlib
import importlib.metadata
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import Final as Constant

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from insightface.app import FaceAnalysis
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from pipelines import weights
from pipelines.errors import Final
from pipelines.gate import Thresholds
from pipelines.instantid import faces
from pipelines.instantid.adapter import Models, connect
from pipelines.instantid.safety import load_safety
from pipelines.instantid.text import TextEncoders
from pipelines.keypoints import FRAMING_VERSION
from pipelines.types import Pixels
from pipelines.upscale import Upscaler, load_upscaler

DEVICES: Constant = ("cpu", "cuda")
# bfloat16 has float32's range, so SDXL never overflows in it; the VAE has float16's finer steps, which
# bfloat16 would show as bands in smooth backdrops, and its weights are the ones mended for float16.
NETWORK_DTYPE: Constant = {"cpu": torch.float32, "cuda": torch.bfloat16}
PICTURE_DTYPE: Constant = {"cpu": torch.float32, "cuda": torch.float16}
_PACKAGES: Constant = (
    "torch",
    "diffusers",
    "transformers",
    "insightface",
    "onnxruntime-gpu",
    "basicsr",
    "realesrgan",
)

transformers_logging.disable_progress_bar()  # it writes into the log of a worker


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parts:
    """Everything the engine renders with. `proof` says in words and numbers what it runs on."""

    bundle: weights.Bundle
    models: Models
    text: TextEncoders
    vae: Any
    analysis: FaceAnalysis
    judge: Any
    is_unsafe: Callable[[Pixels], bool]
    upscaler: Upscaler
    thresholds: Thresholds
    is_random: bool
    proof: Mapping[str, str]


def load_parts(folder: Path, device: str) -> Parts:
    """The bundle in `folder`, every byte compared with its lock, on `device` ("cpu" or "cuda").

    Raises Final: weights_missing, weights_altered, bad_weights, bad_calibration, unknown_device, no_cuda
    (also when a session of onnxruntime fell back to the CPU). Each names the file or the part and the mend.
    """
    require_device(device)
    bundle = weights.resolve(folder, check_hashes=True)
    thresholds = Thresholds.load(bundle.calibration)
    dtype, picture_dtype = NETWORK_DTYPE[device], PICTURE_DTYPE[device]
    analysis = faces.load_analysis(bundle.faces, device)
    judge = faces.load_judge(bundle.judge, device)
    vae = _network(AutoencoderKL, bundle.vae, picture_dtype, device)
    text = _text_encoders(bundle.base, dtype, device)
    safety = load_safety(bundle.safety, device, picture_dtype) if bundle.safety else _no_opinion
    return Parts(
        bundle=bundle,
        models=_models(bundle, text, dtype, device),
        text=text,
        vae=vae.requires_grad_(False),
        analysis=analysis,
        judge=judge,
        is_unsafe=safety,
        upscaler=load_upscaler(bundle.upscaler, device=device, dtype=picture_dtype),
        thresholds=thresholds,
        is_random=weights.is_random(folder),
        proof=_proof(bundle, device, has_safety=bundle.safety is not None),
    )


def require_device(device: str) -> None:
    """Raises Final: unknown_device, or no_cuda where CUDA is asked for and torch sees none."""
    if device not in DEVICES:
        raise Final("unknown_device", f"device {device!r} is not one of {', '.join(DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise Final(
            "no_cuda", f"device cuda was asked for, but torch {torch.__version__} sees no CUDA device"
        )


def _no_opinion(picture: Pixels) -> bool:
    return False


def _models(bundle: weights.Bundle, text: TextEncoders, dtype: torch.dtype, device: str) -> Models:
    unet = _network(UNet2DConditionModel, bundle.base / "unet", dtype, device)
    identitynet = _network(ControlNetModel, bundle.identitynet, dtype, device)
    return connect(
        unet,
        identitynet,
        _adapter(bundle.adapter),
        name=str(bundle.adapter),
        bundle=bundle.folder,
        text_encoders=text.encoders,
    )


def _network(kind: Any, folder: Path, dtype: torch.dtype, device: str) -> Any:
    with _named(folder):
        network, info = kind.from_pretrained(
            folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    _require_complete(folder, info)
    network = network.to(device).eval()
    return network.to(memory_format=torch.channels_last) if device == "cuda" else network


def _text_encoders(base: Path, dtype: torch.dtype, device: str) -> TextEncoders:
    encoders = []
    for name, kind in (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection)):
        with _named(base / name):
            encoder, info = kind.from_pretrained(
                base / name,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        _require_complete(base / name, info)
        encoders.append(encoder.to(device).eval().requires_grad_(False))
    tokenizers = []
    for name in ("tokenizer", "tokenizer_2"):
        with _named(base / name):
            tokenizers.append(CLIPTokenizer.from_pretrained(base / name, local_files_only=True))
    return TextEncoders(tokenizers=(tokenizers[0], tokenizers[1]), encoders=(encoders[0], encoders[1]))


def _adapter(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The published state dict again, from its flat names."""
    with _named(path):
        tensors = load_file(path)
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    return parts


@contextmanager
def _named(path: Path) -> Any:
    """An error of a library while reading becomes ours, with the path and what mends it."""
    try:
        yield
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise Final(
            "bad_weights",
            f"{path} cannot be loaded ({type(error).__name__}: {str(error)[:300]}). {_mend(path)}",
        ) from error


def _require_complete(path: Path, info: Mapping[str, Any]) -> None:
    """What the file lacks would silently be random numbers."""
    wrong = {
        what: sorted(map(str, info[what]))[:3]
        for what in ("missing_keys", "mismatched_keys", "error_msgs")
        if info.get(what)
    }
    if wrong:
        raise Final("bad_weights", f"{path} does not fit its configuration: {wrong}. {_mend(path)}")


def _mend(path: Path) -> str:
    """The command for what is as recorded and still cannot be loaded, so that `fetch` alone would keep it."""
    folder = next(parent for parent in path.parents if (parent / weights.LOCK).is_file())
    if weights.is_random(folder):
        return f"Mend: python manage.py weights tiny {folder}"
    return f"Mend: delete it, then: python manage.py weights fetch {folder}"


def _proof(bundle: weights.Bundle, device: str, *, has_safety: bool) -> dict[str, str]:
    """Device, number format, versions, framing and the lock's hash: for the log, and to repeat a picture."""
    name = torch.cuda.get_device_name(0) if device == "cuda" else "CPU"
    versions = {package: importlib.metadata.version(package) for package in _PACKAGES}
    return {
        "device": f"{device} ({name})",
        "dtype": str(NETWORK_DTYPE[device]).removeprefix("torch."),
        "providers": faces.PROVIDERS[device],
        "weights": hashlib.sha256((bundle.folder / weights.LOCK).read_bytes()).hexdigest(),
        "framing": f"version {FRAMING_VERSION}",
        "safety_checker": "on" if has_safety else "not in the bundle",
        **versions,
    }
