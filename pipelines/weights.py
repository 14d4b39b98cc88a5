"""The weight bundle: one local folder with everything the InstantID engine loads, checked before it is read.

Nothing here opens a connection; `manage.py weights fetch` fills the folder. Its layout, which the engine and
`weights tiny` share, so that loading code cannot tell tiny weights from real ones:

    base/         a diffusers SDXL folder without its VAE: model_index.json, scheduler/, text_encoder/,
                  text_encoder_2/, tokenizer/, tokenizer_2/, unet/ (config.json and *.safetensors each)
    vae/          config.json, diffusion_pytorch_model.safetensors
    identitynet/  config.json, diffusion_pytorch_model.safetensors (InstantID's ControlNet)
    adapter/ip-adapter.safetensors   keys "image_proj.<name>" and "ip_adapter.<n>.to_{k,v}_ip.weight"
    faces/        scrfd_10g_bnkps.onnx, glintr100.onnx, 1k3d68.onnx, flat, as FaceAnalysis(name=faces) reads
    judge/auraface.onnx              a second recogniser
    upscaler/realesrgan.safetensors   the plain state dict of RRDBNet or SRVGGNetCompact
    safety/       optional: config.json, preprocessor_config.json, model.safetensors of the safety checker
    loras/<name>.safetensors         optional, the operator's own, named by styles; so are the next two:
    controls/{canny,depth,pose}/     diffusers ControlNets of SDXL: config.json, *.safetensors
    controls/images/<image>.png      the pictures these look at
    calibration.json   optional: the quality gate's bounds for these weights, see pipelines/gate.py
    weights.lock.json                what was put there: file -> key, size, sha256, licence accepted
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pipelines.errors import Final as FinalError
from pipelines.weights_manifest import ALTERNATIVES, CHOICES, KEYS, MANIFEST, WeightFile

__all__ = [
    "ALTERNATIVES",
    "CALIBRATION",
    "CHOICES",
    "KEYS",
    "LOCK",
    "MANIFEST",
    "Bundle",
    "Locked",
    "Verdict",
    "WeightFile",
    "convert",
    "digest",
    "is_random",
    "not_chosen",
    "read_lock",
    "resolve",
    "verify",
    "write_lock",
]

LOCK: Final = "weights.lock.json"
CALIBRATION: Final = "calibration.json"
_BLOCK_BYTES: Final = 1 << 20
# Published checkpoints keep the network one level down: Real-ESRGAN under the averaged or the plain weights.
_WRAPPERS: Final = ("params_ema", "params")


@dataclass(frozen=True, slots=True, kw_only=True)
class Locked:
    """What the lock says of one file: which model it is of, what it was when it was put there, and the
    licence that was accepted for it ("" for random weights)."""

    key: str
    size_bytes: int
    sha256: str
    licence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Paths of a complete bundle; `base`, `vae`, `identitynet`, `faces` and `safety` are folders, the others
    files. `safety` and `calibration` are None where the bundle has none."""

    folder: Path
    base: Path
    vae: Path
    identitynet: Path
    adapter: Path
    faces: Path
    judge: Path
    upscaler: Path
    safety: Path | None
    calibration: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What `verify` found for one file: `state` is "ok", "missing", "unconverted" or "altered"; `detail`
    says what was compared, or what is wrong and how to mend it."""

    path: str
    key: str
    state: str
    detail: str


def digest(path: Path) -> str:
    """The file's SHA-256 in hexadecimal, read block by block."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            hasher.update(block)
    return hasher.hexdigest()


def read_lock(folder: Path) -> dict[str, Locked]:
    """The lock's entries by path in the bundle; empty when there is no lock.

    Raises Final("weights_altered") when it cannot be read as a lock.
    """
    path = folder / LOCK
    if not path.exists():
        return {}
    try:
        files = json.loads(path.read_text())["files"]
        return {name: Locked(**entry) for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FinalError(
            "weights_altered",
            f"{path} is not a lock of weights ({type(error).__name__}). {_mend(folder, 'fetch')}",
        ) from error


def write_lock(folder: Path, entries: Mapping[str, Locked]) -> None:
    """Replace the lock in one step, so that a reader sees the old one or the new one."""
    text = json.dumps({"files": {name: asdict(entries[name]) for name in sorted(entries)}}, indent=1) + "\n"
    partial = folder / f"{LOCK}.part"
    partial.write_text(text)
    os.replace(partial, folder / LOCK)


def resolve(bundle: Path, *, check_hashes: bool = False) -> Bundle:
    """The paths of the bundle in folder `bundle`, after checking that every file is there and of its size.

    `check_hashes` also reads every byte (half a minute for real weights). Raises Final: weights_missing,
    weights_altered; the message names the file, what it is for and the command that mends it.
    """
    for verdict in verify(bundle, check_hashes=check_hashes):
        if verdict.state != "ok":
            code = "weights_altered" if verdict.state == "altered" else "weights_missing"
            raise FinalError(code, verdict.detail)
    safety, calibration = bundle / "safety", bundle / CALIBRATION
    return Bundle(
        folder=bundle,
        base=bundle / "base",
        vae=bundle / "vae",
        identitynet=bundle / "identitynet",
        adapter=bundle / "adapter" / "ip-adapter.safetensors",
        faces=bundle / "faces",
        judge=bundle / "judge" / "auraface.onnx",
        upscaler=bundle / "upscaler" / "realesrgan.safetensors",
        safety=safety if safety.is_dir() else None,
        calibration=calibration if calibration.is_file() else None,
    )


def is_random(folder: Path) -> bool:
    """Whether the bundle is one of random weights: recorded, and no licence was accepted for any file.

    Its pictures mean nothing, so production refuses it. Raises Final("weights_altered") as `read_lock` does.
    """
    lock = read_lock(folder)
    return bool(lock) and not any(entry.licence for entry in lock.values())


def not_chosen(keys: Iterable[str]) -> set[str]:
    """The models of `CHOICES` that a bundle does without: it has the first one in `keys`, or the usual."""
    preferred = list(keys)
    chosen = {next((key for key in preferred if key in choice), choice[0]) for choice in CHOICES.values()}
    return {key for choice in CHOICES.values() for key in choice} - chosen


def verify(
    folder: Path, *, check_hashes: bool = True, manifest: Iterable[WeightFile] = MANIFEST
) -> list[Verdict]:
    """One verdict for each file a bundle needs, or has begun to have. An optional model counts as begun as
    soon as one of its files is in the lock or in the folder: half a safety checker is never passed over.

    Raises Final("weights_altered") for an unreadable lock.
    """
    lock = read_lock(folder)
    left_out = not_chosen(lock[name].key for name in sorted(lock))
    files = [file for file in manifest if file.key not in left_out]
    begun = {file.key for file in files if file.path in lock or (folder / file.path).exists()}
    needed = {file.path: file for file in files if not file.is_optional or file.key in begun}
    is_tiny = is_random(folder)

    def mend(file: WeightFile) -> str:
        if is_tiny:
            return _mend(folder, "tiny")
        return _mend(folder, "fetch", file.key if lock else None)

    verdicts = [
        _judge(folder, file, lock.get(file.path), mend(file), check_hashes=check_hashes)
        for file in needed.values()
    ]
    if CALIBRATION in lock or (folder / CALIBRATION).exists():
        verdicts.append(_judge_calibration(folder, lock.get(CALIBRATION), check_hashes=check_hashes))
    return verdicts


def _judge(
    folder: Path, file: WeightFile, locked: Locked | None, fetch: str, *, check_hashes: bool
) -> Verdict:
    path = folder / file.path
    about = f"{path} {{}}; it {file.purpose}. "

    def verdict(state: str, detail: str) -> Verdict:
        return Verdict(path=file.path, key=file.key, state=state, detail=detail)

    is_converted = path.is_file() and (locked is None or locked.key == file.key)
    if not is_converted and file.is_pickle and (folder / file.fetched_path).is_file():
        return verdict("unconverted", about.format("is not converted yet") + _mend(folder, "convert"))
    if not path.is_file():
        return verdict("missing", about.format("is missing") + fetch)
    if locked is None:
        return verdict("missing", about.format(f"is not in {LOCK}") + fetch)
    if locked.key != file.key:
        return verdict("missing", about.format(f"is there only as of {locked.key}") + fetch)
    change = _change(path, locked, check_hashes=check_hashes)
    if change:
        return verdict("altered", about.format(change) + fetch)
    if not check_hashes:
        return verdict("ok", "size as recorded")
    if file.is_pickle:
        return verdict("ok", "as recorded at conversion")
    if not locked.licence:
        return verdict("ok", "random weights")
    if file.sha256 is None:
        return verdict("ok", "not pinned: recorded at fetch")
    if file.sha256 != locked.sha256:
        return verdict("altered", about.format("does not have its published hash") + fetch)
    return verdict("ok", "as published")


def _judge_calibration(folder: Path, locked: Locked | None, *, check_hashes: bool) -> Verdict:
    """Operators write this file themselves: an unrecorded one is in order, a recorded one stays as it was."""
    path = folder / CALIBRATION

    def verdict(state: str, detail: str) -> Verdict:
        return Verdict(path=CALIBRATION, key="calibration", state=state, detail=detail)

    mend = f"it bounds the quality gate. {_mend(folder, 'tiny')}"
    if locked is None:
        return verdict("ok", "not recorded: the operator's own bounds")
    if not path.is_file():
        return verdict("missing", f"{path} is missing; {mend}")
    change = _change(path, locked, check_hashes=check_hashes)
    if change:
        return verdict("altered", f"{path} {change}; {mend}")
    return verdict("ok", "as recorded" if check_hashes else "size as recorded")


def _change(path: Path, locked: Locked, *, check_hashes: bool) -> str | None:
    """In which way the file is no longer what the lock says; None when it still is."""
    size = path.stat().st_size
    if size != locked.size_bytes:
        return f"has {size} bytes, not {locked.size_bytes}"
    if check_hashes and digest(path) != locked.sha256:
        return "does not have its recorded hash"
    return None


def _mend(folder: Path, verb: str, key: str | None = None) -> str:
    only = f" --only {key}" if key else ""
    return f"Mend: python manage.py weights {verb} {folder}{only}"


def convert(source_pickle: Path, target_safetensors: Path) -> None:
    """Write the tensors of a published `.bin` or `.pth` as safetensors; only plain tensors are unpickled.

    Nested dictionaries become dotted names ("image_proj.latents", "ip_adapter.1.to_k_ip.weight"). A
    Real-ESRGAN checkpoint loses its outer "params_ema" or "params". Raises Final("weights_altered") when
    the file is cut short or holds anything but tensors; the target is then untouched.
    """
    import pickle

    import torch
    from safetensors.torch import save_file

    try:
        content = torch.load(source_pickle, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise FinalError(
            "weights_altered", f"{source_pickle} is damaged or holds more than tensors; not converted"
        ) from error
    tensors: dict[str, Any] = {}
    _flatten(_unwrapped(content), "", tensors, source_pickle)
    partial = target_safetensors.with_name(target_safetensors.name + ".part")
    # A clone each: safetensors refuses tensors that share memory, which published checkpoints sometimes do.
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, partial)
    os.replace(partial, target_safetensors)


def _unwrapped(content: Any) -> Any:
    if isinstance(content, dict):
        for name in _WRAPPERS:
            if isinstance(content.get(name), dict):
                return content[name]
    return content


def _flatten(content: Any, prefix: str, into: dict[str, Any], source: Path) -> None:
    import torch

    if isinstance(content, torch.Tensor):
        into[prefix] = content
    elif isinstance(content, dict) and content:
        for name, value in content.items():
            _flatten(value, f"{prefix}.{name}" if prefix else str(name), into, source)
    else:
        raise FinalError(
            "weights_altered",
            f"{source} holds {type(content).__name__} at {prefix or 'its top'}, not only tensors",
        )
