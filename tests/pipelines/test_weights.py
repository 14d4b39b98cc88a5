"""The weight bundle: its manifest, what `resolve` and `verify` say of a folder, and conversion."""

import hashlib
import pickle
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from pipelines import weights
from pipelines.errors import Final
from pipelines.weights import MANIFEST, Locked, convert, read_lock, resolve, verify, write_lock


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# The manifest


def test_every_model_of_the_engine_is_in_the_manifest_with_its_licence() -> None:
    said = {file.key: file.commercial for file in MANIFEST}

    assert said == {
        "sdxl-base": "yes",
        "realvisxl": "yes",
        "vae": "yes",
        "instantid": "ask",
        "antelopev2": "no",
        "auraface": "yes",
        "realesrgan": "yes",
        "realesrgan-general": "yes",
        "safety-checker": "ask",
    }
    assert all(file.licence and file.purpose and file.revision for file in MANIFEST)


def test_both_bases_and_both_upscalers_end_up_under_the_same_names() -> None:
    paths: dict[str, list[str]] = {}
    for file in MANIFEST:
        paths.setdefault(file.key, []).append(file.path)

    assert paths["sdxl-base"] == paths["realvisxl"]
    assert len(paths["sdxl-base"]) == 16
    assert paths["realesrgan"] == paths["realesrgan-general"] == ["upscaler/realesrgan.safetensors"]
    others = [file.path for file in MANIFEST if file.key not in weights.ALTERNATIVES]
    assert len(set(others)) == len(others) == 29


def test_pins_are_whole_hashes_with_a_size() -> None:
    pinned = [file for file in MANIFEST if file.sha256 is not None]

    assert len(pinned) == 26
    for file in pinned:
        assert len(bytes.fromhex(file.sha256 or "")) == 32
        assert (file.size_bytes or 0) > 0


def test_a_file_of_unknown_commercial_use_cannot_be_listed() -> None:
    with pytest.raises(ValueError, match="commercial must be yes, no or ask, not 'maybe'"):
        replace(MANIFEST[0], commercial="maybe")


def test_only_the_safety_checker_is_optional() -> None:
    assert {file.key for file in MANIFEST if file.is_optional} == {"safety-checker"}


# Checking


def complete_bundle(folder: Path, chosen: Sequence[str] = ("sdxl-base", "realesrgan")) -> None:
    """Every file that a bundle needs, one byte long, recorded as fetched."""
    lock = {}
    either = {key for keys in weights.CHOICES.values() for key in keys}
    for file in MANIFEST:
        if file.is_optional or file.key in either.difference(chosen):
            continue
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.path).write_bytes(b"x")
        lock[file.path] = Locked(key=file.key, size_bytes=1, sha256=sha256(b"x"), licence=file.licence)
    write_lock(folder, lock)


@pytest.mark.parametrize("chosen", list(product(*weights.CHOICES.values())))
def test_resolve_gives_the_paths_of_a_complete_bundle(chosen: tuple[str, str], tmp_path: Path) -> None:
    complete_bundle(tmp_path, chosen)

    bundle = resolve(tmp_path)

    assert bundle.base == tmp_path / "base"
    assert bundle.adapter == tmp_path / "adapter/ip-adapter.safetensors"
    assert bundle.judge == tmp_path / "judge/auraface.onnx"
    assert bundle.upscaler == tmp_path / "upscaler/realesrgan.safetensors"
    assert bundle.safety is None
    assert bundle.calibration is None


def test_a_missing_file_is_named_with_its_purpose_and_the_mend(tmp_path: Path) -> None:
    complete_bundle(tmp_path)
    (tmp_path / "faces/glintr100.onnx").unlink()

    with pytest.raises(Final) as caught:
        resolve(tmp_path)

    assert caught.value.code == "weights_missing"
    assert str(caught.value) == (
        f"{tmp_path}/faces/glintr100.onnx is missing; it describes a face as InstantID was trained with. "
        f"Mend: python manage.py weights fetch {tmp_path} --only antelopev2"
    )


def test_an_empty_folder_is_mended_by_fetching_everything(tmp_path: Path) -> None:
    with pytest.raises(Final) as caught:
        resolve(tmp_path)

    assert caught.value.code == "weights_missing"
    assert str(caught.value).endswith(f"Mend: python manage.py weights fetch {tmp_path}")


def test_a_shortened_file_is_found_by_its_size(tmp_path: Path) -> None:
    complete_bundle(tmp_path)
    (tmp_path / "vae/config.json").write_bytes(b"")

    with pytest.raises(Final, match=r"vae/config.json has 0 bytes, not 1; it turns latents") as caught:
        resolve(tmp_path)

    assert caught.value.code == "weights_altered"


def test_a_changed_byte_is_found_when_hashes_are_checked(tmp_path: Path) -> None:
    complete_bundle(tmp_path)
    (tmp_path / "vae/config.json").write_bytes(b"y")

    states = {verdict.path: verdict for verdict in verify(tmp_path)}

    assert resolve(tmp_path).folder == tmp_path  # sizes alone do not show it
    assert states["vae/config.json"].state == "altered"
    assert "does not have its recorded hash; it turns latents" in states["vae/config.json"].detail


def test_a_lock_that_disagrees_with_the_published_hash_is_not_believed(tmp_path: Path) -> None:
    complete_bundle(tmp_path)

    with pytest.raises(Final, match=r"base/model_index.json does not have its published hash") as caught:
        resolve(tmp_path, check_hashes=True)

    assert caught.value.code == "weights_altered"


def test_a_file_of_the_other_base_does_not_count(tmp_path: Path) -> None:
    complete_bundle(tmp_path)
    lock = read_lock(tmp_path)
    lock["base/unet/config.json"] = replace(lock["base/unet/config.json"], key="realvisxl")
    write_lock(tmp_path, lock)

    with pytest.raises(Final, match=r"base/unet/config\.json is there only as of realvisxl"):
        resolve(tmp_path)


# Optional parts

SAFETY = ("safety/config.json", "safety/model.safetensors", "safety/preprocessor_config.json")


def add_safety(folder: Path) -> None:
    (folder / "safety").mkdir()
    lock = read_lock(folder)
    for file in MANIFEST:
        if file.path in SAFETY:
            (folder / file.path).write_bytes(b"x")
            lock[file.path] = Locked(key=file.key, size_bytes=1, sha256=sha256(b"x"), licence=file.licence)
    write_lock(folder, lock)


def test_a_bundle_with_a_safety_checker_is_checked_with_it(tmp_path: Path) -> None:
    complete_bundle(tmp_path)
    without = {verdict.path for verdict in verify(tmp_path)}
    add_safety(tmp_path)

    assert resolve(tmp_path).safety == tmp_path / "safety"
    assert {verdict.path for verdict in verify(tmp_path)} == without | set(SAFETY)


@pytest.mark.parametrize("name", SAFETY)
@pytest.mark.parametrize("is_locked", [True, False])
def test_half_a_safety_checker_is_not_passed_over(is_locked: bool, name: str, tmp_path: Path) -> None:
    complete_bundle(tmp_path)
    add_safety(tmp_path)
    (tmp_path / name).unlink()
    if not is_locked:
        lock = read_lock(tmp_path)
        write_lock(tmp_path, {path: entry for path, entry in lock.items() if path != name})

    with pytest.raises(Final, match=f"{name} is missing; it refuses pictures") as caught:
        resolve(tmp_path)

    assert caught.value.code == "weights_missing"
    assert str(caught.value).endswith(f"weights fetch {tmp_path} --only safety-checker")


def test_files_of_a_safety_checker_that_were_not_fetched_are_not_trusted(tmp_path: Path) -> None:
    complete_bundle(tmp_path)
    lock = read_lock(tmp_path)
    add_safety(tmp_path)
    write_lock(tmp_path, lock)

    with pytest.raises(Final, match=r"safety/config\.json is not in weights\.lock\.json"):
        resolve(tmp_path)


def test_an_operators_own_calibration_needs_no_record(tmp_path: Path) -> None:
    complete_bundle(tmp_path)
    (tmp_path / "calibration.json").write_text('{"min_similarity": 0.35}')

    assert resolve(tmp_path).calibration == tmp_path / "calibration.json"
    verdict = verify(tmp_path)[-1]
    assert (verdict.path, verdict.state) == ("calibration.json", "ok")
    assert verdict.detail == "not recorded: the operator's own bounds"


def test_random_weights_are_those_without_any_licence(tmp_path: Path) -> None:
    assert not weights.is_random(tmp_path)  # nothing is recorded
    complete_bundle(tmp_path)
    assert not weights.is_random(tmp_path)

    lock = {path: replace(entry, licence="") for path, entry in read_lock(tmp_path).items()}
    write_lock(tmp_path, lock)
    assert weights.is_random(tmp_path)

    lock["vae/config.json"] = replace(lock["vae/config.json"], licence="MIT")
    write_lock(tmp_path, lock)
    assert not weights.is_random(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"files": {"a": {}}}', '{"files": []}'])
def test_an_unreadable_lock_is_its_own_error(text: str, tmp_path: Path) -> None:
    (tmp_path / weights.LOCK).write_text(text)

    with pytest.raises(Final, match="is not a lock of weights") as caught:
        resolve(tmp_path)

    assert caught.value.code == "weights_altered"


# Conversion


def pickled(content: object, path: Path) -> Path:
    torch = pytest.importorskip("torch")
    torch.save(content, path)
    return path


def test_nested_tensors_become_dotted_names(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    latents, keys = torch.arange(6.0).reshape(2, 3), torch.ones(2, dtype=torch.float16)
    content = {"image_proj": {"latents": latents}, "ip_adapter": {"1.to_k_ip.weight": keys}}

    convert(pickled(content, tmp_path / "a.bin"), tmp_path / "a.safetensors")

    converted = load_file(tmp_path / "a.safetensors")
    assert list(converted) == ["image_proj.latents", "ip_adapter.1.to_k_ip.weight"]
    assert torch.equal(converted["image_proj.latents"], latents)
    assert converted["ip_adapter.1.to_k_ip.weight"].dtype == torch.float16


@pytest.mark.parametrize(
    ("wrapping", "value"), [(("params",), 1.0), (("params_ema",), 1.0), (("params", "params_ema"), 2.0)]
)
def test_the_averaged_weights_of_an_upscaler_are_taken_first(
    wrapping: tuple[str, ...], value: float, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    content = {name: {"conv.weight": torch.full((2,), place + 1.0)} for place, name in enumerate(wrapping)}

    convert(pickled(content, tmp_path / "a.pth"), tmp_path / "a.safetensors")

    assert load_file(tmp_path / "a.safetensors")["conv.weight"].tolist() == [value, value]


def test_tensors_that_share_memory_are_converted(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    whole = torch.arange(4.0)

    convert(pickled({"a": whole, "b": whole[1:3]}, tmp_path / "a.bin"), tmp_path / "a.safetensors")

    assert load_file(tmp_path / "a.safetensors")["b"].tolist() == [1.0, 2.0]


class Harmful:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, ("1/0",)


@pytest.mark.parametrize("kind", ["harmful", "plain pickle", "number", "text", "empty", "cut short", "noise"])
def test_anything_but_tensors_is_refused_and_leaves_no_file(kind: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    source, target = tmp_path / "a.bin", tmp_path / "a.safetensors"
    if kind == "plain pickle":
        source.write_bytes(pickle.dumps(Harmful()))
    elif kind == "noise":
        source.write_bytes(bytes(range(256)))
    elif kind == "cut short":
        content = pickled({"a": torch.ones(1000)}, source).read_bytes()
        source.write_bytes(content[: len(content) // 2])
    else:
        contents = {"harmful": {"a": Harmful()}, "number": {"a": 1}, "text": "weights", "empty": {}}
        pickled(contents[kind], source)

    with pytest.raises(Final) as caught:
        convert(source, target)

    assert caught.value.code == "weights_altered"
    assert str(source) in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin"]


def test_tiny_never_overwrites_real_weights(tmp_path: Path) -> None:
    complete_bundle(tmp_path)

    with pytest.raises(CommandError, match="holds real weights; choose another folder"):
        call_command("weights", "tiny", str(tmp_path))

    assert (tmp_path / "vae/config.json").read_bytes() == b"x"
