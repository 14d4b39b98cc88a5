"""manage.py weights on a bundle that is there: verifying, converting, and fetching again what was altered."""

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from django.core.management import CommandError

from headshots.management.commands import weights as command
from pipelines import compat, weights
from pipelines.weights import read_lock, verify
from tests.pipelines.model_hub import BASE, SMALL, Hub, entry, fetch, run, served, sha256


@pytest.fixture
def hub() -> Iterator[Hub]:
    with served() as hub:
        yield hub


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "MANIFEST", SMALL)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("path", "key", "source"),
    [
        ("base/unet/net.safetensors", "sdxl-base", "unet/net.fp16.safetensors"),
        ("vae/config.json", "vae", "config.json"),
        ("adapter/ip-adapter.bin", "instantid", "ip-adapter.bin"),
        ("faces/recogniser.onnx", "antelopev2", "pack.zip"),
    ],
)
@pytest.mark.parametrize("names_the_model", [True, False])
def test_a_file_with_one_altered_byte_is_fetched_again(
    names_the_model: bool, path: str, key: str, source: str, hub: Hub, tmp_path: Path
) -> None:
    fetch(tmp_path, hub)
    whole, lock = (tmp_path / path).read_bytes(), read_lock(tmp_path)
    (tmp_path / path).write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    hub.requests.clear()

    out = fetch(tmp_path, hub, *(("--only", key) if names_the_model else ()))

    assert "Everything is there." not in out
    assert hub.requests == [(f"/someone/{key}/abc/{source}", None)]
    assert (tmp_path / path).read_bytes() == whole
    assert read_lock(tmp_path) == lock


@pytest.mark.usefixtures("small")
def test_a_file_that_was_recorded_but_never_published_is_fetched_again(hub: Hub, tmp_path: Path) -> None:
    fetch(tmp_path, hub)
    path, lock = "base/unet/net.safetensors", read_lock(tmp_path)
    poisoned = bytes(len(BASE))
    (tmp_path / path).write_bytes(poisoned)
    weights.write_lock(tmp_path, lock | {path: replace(lock[path], sha256=sha256(poisoned))})

    fetch(tmp_path, hub)

    assert (tmp_path / path).read_bytes() == BASE
    assert read_lock(tmp_path) == lock


@pytest.mark.usefixtures("small")
def test_verify_tells_pinned_from_recorded_files_and_counts_what_is_wrong(hub: Hub, tmp_path: Path) -> None:
    fetch(tmp_path, hub)
    (tmp_path / "faces/detector.onnx").unlink()

    with pytest.raises(CommandError, match="2 of 5 files are not in order") as caught:
        run("verify", tmp_path)

    states = {verdict.path: verdict for verdict in verify(tmp_path, manifest=SMALL)}
    assert caught.value.returncode == 1
    assert states["base/unet/net.safetensors"].detail == "as published"
    assert states["vae/config.json"].detail == "not pinned: recorded at fetch"
    assert states["faces/detector.onnx"].state == "missing"
    assert states["adapter/ip-adapter.safetensors"].state == "unconverted"
    assert states["adapter/ip-adapter.safetensors"].detail.endswith(
        f"Mend: python manage.py weights convert {tmp_path}"
    )


def test_convert_takes_the_place_of_the_fetched_pickle(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    torch.save({"image_proj": {"latents": torch.ones(3)}}, tmp_path / "published")
    published = (tmp_path / "published").read_bytes()
    file = replace(SMALL[2], size_bytes=len(published), sha256=sha256(published))
    monkeypatch.setattr(command, "MANIFEST", (file,))
    hub.files["/someone/instantid/abc/ip-adapter.bin"] = published
    folder = tmp_path / "bundle"
    fetch(folder, hub, "--accept", "instantid")

    run("convert", folder)

    assert [path.name for path in (folder / "adapter").iterdir()] == ["ip-adapter.safetensors"]
    assert load_file(folder / file.path)["image_proj.latents"].tolist() == [1.0, 1.0, 1.0]
    assert read_lock(folder)[file.path].licence == "licence of instantid"
    assert run("verify", folder) == "ok           adapter/ip-adapter.safetensors  as recorded at conversion\n"
    assert fetch(folder, hub, "--accept", "instantid") == "Everything is there.\n"


def test_a_converted_file_with_one_altered_byte_is_mended_by_the_commands_that_are_printed(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"image_proj": {"latents": torch.ones(3)}}, tmp_path / "published")
    published = (tmp_path / "published").read_bytes()
    file = replace(SMALL[2], size_bytes=len(published), sha256=sha256(published))
    monkeypatch.setattr(command, "MANIFEST", (file,))
    hub.files["/someone/instantid/abc/ip-adapter.bin"] = published
    folder = tmp_path / "bundle"
    fetch(folder, hub, "--accept", "instantid")
    run("convert", folder)
    converted, lock = (folder / file.path).read_bytes(), read_lock(folder)
    (folder / file.path).write_bytes(converted[:-1] + bytes([converted[-1] ^ 1]))
    [verdict] = verify(folder, manifest=(file,))
    assert verdict.state == "altered"
    assert verdict.detail.endswith(f"Mend: python manage.py weights fetch {folder} --only instantid")

    out = fetch(folder, hub, "--only", "instantid")
    assert out.endswith(f"Next: python manage.py weights convert {folder}\n")
    run("convert", folder)

    assert (folder / file.path).read_bytes() == converted
    assert read_lock(folder) == lock
    assert [verdict.state for verdict in verify(folder, manifest=(file,))] == ["ok"]


@pytest.mark.usefixtures("small")
def test_a_pickle_that_was_not_fetched_is_not_opened(hub: Hub, tmp_path: Path) -> None:
    fetch(tmp_path, hub)
    (tmp_path / "adapter/ip-adapter.bin").write_bytes(pickle.dumps("another"))

    with pytest.raises(CommandError, match=r"ip-adapter.bin is not what was fetched.*--only instantid"):
        run("convert", tmp_path)

    assert not (tmp_path / "adapter/ip-adapter.safetensors").exists()


def test_convert_of_one_file_writes_it_beside(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    source = tmp_path / "up.pth"
    torch.save({"params": {"a": torch.ones(1)}}, source)

    out = run("convert", source)

    assert out.startswith(f"{tmp_path}/up.safetensors")
    assert (tmp_path / "up.safetensors").is_file()


def test_convert_of_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="is neither a bundle nor a file"):
        run("convert", tmp_path / "nowhere")


def test_the_other_upscaler_takes_the_place_of_the_one_that_is_there(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    compat.install()
    from basicsr.archs.rrdbnet_arch import RRDBNet
    from realesrgan.archs.srvgg_arch import SRVGGNetCompact

    from pipelines.upscale import load_upscaler

    networks = {
        "realesrgan": RRDBNet(3, 3, num_feat=8, num_block=1, num_grow_ch=4),
        "realesrgan-general": SRVGGNetCompact(num_feat=8, num_conv=2, upscale=4),
    }
    manifest = []
    for key, network in networks.items():
        torch.save({"params": network.state_dict()}, tmp_path / key)
        published = (tmp_path / key).read_bytes()
        manifest.append(entry(key, f"{key}.pth", "upscaler/realesrgan.safetensors", published))
        hub.files[f"/someone/{key}/abc/{key}.pth"] = published
    monkeypatch.setattr(command, "MANIFEST", tuple(manifest))
    folder, accepted = tmp_path / "bundle", [f"--accept={key}" for key in networks]

    def kind_of_network() -> str:
        return type(load_upscaler(folder / manifest[0].path, device="cpu")._network).__name__

    fetch(folder, hub, *accepted)
    run("convert", folder)
    assert kind_of_network() == "RRDBNet"

    fetch(folder, hub, "--upscaler", "realesrgan-general", *accepted)
    [verdict] = verify(folder, manifest=manifest)
    assert (verdict.key, verdict.state) == ("realesrgan-general", "unconverted")

    run("convert", folder)
    assert kind_of_network() == "SRVGGNetCompact"
    assert [(entry.key, name) for name, entry in read_lock(folder).items()] == [
        ("realesrgan-general", "upscaler/realesrgan.safetensors")
    ]
    assert [verdict.state for verdict in verify(folder, manifest=manifest)] == ["ok"]
    assert fetch(folder, hub, *accepted) == "Everything is there.\n"  # the choice stays without naming it
