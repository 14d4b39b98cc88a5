"""What the engine refuses to start on, and the proof of what it started on."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.engine import load_assessor, load_engine
from pipelines.errors import Final
from pipelines.instantid.loading import Parts, load_parts
from pipelines.types import EngineConfig, Pixels
from pipelines.weights import Locked, digest, read_lock, write_lock

pytestmark = pytest.mark.filterwarnings("ignore:.*estimate.*:FutureWarning")


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "weights"))


def relock(folder: Path, path: str) -> None:
    """What an operator does who replaces a file on purpose."""
    lock, file = read_lock(folder), folder / path
    lock[path] = Locked(key=lock[path].key, size_bytes=file.stat().st_size, sha256=digest(file), licence="")
    write_lock(folder, lock)


UNET = "base/unet/diffusion_pytorch_model.safetensors"


def remove(folder: Path) -> None:
    (folder / UNET).unlink()


def cut(folder: Path) -> None:
    (folder / UNET).write_bytes((folder / UNET).read_bytes()[:-1])


def flip(folder: Path) -> None:
    content = bytearray((folder / UNET).read_bytes())
    content[-1] ^= 1
    (folder / UNET).write_bytes(content)


def truncate_and_relock(folder: Path) -> None:
    cut(folder)
    relock(folder, UNET)


def lose_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / UNET)
    del tensors["conv_in.bias"]
    save_file(tensors, folder / UNET, metadata={"format": "pt"})
    relock(folder, UNET)


def reshape_the_adapter(folder: Path) -> None:
    path = folder / "adapter/ip-adapter.safetensors"
    tensors = load_file(path)
    tensors["ip_adapter.1.to_k_ip.weight"] = torch.zeros(3, 5)
    save_file(tensors, path, metadata={"format": "pt"})
    relock(folder, "adapter/ip-adapter.safetensors")


@pytest.mark.parametrize(
    ("damage", "code", "says"),
    [
        (remove, "weights_missing", UNET),
        (cut, "weights_altered", UNET),
        (flip, "weights_altered", UNET),
        (truncate_and_relock, "bad_weights", "base/unet"),
        (lose_a_tensor, "bad_weights", "conv_in.bias"),
        (reshape_the_adapter, "bad_weights", "1.to_k_ip.weight is (3, 5)"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_damaged_bundle_is_refused_with_the_name_of_what_is_wrong(
    folder: Path, damage: Callable[[Path], None], code: str, says: str
) -> None:
    damage(folder)
    with pytest.raises(Final) as refused:
        load_parts(folder, "cpu")
    assert refused.value.code == code
    assert says in str(refused.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA, so asking for it is no error")
@pytest.mark.parametrize(
    ("licence", "mend"),
    [
        ("", "Mend: python manage.py weights tiny {folder}"),
        ("MIT", "Mend: delete it, then: python manage.py weights fetch {folder}"),
    ],
)
def test_what_cannot_be_loaded_although_it_is_as_recorded_names_a_command_that_mends_it(
    folder: Path, licence: str, mend: str
) -> None:
    truncate_and_relock(folder)
    lock = read_lock(folder)
    write_lock(folder, lock | {"vae/config.json": replace(lock["vae/config.json"], licence=licence)})
    with pytest.raises(Final) as refused:
        load_parts(folder, "cpu")
    assert refused.value.code == "bad_weights"
    assert str(refused.value).startswith(f"{folder}/base/unet cannot be loaded (")
    assert str(refused.value).endswith(mend.format(folder=folder))


def test_cuda_without_cuda_is_an_error_and_no_fallback(tiny_folder: Path) -> None:
    with pytest.raises(Final, match="sees no CUDA device") as refused:
        load_engine(EngineConfig(kind="instantid", weights_dir=tiny_folder, device="cuda"))
    assert refused.value.code == "no_cuda"


@pytest.mark.parametrize(
    ("config", "code"),
    [
        (EngineConfig(kind="magic"), "unknown_engine"),
        (EngineConfig(kind="instantid"), "no_weights"),
        (EngineConfig(kind="instantid", weights_dir=Path("/nowhere"), device="abacus"), "unknown_device"),
        (EngineConfig(kind="instantid", weights_dir=Path("/nowhere"), device="cpu"), "weights_missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_engine_that_cannot_be_has_its_own_error(config: EngineConfig, code: str) -> None:
    with pytest.raises(Final) as refused:
        load_engine(config)
    assert refused.value.code == code


def test_random_weights_start_nowhere_where_pictures_are_sold(tiny_folder: Path) -> None:
    config = EngineConfig(
        kind="instantid", weights_dir=tiny_folder, device="cpu", accepts_random_weights=False
    )
    with pytest.raises(Final, match="holds random weights") as refused:
        load_engine(config)
    assert refused.value.code == "random_weights"


def test_the_proof_names_device_format_versions_and_weights(parts: Parts, tiny_folder: Path) -> None:
    assert parts.proof["device"] == "cpu (CPU)"
    assert parts.proof["dtype"] == "float32"
    assert parts.proof["providers"] == "CPUExecutionProvider"
    assert parts.proof["weights"] == digest(tiny_folder / "weights.lock.json")
    assert parts.proof["torch"] == torch.__version__
    assert parts.proof["framing"] == "version 1"
    assert {"diffusers", "insightface", "onnxruntime-gpu", "realesrgan"} <= parts.proof.keys()
    assert parts.is_random


def test_the_assessor_finds_the_face_without_loading_the_networks(tiny_folder: Path, selfie: Pixels) -> None:
    assess = load_assessor(EngineConfig(kind="instantid", weights_dir=tiny_folder, device="cuda"))
    face = assess(selfie)
    assert 80 < face.eye_distance < 92
