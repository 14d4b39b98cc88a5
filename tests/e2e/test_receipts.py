"""The page that checks receipts, in a real browser on the real site: green if genuine, red if altered."""

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from headshots.vault.notes import Signer
from headshots.vault.signing import load_signer
from pipelines.sample import sample_selfie
from tests.e2e.service import Service, running, wait_for

expect.set_options(timeout=120_000)  # milliseconds; a busy machine is no failure

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: the page was not driven"),
]

PATIENCE_MS = 180_000
WIDTHS = (390, 1440)
OTHER = Signer(name="another.example/deletion/2026a", seed=b"o" * 32)
DROP = """([zone, encoded]) => {
    const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], "receipt.txt", {type: "text/plain"}));
    zone.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
}"""
NO_ED25519 = """crypto.subtle.importKey = async () => { throw new DOMException("", "NotSupportedError"); };"""
NO_SUBTLE = """Object.defineProperty(Crypto.prototype, "subtle", {get: () => undefined});"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("receipts") / "data"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture(scope="module")
def service(data: Path) -> Iterator[Service]:
    with running(data, "--no-worker") as service:
        yield service


@pytest.fixture(scope="module")
def receipt_id(service: Service) -> str:
    """A receipt's number: somebody uploaded a photo and deleted it."""
    number = service.client.delete(service.client.place(sample_selfie(), tier="free"))
    wait_for(lambda: service.client.receipt(number)["state"] == "purged")
    return number


@pytest.fixture(scope="module")
def signed(service: Service, receipt_id: str) -> str:
    """The signed text of that receipt."""
    return str(service.client.receipt(receipt_id)["text"])


@pytest.fixture(scope="module")
def signer(signed: str, data: Path) -> Signer:
    """The site's own key."""
    return load_signer(data / "receipts" / "signing.key")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser, service: Service) -> Iterator[BrowserContext]:
    with browser.new_context(base_url=service.client.base_url) as context:
        context.set_default_timeout(PATIENCE_MS)
        yield context


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """The checking page; a blocked resource or a script error on it fails the test."""
    complaints: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto("/verify")
    yield page
    assert complaints == []


def paste(page: Page, note: str) -> None:
    page.fill("#text", note)
    page.click("#verify button")


def expect_verdict(page: Page, kind: str, words: str) -> None:
    verdict = page.locator("#verdict")
    expect(verdict).to_have_class(f"verdict {kind}", timeout=PATIENCE_MS)
    expect(verdict).to_contain_text(words)
    expect(verdict).to_be_focused()


def clear(page: Page) -> None:
    page.evaluate("document.getElementById('verdict').className = 'verdict'")


def test_a_genuine_receipt_is_green_pasted_dropped_and_chosen(
    page: Page, signed: str, receipt_id: str, tmp_path: Path
) -> None:
    paste(page, signed)
    expect_verdict(page, "good", "This receipt is genuine.")
    expect(page.locator("#verdict dd").nth(1)).to_have_text(receipt_id)
    expect(page.locator("#verdict dd").nth(2)).to_contain_text(" UTC")
    expect(page.locator("#verdict")).to_contain_text("photos 1, headshots 0, previews 0")

    for around in (signed[:-1], f"\n\n{signed}\n\n"):  # what copying makes of it
        clear(page)
        paste(page, around)
        expect_verdict(page, "good", "This receipt is genuine.")

    clear(page)
    page.evaluate(DROP, [page.query_selector("#drop"), base64.b64encode(signed.encode()).decode()])
    expect_verdict(page, "good", "This receipt is genuine.")

    clear(page)
    path = tmp_path / "deletion-receipt.txt"
    path.write_text(signed)
    page.set_input_files("#file", path)
    expect_verdict(page, "good", "This receipt is genuine.")


def altered_texts(signed: str, signer: Signer) -> dict[str, str]:
    """One altered receipt for each way to alter one."""
    text = signed.rpartition("\n\n")[0] + "\n"
    line = signed.rpartition("\n\n")[2]
    encoded = line.split()[2]
    signature = base64.b64decode(encoded)
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    stray = encoded[:-2] + digits[digits.index(encoded[-2]) + 1] + "="
    return {
        "a count": signed.replace("selfies=1", "selfies=2"),
        "a time": signed.replace("objects-deleted 2", "objects-deleted 3"),
        "a space": signed.replace("receipt ", "receipt  ", 1),
        "a letter that looks alike": signed.replace("reason c", "reason \u0441"),
        "a line less": signed.replace("reason customer-request\n", ""),
        "a line more": signed.replace("\n\n", "\nnote\n\n"),
        "the end cut off": signed[: signed.rindex("\n\n") + 1],
        "the signature cut": signed.replace(encoded, base64.b64encode(signature[:-1]).decode()),
        "the signature": signed.replace(
            encoded, base64.b64encode(signature[:-1] + bytes([signature[-1] ^ 1])).decode()
        ),
        "the key's id": signed.replace(encoded, base64.b64encode(b"\0\0\0\0" + signature[4:]).decode()),
        "stray bits": signed.replace(encoded, stray),
        "the dash": signed.replace("— ", "- "),
        "the key's name": signed.replace("— localhost", "— localghost"),
        "another key": OTHER.sign(text),
        "the name under another key": Signer(name=signer.name, seed=b"s" * 32).sign(text),
        "a wrong signature beside the right one": signed
        + line.replace(encoded, base64.b64encode(signature[:4] + bytes(64)).decode()),
        "another kind of note": signer.sign("localhost/audit@v1\n0\n"),
        "another version": signer.sign(text.replace("receipt@v1", "receipt@v2")),
        "nothing": "",
    }


def test_every_alteration_is_red(page: Page, signed: str, signer: Signer) -> None:
    for name, altered in altered_texts(signed, signer).items():
        assert altered != signed, name
        clear(page)
        paste(page, altered)
        expect_verdict(page, "bad", "This receipt is not genuine.")
        assert page.locator("#verdict dl").count() == 0, name


def test_a_file_is_checked_byte_for_byte(page: Page, signed: str) -> None:
    whole = signed.encode()
    for data in (
        whole.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + whole,
        whole.replace(b"receipt ", b"receipt\0", 1),
        whole.replace(b"reason", b"\xff\xfeason"),
        whole[:-1],
    ):
        clear(page)
        page.evaluate(DROP, [page.query_selector("#drop"), base64.b64encode(data).decode()])
        expect_verdict(page, "bad", "This receipt is not genuine.")


def test_the_customer_decides_which_key_to_trust(page: Page, signed: str, signer: Signer) -> None:
    page.click("summary")
    page.fill("#keys", str(OTHER.verifier))
    paste(page, signed)
    expect_verdict(page, "bad", "None of the keys you trust has signed it.")

    page.fill("#keys", f"{OTHER.verifier}\n{signer.verifier}\n")
    paste(page, signed)
    expect_verdict(page, "good", f"Signed by {signer.name}.")

    key = str(signer.verifier)
    for damaged in ("", "nonsense", key[:-4], key.replace("local", "lokal")):
        clear(page)
        page.fill("#keys", damaged)
        paste(page, signed)
        expect_verdict(page, "bad", "One of the keys is not a verifier key.")


def test_the_page_once_open_needs_no_network(page: Page, context: BrowserContext, signed: str) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    context.set_offline(True)

    paste(page, signed)

    expect_verdict(page, "good", "This receipt is genuine.")
    # The tab's icon is the browser's own business.
    assert [url for url in requests if not url.endswith("/mark.svg")] == []


@pytest.mark.parametrize("missing", [NO_ED25519, NO_SUBTLE], ids=["Ed25519", "WebCrypto"])
def test_a_browser_that_cannot_check_says_so(context: BrowserContext, signed: str, missing: str) -> None:
    context.add_init_script(missing)
    page = context.new_page()
    page.goto("/verify")

    paste(page, signed)

    expect_verdict(page, "unknown", "This browser cannot check Ed25519 signatures here.")


def test_without_scripts_the_page_points_to_the_program(browser: Browser, service: Service) -> None:
    with browser.new_context(base_url=service.client.base_url, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto("/verify")

        expect(page.locator("#verify")).to_be_hidden()
        expect(page.locator("main")).to_contain_text("The check needs JavaScript.")


def test_the_pages_fit_the_screen(page: Page, context: BrowserContext, signed: str, receipt_id: str) -> None:
    paste(page, signed)
    expect_verdict(page, "good", "This receipt is genuine.")
    receipt = context.new_page()
    receipt.goto(f"/receipts/{receipt_id}")
    expect(receipt.locator("h1")).to_have_text("Everything is deleted")
    for shown in (page, receipt):
        for width in WIDTHS:
            shown.set_viewport_size({"width": width, "height": 900})
            assert shown.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
