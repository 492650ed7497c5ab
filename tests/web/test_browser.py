"""The page at `/` in a real browser."""

from pathlib import Path

import pytest
from playwright.async_api import async_playwright

from app.twin import Rules
from tests.conftest import skip_or_fail
from tests.web.routes.test_pages import HTML
from tests.world import ADMIN_KEY, World

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
def chromium() -> Path:
    """Return the path of the browser."""
    if not CHROMIUM.exists():
        skip_or_fail("browser", "chromium is not installed: apt-get install chromium")
    return CHROMIUM


async def test_in_a_browser_a_person_signs_in_and_sees_the_image(world: World, address: str, chromium: Path) -> None:
    world.twin.rules = Rules(megapixels=0.05)
    await world.post(prompt=HTML)
    await world.go_on(6)
    complaints: list[str] = []

    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=chromium, args=FLAGS)
        page = await browser.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(error.message))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        await page.goto(address)
        complaints.clear()  # the browser reports the 401 of the sign-in form
        await page.get_by_label("API key").fill(ADMIN_KEY)
        await page.get_by_role("button", name="Sign in").click()
        image = page.locator(".task img")
        await image.wait_for()
        await page.wait_for_load_state("networkidle")
        width = await image.evaluate("image => image.naturalWidth")
        state = await page.locator(".state").inner_text()
        prompt = await page.locator(".prompt").inner_text()
        await browser.close()

    assert complaints == []
    assert width > 0
    assert state.lower() == "stored"
    assert prompt == HTML
