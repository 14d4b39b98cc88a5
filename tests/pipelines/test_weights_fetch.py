"""manage.py weights against a model hub on this machine: fetching, verifying and converting a bundle."""

import hashlib
import io
import json
import pickle
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from headshots.management.commands import weights as command
from pipelines import weights
from pipelines.weights import MANIFEST, Locked, WeightFile, read_lock, verify

BASE = bytes(range(256)) * 20
PICKLED = b"not really a pickle"
DETECTOR, RECOGNISER = b"detector" * 50, b"recogniser" * 50


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("pack/detector.onnx", DETECTOR)
        file.writestr("pack/recogniser.onnx", RECOGNISER)
        file.writestr("pack/unused.onnx", b"unused")
    return out.getvalue()


def entry(key: str, source: str, path: str, content: bytes | None, **more: Any) -> WeightFile:
    values: dict[str, Any] = {
        "key": key,
        "purpose": f"does the work of {key}",
        "host": "hub",
        "repository": f"someone/{key}",
        "revision": "abc",
        "source": source,
        "path": path,
        "licence": f"licence of {key}",
        "commercial": "yes",
        "size_bytes": None if content is None else len(content),
        "sha256": None if content is None else sha256(content),
    }
    return WeightFile(**values | more)


SMALL = (
    entry("sdxl-base", "unet/net.fp16.safetensors", "base/unet/net.safetensors", BASE),
    entry("vae", "config.json", "vae/config.json", None),
    entry("instantid", "ip-adapter.bin", "adapter/ip-adapter.safetensors", PICKLED, commercial="ask"),
    entry("antelopev2", "pack.zip", "faces/detector.onnx", DETECTOR, member="pack/detector.onnx"),
    entry("antelopev2", "pack.zip", "faces/recogniser.onnx", RECOGNISER, member="pack/recogniser.onnx"),
)


@dataclass
class Hub:
    """A model hub on the loopback interface."""

    address: str
    files: dict[str, bytes]
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    cut_after: int | None = None
    knows_ranges: bool = True
    redirect: str | None = None


@pytest.fixture
def hub() -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            hub.requests.append((self.path, wanted))
            if hub.redirect:
                self.send_response(302)
                self.send_header("Location", hub.redirect)
                self.end_headers()
                return
            content = hub.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and hub.knows_ranges else 0
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start : hub.cut_after])

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(
        address=f"http://127.0.0.1:{server.server_port}",
        files={
            "/someone/sdxl-base/abc/unet/net.fp16.safetensors": BASE,
            "/someone/vae/abc/config.json": b"{}",
            "/someone/instantid/abc/ip-adapter.bin": PICKLED,
            "/someone/antelopev2/abc/pack.zip": archive(),
        },
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "MANIFEST", SMALL)


ACCEPT = ("--accept", "sdxl-base", "--accept", "vae", "--accept", "instantid", "--accept", "antelopev2")


def run(*arguments: object) -> str:
    out = io.StringIO()
    call_command("weights", *(str(argument) for argument in arguments), stdout=out)
    return out.getvalue()


def fetch(folder: Path, hub: Hub, *more: str) -> str:
    return run("fetch", folder, "--mirror", hub.address, *(more or ACCEPT))


def test_list_names_each_model_once_and_every_file_as_json() -> None:
    table, files = run("list"), json.loads(run("list", "--json"))

    assert all(table.count(f"│ {key} ") == 1 for key in weights.KEYS)
    assert len(files) == len(MANIFEST) == 45
    assert files[0]["repository"] == "stabilityai/stable-diffusion-xl-base-1.0"
    assert [file["is_optional"] for file in files] == [False] * 42 + [True] * 3
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


def test_two_bases_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="a bundle holds one base: sdxl-base or realvisxl"):
        run("fetch", tmp_path, "--only", "sdxl-base", "--only", "realvisxl")


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
