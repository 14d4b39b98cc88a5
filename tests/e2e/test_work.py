"""The free pack's price in real processes: a browser that works for it, one that cannot, and a program."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from headshots.management.site_client import SiteClient, SiteError
from pipelines.sample import sample_selfie
from tests.e2e.service import Service, running
from tests.e2e.test_browser import PATIENCE_MS, browser, open_page, photo
from tests.e2e.test_browser import pytestmark as in_a_browser

__all__ = ["browser", "open_page", "photo"]  # fixtures of the browser's tests

pytestmark = [*in_a_browser]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("work") / "data"
    folder.mkdir(mode=0o700)
    with running(folder, "--no-worker", FREE_WORK="40", FREE_PER_HOUR="5") as service:
        yield service


def fill_in(page: Page, photo: Path) -> None:
    page.goto("/new")
    page.set_input_files("#selfie", photo)
    page.check("[name=consent]")
    page.check("[name=adult]")


def test_the_browser_works_for_it_and_says_so(open_page: Callable[..., Page], photo: Path) -> None:
    page = open_page()
    held: list[Route] = []
    page.route("**/api/v1/challenge", lambda route: held.append(route))
    fill_in(page, photo)
    page.click("#send")

    expect(page.locator("#sending")).to_have_text("Your browser is working for your free pack: 0 % …")
    expect(page.locator("#send")).to_be_disabled()
    (challenge,) = held
    challenge.continue_()
    page.wait_for_url(re.compile("/orders/"), timeout=PATIENCE_MS)


def test_work_that_was_done_before_the_button_is_sent_with_it(
    open_page: Callable[..., Page], photo: Path
) -> None:
    page = open_page()
    fill_in(page, photo)
    expect(page.locator("#altcha")).to_have_value(re.compile("^[A-Za-z0-9+/=]{500,}$"))

    page.click("#send")

    page.wait_for_url(re.compile("/orders/"), timeout=PATIENCE_MS)


def test_a_browser_that_cannot_work_says_so_and_keeps_the_photo(
    open_page: Callable[..., Page], photo: Path
) -> None:
    page = open_page()
    page.route("**/api/v1/challenge", lambda route: route.abort())
    fill_in(page, photo)
    page.click("#send")
    expect(page.locator("#local-problem")).to_contain_text("could not do the small task")
    assert page.url.endswith("/new")

    page.unroute("**/api/v1/challenge")
    page.click("#send")

    page.wait_for_url(re.compile("/orders/"), timeout=PATIENCE_MS)


def test_a_refused_photo_costs_new_work_and_no_reload(open_page: Callable[..., Page], photo: Path) -> None:
    page = open_page()
    fill_in(page, photo)
    page.set_input_files("#selfie", {"name": "me.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"})
    page.click("#send")
    expect(page.locator("[data-code=not_an_image]")).to_be_visible(timeout=PATIENCE_MS)

    page.set_input_files("#selfie", photo)
    page.check("[name=consent]")
    page.check("[name=adult]")
    page.click("#send")
    page.wait_for_url(re.compile("/orders/"), timeout=PATIENCE_MS)


def test_without_scripts_the_page_says_what_to_do(open_page: Callable[..., Page], photo: Path) -> None:
    page = open_page(scripts=False)
    page.goto("/new")
    words = page.locator("noscript p.only-free")  # found by place: a noscript's text is passed over
    expect(words).to_be_visible()
    assert "The free pack needs JavaScript." in (words.text_content() or "")
    fill_in(page, photo)
    page.click("#send")
    expect(page.locator("[data-code=challenge_missing]")).to_be_visible()

    page.check("#tier-premium")
    page.set_input_files("#selfie", photo)
    page.check("[name=consent]")
    page.check("[name=adult]")
    page.click("#send")
    page.wait_for_url(re.compile("/orders/"))


def test_a_program_works_for_it_too_until_its_network_has_had_its_share(service: Service) -> None:
    client = SiteClient(service.client.base_url)

    def place_until_refused() -> None:
        for _ in range(11):  # enough where the hour turns meanwhile
            client.place(sample_selfie(), tier="free")

    with pytest.raises(SiteError) as refused:
        place_until_refused()
    assert refused.value.code == "too_many"
    assert client.place(sample_selfie(), tier="premium")["state"] == "assessing"


def test_a_small_screen_shows_the_form_whole(browser: Browser, service: Service) -> None:
    page = browser.new_context(base_url=service.client.base_url, java_script_enabled=False).new_page()
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto("/new")

    wide = page.locator("html").bounding_box()
    assert wide
    assert wide["width"] <= 360
