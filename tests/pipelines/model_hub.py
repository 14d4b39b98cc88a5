"""A model hub on this machine for the tests of manage.py weights, and the small bundle that it has."""

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from django.core.management import call_command

from pipelines.weights import WeightFile

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


@contextmanager
def served() -> Iterator[Hub]:
    """A hub that has the files of SMALL."""

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
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


ACCEPT = ("--accept", "sdxl-base", "--accept", "vae", "--accept", "instantid", "--accept", "antelopev2")


def run(*arguments: object) -> str:
    out = io.StringIO()
    call_command("weights", *(str(argument) for argument in arguments), stdout=out)
    return out.getvalue()


def fetch(folder: Path, hub: Hub, *more: str) -> str:
    return run("fetch", folder, "--mirror", hub.address, *(more or ACCEPT))
