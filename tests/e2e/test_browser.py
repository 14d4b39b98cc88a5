"""A customer's whole way in a real browser on the real service: with scripts, by dropping, and without."""

import base64
import io
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, expect, sync_playwright

from pipelines.sample import sample_selfie
from tests.e2e.service import Service, running

expect.set_options(timeout=120_000)  # milliseconds; a busy machine is no failure

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: the pages were not driven"),
]

PATIENCE_MS = 180_000
WIDTHS = (390, 1440)
DROP = """([zone, encoded]) => {
    const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], "me.jpg", {type: "image/jpeg"}));
    zone.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
}"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("browser") / "data"
    folder.mkdir(mode=0o700)
    with running(folder) as service:
        yield service


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, service: Service) -> Iterator[Callable[..., Page]]:
    """Opens a new customer's browser; a blocked resource or a script error in any of them fails the test."""
    complaints: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text:
            complaints.append(message.text)

    def new_page(*, scripts: bool = True) -> Page:
        context = browser.new_context(
            base_url=service.client.base_url, java_script_enabled=scripts, accept_downloads=True
        )
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", listen)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        return page

    yield new_page
    for context in browser.contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "me.jpg"
    path.write_bytes(sample_selfie())
    return path


def agree_and_send(page: Page) -> None:
    page.check("[name=consent]")
    page.check("[name=adult]")
    page.click("#send")
    page.wait_for_url(re.compile("/orders/"))


def pay_for_a_pack(page: Page, photo: Path) -> None:
    page.goto("/new?tier=premium")
    page.set_input_files("#selfie", photo)
    agree_and_send(page)
    page.click("text=Go to the checkout", timeout=PATIENCE_MS)
    page.click("text=Pretend to pay $19.00")


def downloaded(page: Page, selector: str) -> bytes:
    with page.expect_download() as download:
        page.click(selector)
    return Path(download.value.path()).read_bytes()


def test_from_the_file_chooser_to_the_receipt(open_page: Callable[..., Page], photo: Path) -> None:
    page = open_page()
    page.goto("/")
    page.click("text=Make 3 free headshots")
    page.set_input_files("#selfie", photo)
    expect(page.locator("#thumbnail")).to_be_visible()
    agree_and_send(page)

    expect(page.locator("#headshot-1 img")).to_be_visible(timeout=PATIENCE_MS)
    expect(page.locator("h1")).to_have_text("Your headshots are ready", timeout=PATIENCE_MS)
    expect(page.locator("#announcement")).to_have_text("Your headshots are ready")
    expect(page.locator(".gallery img")).to_have_count(3)
    for picture in page.locator(".gallery img").all():
        expect(picture).to_have_js_property("naturalWidth", 448)
    expect(page.locator("[data-countdown]")).to_have_text(re.compile(r"^2[23] h \d\d min \d\d s$"))
    assert downloaded(page, "[aria-label='Download headshot 2']")[:3] == b"\xff\xd8\xff"
    archive = zipfile.ZipFile(io.BytesIO(downloaded(page, "text=Download all as ZIP")))
    assert len(archive.namelist()) == 4

    link = page.input_value("#private-link")
    other = open_page()
    other.goto(link)
    other.wait_for_url(re.compile("/orders/"))
    expect(other.locator(".gallery img")).to_have_count(3)
    assert "hso_" not in other.url

    address = page.url
    page.click("text=Delete everything now")
    page.click("text=Yes, delete everything")
    page.wait_for_url(re.compile("/receipts/"))
    expect(page.locator("h1")).to_have_text("Everything is deleted", timeout=PATIENCE_MS)
    expect(page.locator("pre.receipt")).to_contain_text("deleted selfies=1 headshots=3 previews=3")
    assert page.goto(address).status == 404  # type: ignore[union-attr]


def test_a_dropped_photo_is_taken_and_a_refused_one_explained(
    open_page: Callable[..., Page], photo: Path
) -> None:
    page = open_page()
    page.goto("/new?tier=premium")
    page.evaluate(DROP, [page.query_selector("#drop"), base64.b64encode(b"no picture").decode()])
    page.uncheck("[name=styles][value=tech]")
    page.check("[name=consent]")
    page.check("[name=adult]")
    page.click("#send")
    expect(page.locator("[data-code=not_an_image]")).to_be_focused()
    expect(page.locator("[name=styles][value=tech]")).not_to_be_checked()

    page.evaluate(DROP, [page.query_selector("#drop"), base64.b64encode(photo.read_bytes()).decode()])
    expect(page.locator("#thumbnail")).to_be_visible()
    agree_and_send(page)
    page.click("text=Go to the checkout", timeout=PATIENCE_MS)
    expect(page.locator(".test-mark")).to_have_text("TEST")
    page.click("text=Pretend to pay $19.00")
    expect(page.locator("#headshot-1 img")).to_be_visible(timeout=PATIENCE_MS)
    page.click("text=Delete everything now")
    page.click("text=Yes, delete everything")
    page.wait_for_url(re.compile("/receipts/"))


def test_the_focus_stays_where_it_is_while_pictures_arrive(
    open_page: Callable[..., Page], photo: Path
) -> None:
    page = open_page()
    pay_for_a_pack(page, photo)
    pictures = page.locator(".gallery img")
    expect(pictures.first).to_be_visible()

    for link in (".gallery a.frame", ".gallery a.get", "text=finished as ZIP"):
        page.locator(link).first.focus()
        focused = page.evaluate("document.activeElement.href")
        count = pictures.count()  # after the focus: whatever comes from now on comes while it is there
        expect(pictures).not_to_have_count(count)
        assert page.evaluate("document.activeElement.href") == focused
        assert focused

    page.click("text=Delete everything now")
    page.click("text=Yes, delete everything")
    page.wait_for_url(re.compile("/receipts/"))


def test_a_deletion_ends_on_its_receipt_though_the_page_finds_the_order_gone_first(
    open_page: Callable[..., Page], photo: Path
) -> None:
    page = open_page()
    pay_for_a_pack(page, photo)
    expect(page.locator(".gallery img").first).to_be_visible()
    held: list[Route] = []
    page.route("**/delete", lambda route: held.append(route))
    page.route("**/progress?*", lambda route: route.fulfill(status=404) if held else route.continue_())

    page.click("text=Delete everything now")
    with page.expect_response(lambda response: response.status == 404):
        page.click("text=Yes, delete everything", no_wait_after=True)
    page.wait_for_timeout(500)  # what the page does about it, it does now
    held[0].continue_()

    page.wait_for_url(re.compile("/receipts/"), timeout=PATIENCE_MS)


def test_the_whole_way_without_scripts(open_page: Callable[..., Page], photo: Path) -> None:
    page = open_page(scripts=False)
    page.goto("/new")
    page.set_input_files("#selfie", photo)
    agree_and_send(page)

    expect(page.locator("h1")).to_have_text(
        "Your headshots are ready", timeout=PATIENCE_MS
    )  # it reloads itself
    link = page.input_value("#private-link")
    page.click("#headshot-2 a.frame")
    expect(page.locator("h1")).to_contain_text("headshot 2 of 3")
    assert downloaded(page, ".picture-nav >> text=Download")[:3] == b"\xff\xd8\xff"

    other = open_page(scripts=False)
    other.goto("/o")
    other.fill("#token", link)
    other.click("text=Open the order")
    expect(other.locator(".gallery img")).to_have_count(3)
    other.click("text=Delete everything now")
    other.click("text=Yes, delete everything")
    expect(other.locator("h1")).to_have_text("Everything is deleted", timeout=PATIENCE_MS)


@pytest.mark.parametrize(
    "path", ["/", "/new?tier=premium", "/o", "/privacy", "/terms", "/nowhere", "/api/v1/docs", "/admin/"]
)
def test_no_page_is_wider_than_the_screen_or_blocked_by_the_policy(
    open_page: Callable[..., Page], path: str
) -> None:
    page = open_page()
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(path)
        page.wait_for_load_state("networkidle")

        assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
