"""The page that reads a picture's marks: what it says; in a real browser, what it reads and never sends."""

import base64
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from django.contrib.staticfiles import finders
from django.test import Client
from PIL import Image
from playwright.sync_api import Page, Request, expect, sync_playwright
from pytest_django.live_server_helper import LiveServer

import headshots
from headshots.services import credentials
from headshots.web.middleware import POLICY
from pipelines.finish import finish
from pipelines.provenance import SourceType
from pipelines.types import OutputSpec

expect.set_options(timeout=120_000)  # milliseconds; a busy machine is no failure

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DROP = """([zone, encoded]) => {
    const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], "picture.jpg", {type: "image/jpeg"}));
    zone.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
}"""


def test_the_page_keeps_the_policy_and_says_what_it_does_not_do(client: Client) -> None:
    response = client.get("/verify-picture")

    page = response.content.decode()
    named = set(re.findall(r'"/static/([^"]+)"', page))
    assert response["Content-Security-Policy"] == POLICY
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", page)
    assert not re.findall(r'(?:src|href|action)="(https?:)?//', page)
    assert {name for name in named if not finders.find(name)} == set()
    assert "web/verify_picture.js" in named
    assert "It does not check the signature" in page
    assert "Nor can it see the invisible mark" in page
    assert "python manage.py verify-picture picture.jpg" in page
    assert "Reading needs JavaScript." in page
    assert "<form" in page
    assert "method=" not in page


def test_the_script_has_no_way_to_send_anything() -> None:
    found = finders.find("web/verify_picture.js")
    assert isinstance(found, str)
    script = Path(found).read_text()

    assert not re.search(
        r"fetch|XMLHttpRequest|sendBeacon|WebSocket|EventSource|\.src\b|innerHTML|import\(", script
    )


@pytest.mark.django_db
def test_the_receipts_page_leads_to_it(client: Client) -> None:
    assert 'href="/verify-picture"' in client.get("/verify").content.decode()


# --- in a browser -------------------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def unsigned() -> bytes:
    ramp = np.broadcast_to(np.arange(96, dtype=np.uint8)[:, None, None] * 2, (96, 72, 3))
    output = OutputSpec(long_edge=96, is_watermarked=False)
    return finish(ramp, output=output, marks=(), source_type=SourceType.GENERATED).jpeg


@pytest.fixture
def page(live_server: LiveServer) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(f"{live_server.url}/verify-picture")
        yield page
        browser.close()


def show(page: Page, data: bytes) -> dict[str, list[str]]:
    """Give the page a file; what it then shows, by label."""
    page.evaluate("document.getElementById('verdict').hidden = true")
    page.evaluate(DROP, [page.query_selector("#drop"), base64.b64encode(data).decode()])
    expect(page.locator("#verdict")).to_be_visible()
    facts: dict[str, list[str]] = {"heading": [page.locator("#verdict h2").inner_text()]}
    labels, words = page.locator("#verdict dt"), page.locator("#verdict dd")
    for label, said in zip(labels.all_inner_texts(), words.all_inner_texts(), strict=True):
        facts.setdefault(label, []).append(said)
    return facts


@needs_browser
@pytest.mark.e2e
@pytest.mark.django_db(transaction=True)
def test_a_browser_reads_a_signed_picture_and_sends_nothing(page: Page, unsigned: bytes) -> None:
    sent: list[Request] = []
    errors: list[str] = []
    # All but the tab's icon, which the browser asks for in its own time.
    page.on("request", lambda request: None if "mark.svg" in request.url else sent.append(request))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    signed = credentials.attach(unsigned)

    assert show(page, signed) == {
        "heading": ["This is what the picture says."],
        "Made with": [f"Headshots {headshots.__version__}"],
        "Action": ["c2pa.created"],
        "How it was made": ["Created using generative AI (trainedAlgorithmicMedia)"],
        "Training of generative AI": ["not allowed"],
        "Training of other AI": ["not allowed"],
        "Data mining": ["not allowed"],
        "Source pictures named": ["0"],
        "Thumbnails": ["0"],
        "Signature": ["there is one; it was not checked"],
        "XMP: how it was made": ["Created using generative AI (trainedAlgorithmicMedia)"],
        "XMP: data mining": ["DMI-PROHIBITED"],
    }
    assert "The signature was not checked here" in page.locator("#verdict").inner_text()
    assert (sent, errors) == ([], [])


@needs_browser
@pytest.mark.e2e
@pytest.mark.django_db(transaction=True)
def test_a_browser_tells_unsigned_bare_damaged_and_foreign_files_apart(page: Page, unsigned: bytes) -> None:
    signed = credentials.attach(unsigned)
    bare = io.BytesIO()
    Image.new("RGB", (8, 8)).save(bare, "JPEG")
    box = signed.index(b"jumb") + 40
    damaged = bytearray(signed)
    damaged[signed.index(b"jumb") - 4 : signed.index(b"jumb")] = b"\x7f\xff\xff\xff"

    assert show(page, unsigned)["heading"] == ["This picture has only an unsigned mark."]
    assert show(page, bare.getvalue())["heading"] == ["This picture says nothing of itself."]
    assert show(page, b"no picture at all")["heading"] == ["This file could not be read."]
    assert show(page, bytes(damaged))["heading"] == ["This file could not be read."]
    assert show(page, split(signed))["Action"] == ["c2pa.created"]
    for place in range(box, box + 2600, 97):  # whatever is altered, the page answers
        altered = bytearray(signed)
        altered[place] ^= 0xFF
        show(page, bytes(altered))


def split(signed: bytes) -> bytes:
    """The same file with its statement in two pieces, as files with large ones have it."""
    start = signed.index(b"\xff\xeb")
    length = int.from_bytes(signed[start + 2 : start + 4])
    body = signed[start + 4 : start + 2 + length]
    head, box = (
        body[:4],
        body[8:],
    )  # common identifier and number of the box; after the piece's number, the box
    pieces = (box[:1000], box[:8] + box[1000:])
    blocks = [head + (order + 1).to_bytes(4) + piece for order, piece in enumerate(pieces)]
    joined = b"".join(b"\xff\xeb" + (len(block) + 2).to_bytes(2) + block for block in blocks)
    return signed[:start] + joined + signed[start + 2 + length :]
