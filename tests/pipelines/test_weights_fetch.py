"""manage.py weights against a model hub on this machine: what fetching brings, asks and refuses."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import CommandError

from headshots.management.commands import weights as command
from pipelines import weights
from pipelines.weights import MANIFEST, Locked, read_lock, verify
from tests.pipelines.model_hub import BASE, DETECTOR, SMALL, Hub, entry, fetch, run, served, sha256


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


def test_list_names_each_model_once_and_every_file_as_json() -> None:
    table, files = run("list"), json.loads(run("list", "--json"))

    assert all(table.count(f"│ {key} ") == 1 for key in weights.KEYS)
    assert len(files) == len(MANIFEST) == 46
    assert files[0]["repository"] == "stabilityai/stable-diffusion-xl-base-1.0"
    assert [file["is_optional"] for file in files] == [False] * 43 + [True] * 3
    assert "--only safety-checker" in table


def test_the_command_does_not_import_torch() -> None:
    code = (
        "import os, sys, django; os.environ['DJANGO_SETTINGS_MODULE'] = 'headshots.settings'; django.setup();"
        "from django.core.management import call_command; call_command('weights', 'list');"
        "sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.usefixtures("small")
def test_fetch_fills_the_bundle_and_writes_the_lock(hub: Hub, tmp_path: Path) -> None:
    out = fetch(tmp_path, hub)

    there = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert there == [
        "adapter/ip-adapter.bin",
        "base/unet/net.safetensors",
        "faces/detector.onnx",
        "faces/recogniser.onnx",
        "vae/config.json",
        "weights.lock.json",
    ]
    assert (tmp_path / "base/unet/net.safetensors").read_bytes() == BASE
    assert read_lock(tmp_path)["faces/detector.onnx"] == Locked(
        key="antelopev2", size_bytes=400, sha256=sha256(DETECTOR), licence="licence of antelopev2"
    )
    assert read_lock(tmp_path)["vae/config.json"].sha256 == sha256(b"{}")
    assert out.endswith(f"Next: python manage.py weights convert {tmp_path}\n")
    assert [path for path, _ in hub.requests].count("/someone/antelopev2/abc/pack.zip") == 1


def test_an_optional_model_is_fetched_only_when_it_is_asked_for(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = entry("safety-checker", "config.json", "safety/config.json", b"{}", is_optional=True)
    monkeypatch.setattr(command, "MANIFEST", (*SMALL, extra))
    hub.files["/someone/safety-checker/abc/config.json"] = b"{}"

    fetch(tmp_path, hub)
    assert not (tmp_path / "safety").exists()
    assert "safety/config.json" not in [
        verdict.path for verdict in verify(tmp_path, manifest=(*SMALL, extra))
    ]

    fetch(tmp_path, hub, "--only", "safety-checker", "--accept", "safety-checker")
    assert read_lock(tmp_path)["safety/config.json"].licence == "licence of safety-checker"
    assert "safety/config.json" in [verdict.path for verdict in verify(tmp_path, manifest=(*SMALL, extra))]


@pytest.mark.usefixtures("small")
def test_fetch_asks_for_nothing_when_everything_is_there(hub: Hub, tmp_path: Path) -> None:
    fetch(tmp_path, hub)
    hub.requests.clear()

    out = fetch(tmp_path, hub, "--accept", "vae")

    assert out.startswith("Everything is there.\n")
    assert hub.requests == []


@pytest.mark.usefixtures("small")
def test_a_refused_licence_fetches_nothing(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="To accept: --accept instantid --accept antelopev2") as caught:
        fetch(tmp_path, hub, "--accept", "sdxl-base", "--accept", "vae")

    assert caught.value.returncode == 2
    assert "licence of instantid. In a paid service: unclear, ask its authors." in str(caught.value)
    assert hub.requests == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("answer", "count"), [("yes", 1), ("no", 0), ("", 0)])
def test_at_a_terminal_the_licence_is_asked_for(
    answer: str, count: int, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or answer)

    if count:
        fetch(tmp_path, hub, "--only", "vae")
    else:
        with pytest.raises(CommandError, match="Licence of vae not accepted"):
            fetch(tmp_path, hub, "--only", "vae")

    assert asked == ["vae (someone/vae): licence of vae. In a paid service: yes. Accept? [yes/no] "]
    assert len(hub.requests) == count


@pytest.mark.usefixtures("small")
def test_an_interrupted_download_says_so_and_continues_where_it_ended(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after = 1000
    with pytest.raises(CommandError, match="ended at 1000 of 5120 bytes; run the command again") as caught:
        fetch(tmp_path, hub, "--only", "sdxl-base", "--accept", "sdxl-base")
    assert caught.value.returncode == 1
    assert not (tmp_path / "base/unet/net.safetensors").exists()
    assert read_lock(tmp_path) == {}

    hub.cut_after = None
    fetch(tmp_path, hub, "--only", "sdxl-base", "--accept", "sdxl-base")

    assert [wanted for _, wanted in hub.requests] == [None, "bytes=1000-"]
    assert (tmp_path / "base/unet/net.safetensors").read_bytes() == BASE
    assert [path.name for path in (tmp_path / "base/unet").iterdir()] == ["net.safetensors"]


@pytest.mark.usefixtures("small")
def test_a_server_without_ranges_makes_the_download_start_anew(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after = 1000
    with pytest.raises(CommandError, match="ended at 1000"):
        fetch(tmp_path, hub, "--only", "sdxl-base", "--accept", "sdxl-base")
    hub.cut_after, hub.knows_ranges = None, False

    fetch(tmp_path, hub, "--only", "sdxl-base", "--accept", "sdxl-base")

    assert (tmp_path / "base/unet/net.safetensors").read_bytes() == BASE


@pytest.mark.usefixtures("small")
def test_a_finished_part_of_unknown_size_is_taken_as_it_is(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae/config.json.vae.part").write_bytes(b"{}")

    fetch(tmp_path, hub, "--only", "vae", "--accept", "vae")

    assert [wanted for _, wanted in hub.requests] == ["bytes=2-"]
    assert (tmp_path / "vae/config.json").read_bytes() == b"{}"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (BASE[:-1] + b"!", "sha256 [0-9a-f]{64} instead of [0-9a-f]{64}"),
        (b"short", "5 bytes instead of 5120"),
    ],
)
def test_a_wrong_file_is_deleted_and_not_locked(content: bytes, wrong: str, hub: Hub, tmp_path: Path) -> None:
    hub.files["/someone/sdxl-base/abc/unet/net.fp16.safetensors"] = content

    with pytest.raises(CommandError, match=f"does the work of sdxl-base.* has {wrong}; it was deleted"):
        fetch(tmp_path, hub, "--only", "sdxl-base", "--accept", "sdxl-base")

    assert list((tmp_path / "base/unet").iterdir()) == []
    assert read_lock(tmp_path) == {}


@pytest.mark.usefixtures("small")
def test_what_came_before_an_error_is_kept_in_the_lock(hub: Hub, tmp_path: Path) -> None:
    del hub.files["/someone/vae/abc/config.json"]

    with pytest.raises(CommandError, match=r"/someone/vae/abc/config\.json: 404"):
        fetch(tmp_path, hub)

    assert list(read_lock(tmp_path)) == ["base/unet/net.safetensors"]


@pytest.mark.usefixtures("small")
def test_a_damaged_archive_is_deleted(hub: Hub, tmp_path: Path) -> None:
    hub.files["/someone/antelopev2/abc/pack.zip"] = b"no archive"

    with pytest.raises(CommandError, match=r"pack\.zip from someone/antelopev2 is damaged"):
        fetch(tmp_path, hub, "--only", "antelopev2", "--accept", "antelopev2")

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("address", ["http://models.example/x", "ftp://models.example/x"])
def test_weights_never_come_unencrypted_from_elsewhere(address: str, hub: Hub, tmp_path: Path) -> None:
    only = ("--only", "vae", "--accept", "vae")
    with pytest.raises(CommandError, match="weights come over https only"):
        run("fetch", tmp_path, "--mirror", address, *only)

    hub.redirect = address
    with pytest.raises(CommandError, match="weights come over https only"):
        fetch(tmp_path, hub, *only)

    assert read_lock(tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [("base", "sdxl-base", "realvisxl"), ("upscaler", "realesrgan", "realesrgan-general")],
)
def test_two_of_what_a_bundle_holds_once_are_refused(name: str, one: str, other: str, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=f"a bundle holds one {name}: {one} or {other}"):
        run("fetch", tmp_path, "--only", one, "--only", other)
