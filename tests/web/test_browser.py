"""The pages in a real browser: a task from the form to its image, by mouse and by keyboard, and accessibility."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.async_api import Browser, BrowserContext, FilePayload, Page, async_playwright

from tests.browsing import HTML
from tests.conftest import skip_or_fail
from tests.pictures import picture
from tests.services import services_running
from tests.world import ADMIN_KEY

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
ANY_LOOPBACK = {"FLUXHOOK_EGRESS_ALLOW": "127.0.0.0/8"}
PATIENCE_MS = 60_000  # the machine may be slow
LONG = "a prompt without an end, " * 60
WIDE = "Pneumonoultramicroscopicsilicovolcanoconiosis" * 6
ARABIC = "قطة صغيرة تجلس على نافذة في المطر"


@pytest.fixture(scope="module")
async def browser() -> AsyncGenerator[Browser]:
    """A browser for all tests of this file. Each test has a context of its own, which shares nothing with another."""
    if not os.access(CHROMIUM, os.X_OK):
        skip_or_fail("browser", "chromium is not installed: apt-get install chromium")
    async with async_playwright() as driver:
        opened = await driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE_MS)
        yield opened
        await opened.close()


@pytest.fixture
async def service(tmp_path: Path, sqlite_url: str) -> AsyncGenerator[str]:
    """The address of a service with a worker and the twin as its provider."""
    async with services_running(tmp_path, sqlite_url, env=ANY_LOOPBACK) as (address, _):
        yield address


@asynccontextmanager
async def fresh(browser: Browser, *, scripts: bool = True) -> AsyncGenerator[Page]:
    """A page in a context of its own."""
    context: BrowserContext = await browser.new_context(java_script_enabled=scripts)
    page = await context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    yield page
    await context.close()


@asynccontextmanager
async def watched(browser: Browser, address: str) -> AsyncGenerator[Page]:
    """A page that complains about nothing, and asks nothing of another origin.

    The sign-in form answers with 401, and a form of a key that is sent again with 409.
    """
    complaints: list[str] = []
    async with fresh(browser) as page:
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(error.message))
        page.on("request", lambda request: _note_foreign(request.url, address, complaints))
        await page.goto(address)
        yield page
    expected = ("401 (Unauthorized)", "409 (Conflict)")
    assert [text for text in complaints if not any(status in text for status in expected)] == []


def _note_foreign(url: str, address: str, complaints: list[str]) -> None:
    if urlsplit(url).netloc != urlsplit(address).netloc:
        complaints.append(f"a request to {url}")


async def sign_in(page: Page) -> None:
    await page.get_by_label("API key").fill(ADMIN_KEY)
    await page.get_by_role("button", name="Sign in").click()
    await page.get_by_role("heading", name="Overview").wait_for()


async def finished(address: str, **params: str) -> str:
    """Submit a task over the API and wait for its end; return its id."""
    async with httpx.AsyncClient(base_url=address, headers={"x-key": ADMIN_KEY}, timeout=70) as api:
        answer = await api.post("/v1/tasks", json=params, headers={"prefer": "wait=60"})
        return str(answer.json()["id"])


async def furnished(address: str) -> tuple[str, str]:
    """Create an application and a key, both with long names; return the application's page and the key's id."""
    async with httpx.AsyncClient(base_url=address, headers={"x-key": ADMIN_KEY}, timeout=70) as api:
        budget = {"credits": 120_000, "period": "month"}
        made = (await api.post("/v1/applications", json={"name": WIDE[:100], "budget": budget})).json()
        key = (await api.post(f"/v1/applications/{made['id']}/keys", json={"name": WIDE[:100]})).json()
        return f"/applications/{made['id']}", str(key["id"])


async def test_a_person_creates_an_application_with_a_key_that_is_shown_once_and_revokes_it(
    browser: Browser, service: str
) -> None:
    async with watched(browser, service) as page:
        await sign_in(page)
        await page.get_by_role("link", name="Applications").click()
        await page.get_by_role("link", name="New application").click()
        await page.get_by_label("Name").fill(HTML)
        await page.get_by_label("Credits").fill("12.5")
        await page.get_by_role("button", name="Create the application").click()
        await page.get_by_text("0 of 12.5").wait_for()
        await page.get_by_role("link", name="Change").focus()
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="Change an application").wait_for()
        await tab_to(page, "Credits")
        await page.keyboard.type("30")  # the focus has selected the value
        await tab_to(page, "Queued tasks")
        await page.keyboard.press("Tab")  # to its box “no limit”
        await page.keyboard.press("Space")
        await page.keyboard.press("Enter")
        await page.get_by_text("The application is changed.").wait_for()
        await page.get_by_text("0 of 30").wait_for()
        await page.get_by_role("row", name="Queued tasks 0 of no limit").wait_for()
        await page.get_by_role("link", name="New key").click()
        await page.get_by_label("Name").fill("a server")
        await page.get_by_role("button", name="Create the key").click()
        secret = (await page.get_by_role("region", name="API key").inner_text()).strip()
        assert await flaws(page) == []
        await page.reload()
        await page.get_by_text("This form was already sent").wait_for()
        await page.get_by_role("link", name="Applications").click()
        await page.get_by_role("link", name=HTML).click()
        await page.get_by_role("link", name="Revoke a server").wait_for()  # fails if there are two
        await page.wait_for_load_state()
        assert secret not in await page.content()
        await page.get_by_role("link", name="Revoke a server").click()
        await page.get_by_role("button", name="Revoke the key").click()
        await page.get_by_text("The key is revoked").wait_for()
        async with httpx.AsyncClient(base_url=service, headers={"x-key": secret}, timeout=60) as api:
            assert (await api.get("/v1/limits")).status_code == 401


async def test_budget_and_limits_are_changed_without_scripts(browser: Browser, service: str) -> None:
    here, _ = await furnished(service)
    async with fresh(browser, scripts=False) as page:
        await page.goto(f"{service}{here}/change")
        await page.get_by_label("API key").fill(ADMIN_KEY)
        await page.get_by_role("button", name="Sign in").click()
        await page.get_by_label("Credits").fill("70")
        await page.get_by_label("In each").select_option("day")
        await page.get_by_label("Posts a minute").fill("5")
        await page.get_by_role("button", name="Save the changes").click()
        await page.get_by_text("The application is changed.").wait_for()
        await page.get_by_text("0 of 70").wait_for()
        await page.get_by_role("row", name="Posts a minute 5").wait_for()


async def test_a_person_submits_a_task_watches_it_finish_and_replays_its_webhook(
    browser: Browser, service: str
) -> None:
    told = await finished(service, prompt="a lighthouse", webhook_url=f"{service}/healthz")
    async with watched(browser, service) as page:
        await sign_in(page)
        await page.get_by_role("link", name="New task").first.click()
        await page.get_by_label("Prompt", exact=False).first.fill(HTML)
        image = FilePayload(name="a.png", mimeType="image/png", buffer=picture())
        await page.get_by_label("Input image", exact=True).set_input_files(image)
        await page.locator(".previews canvas").first.wait_for()
        await page.get_by_role("button", name="Submit the task").click()

        result = page.get_by_role("img", name="The result, whole")
        await result.wait_for()  # it appears without a reload
        assert await result.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        assert await page.get_by_role("heading", level=1).inner_text() == HTML
        await page.get_by_role("link", name="Raw evidence of Callback").click()
        await page.get_by_text("is the secret of this attempt").or_(page.get_by_text("is the HMAC-SHA256")).wait_for()

        await page.goto(f"{service}/tasks/{told}")
        await page.get_by_role("link", name="Replay").click()
        await page.get_by_role("button", name="Send it again").click()
        await page.get_by_text("The webhook is sent again.").wait_for()
        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_label("API key").wait_for()


async def test_the_keyboard_alone_is_enough(browser: Browser, service: str) -> None:
    async with watched(browser, service) as page:
        await focused(page, "input")
        await page.keyboard.type(ADMIN_KEY)
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="Overview").wait_for()
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.className") == "skip"
        await tab_to(page, "New task")
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="New task").wait_for()
        await tab_to(page, "Prompt")
        await page.keyboard.type("typed by hand")
        await tab_to(page, "Submit the task")
        await page.keyboard.press("Enter")
        await page.get_by_role("img", name="The result, whole").wait_for()
        await tab_to(page, "Erase")
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="Erase this task?").wait_for()
        await focused(page, "button")
        await page.keyboard.press("Enter")
        await page.get_by_text("Erased.").wait_for()


async def focused(page: Page, kind: str) -> None:
    """Wait until the page has given the focus to an element of this kind, which it does after it is shown."""
    await page.wait_for_function("kind => document.activeElement?.localName === kind", arg=kind)


async def tab_to(page: Page, name: str) -> None:
    """Press the tabulator until an element with this text or label has the focus, which must be visible."""
    for _ in range(60):
        await page.keyboard.press("Tab")
        words, outline = await page.evaluate(
            """() => {
                const element = document.activeElement;
                const label = element.labels?.[0]?.innerText ?? element.innerText ?? "";
                return [label, getComputedStyle(element).outlineStyle];
            }"""
        )
        if words.strip().startswith(name):
            assert outline != "none"
            return
    raise AssertionError(f"no way to {name}")


async def test_no_page_has_a_serious_flaw_for_people_with_disabilities_or_small_screens(
    browser: Browser, service: str
) -> None:
    tasks = [await finished(service, prompt=prompt) for prompt in (LONG, WIDE, ARABIC, "unsafe result")]
    here, key_id = await furnished(service)
    paths = ["/", "/tasks", "/tasks?view=table", "/tasks?state=cancelled", "/new", "/callbacks", "/deliveries"]
    paths += ["/applications", "/applications/new", here, f"{here}/keys/new", f"{here}/keys/{key_id}/revoke"]
    paths += [
        f"{here}/change",
        f"{here}/disable",
        f"{here}/enable",
        f"/tasks/task_{'0' * 37}",
        "/accounts",
        "/audit",
        "/settings",
        *(f"/tasks/{task_id}" for task_id in tasks),
        f"/tasks/{tasks[0]}/confirm/erase",
        "/settings?checks=all",
    ]
    async with fresh(browser) as page:
        await page.goto(service)
        found = await flaws_everywhere(page, "sign in")
        await sign_in(page)
        for path in paths:
            await page.goto(f"{service}{path}")
            await page.get_by_role("heading", level=1).wait_for()
            found |= await flaws_everywhere(page, path)
        await page.get_by_role("heading", name="What fluxhook doctor finds").wait_for()

    assert {place: flaw for place, flaw in found.items() if flaw} == {}


async def flaws_everywhere(page: Page, name: str) -> dict[str, list[str]]:
    """Return the flaws of a loaded page by its width and color scheme.

    No script of the pages asks for either, so one load serves all. 427 pixels are what a window of 1,280 has left at a
    zoom of 300 percent. axe-core takes longest: it sees each scheme, and the widest and the narrowest layout, once.
    """
    found = {}
    light, dark = "light", "dark"
    for width, scheme, look in ((1280, light, flaws), (427, light, misfits), (390, dark, flaws)):
        await page.emulate_media(color_scheme="dark" if scheme == dark else "light")
        await page.set_viewport_size({"width": width, "height": 800})
        await page.wait_for_function(
            "([width, scheme]) => innerWidth === width && matchMedia(`(prefers-color-scheme: ${scheme})`).matches",
            arg=[width, scheme],
        )
        found[f"{name}, {width} pixels, {scheme}"] = await look(page)
    return found


async def flaws(page: Page) -> list[str]:
    """Return the serious violations that axe-core finds, and what does not fit or is not drawn alike."""
    await page.wait_for_load_state()
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(AXE_SCRIPT)
    violations = await page.evaluate("axe.run({resultTypes: ['violations']}).then((results) => results.violations)")
    serious = [
        f"{violation['id']}: {violation['nodes'][0]['html'][:160]}"
        for violation in violations
        if violation["impact"] in {"serious", "critical"}
    ]
    return serious + await misfits(page)


async def misfits(page: Page) -> list[str]:
    """Return what does not fit or is not drawn alike."""
    found = []
    overflow = await page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    if overflow > 0:
        found.append(f"{overflow} pixels too wide")
    sizes = await page.evaluate(
        "[...new Set([...document.querySelectorAll('.state')].map((state) => getComputedStyle(state).fontSize))]"
    )
    if len(sizes) > 1:
        found.append(f"states in sizes of {sizes}")
    small = await page.evaluate(
        """[...document.querySelectorAll("main *")]
            .filter((element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
            .map((element) => {
                const matrix = element.getScreenCTM?.();
                return parseFloat(getComputedStyle(element).fontSize) * (matrix ? matrix.a : 1);
            })
            .filter((size) => size < 11).length"""
    )
    if small:
        found.append(f"{small} texts below 11 pixels")
    return found
