"""The page at `/`: signing in, its content, and the escaping of prompts."""

from pathlib import Path

import pytest

from app.web.auth import COOKIE
from tests.web.documents import problem
from tests.world import ADMIN_KEY, GATEWAY, World, open_world

HTML = """<script>alert(1)</script><img src=x onerror=alert(2)>"' {{ 7*7 }}"""


async def signed_in(world: World) -> str:
    """Return the page that a session sees."""
    await world.outsider.post("/session", data={"key": ADMIN_KEY})
    answer = await world.outsider.get("/")
    assert answer.status_code == 200
    return answer.text


@pytest.mark.parametrize("headers", [{}, {"cookie": f"{COOKIE}=old"}, {"x-key": "wrong"}], ids=["none", "old", "wrong"])
async def test_without_a_session_the_page_asks_for_a_key(world: World, headers: dict[str, str]) -> None:
    await world.post(prompt="a private fox")

    answer = await world.outsider.get("/", headers=headers)

    assert answer.status_code == 401
    assert 'action="/session"' in answer.text
    assert "a private fox" not in answer.text


async def test_a_key_becomes_a_session_that_no_script_and_no_other_site_can_use(world: World) -> None:
    answer = await world.outsider.post("/session", data={"key": f" {ADMIN_KEY}\n"})

    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    name, *flags = answer.headers["set-cookie"].split("; ")
    assert name.startswith(f"{COOKIE}=")
    assert ADMIN_KEY not in name
    assert {flag.lower() for flag in flags} == {"httponly", "samesite=strict", "path=/"}


async def test_the_session_cookie_is_secure_if_the_service_has_an_https_address(
    tmp_path: Path, sqlite_url: str
) -> None:
    async with open_world(tmp_path, sqlite_url, public_url="https://gateway.example") as world:
        answer = await world.outsider.post("/session", data={"key": ADMIN_KEY})

        assert "; Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    ("content_type", "content"),
    [
        pytest.param("application/x-www-form-urlencoded", b"key=wrong", id="wrong"),
        pytest.param("application/x-www-form-urlencoded", b"", id="nothing"),
        pytest.param("application/x-www-form-urlencoded", b"key=%ff%00&key[]=x&=", id="odd bytes"),
        pytest.param("application/x-www-form-urlencoded", b"a=1&" * 900, id="many fields"),
        pytest.param("application/json", b'{"key": 1}', id="JSON"),
        pytest.param("multipart/form-data; charset=idna", b"--", id="multipart"),
    ],
)
async def test_a_wrong_key_gets_a_readable_error(world: World, content_type: str, content: bytes) -> None:
    answer = await world.outsider.post("/session", content=content, headers={"content-type": content_type})

    assert answer.status_code == 401
    assert "That key is not valid." in answer.text
    assert "set-cookie" not in answer.headers


async def test_the_sign_in_form_is_limited_in_size(world: World) -> None:
    problem(await world.outsider.post("/session", data={"key": "x" * 5000}), 413, "too_large")


async def test_signing_out_forgets_the_session(world: World) -> None:
    await signed_in(world)

    answer = await world.outsider.post("/session/end")

    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert (await world.outsider.get("/")).status_code == 401


async def test_a_page_without_tasks_says_how_to_make_one(world: World) -> None:
    assert "No task yet" in await signed_in(world)


async def test_the_page_shows_the_latest_tasks_with_image_state_and_failure(each_world: World) -> None:
    stored = await each_world.post()
    each_world.clock.advance(0.001)
    failed = await each_world.post(prompt="unsafe result")
    await each_world.go_on(6)
    await each_world.post(prompt="still waiting")

    page = await signed_in(each_world)

    assert f'<img src="/v1/tasks/{stored}/image"' in page
    assert f'<img src="/v1/tasks/{failed}/image"' not in page
    assert "content_moderated: Content Moderated" in page
    assert page.index("still waiting") < page.index("unsafe result") < page.index("a red fox")


async def test_a_prompt_of_html_is_shown_as_text(world: World) -> None:
    await world.post(prompt=HTML)

    page = await signed_in(world)

    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7*7 }}" in page


@pytest.mark.parametrize("path", ["/", "/session"])
async def test_a_page_runs_no_script_loads_nothing_foreign_and_cannot_be_framed(world: World, path: str) -> None:
    answer = await world.outsider.request("GET" if path == "/" else "POST", path)

    policy = answer.headers["content-security-policy"]
    assert policy == "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert GATEWAY not in answer.text
    assert "<script" not in answer.text
