"""Signing in and out, and which forms are accepted."""

import asyncio
import re
import time
from pathlib import Path

import pytest
from sqlalchemy import func, select

from app.db import Connection
from app.db.tables.ended_sessions import ended_sessions
from app.web.sessions import COOKIE
from tests.applications import application
from tests.browsing import signed_in
from tests.web.documents import problem
from tests.world import ADMIN_KEY, GATEWAY, World, open_world


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
    assert (await world.outsider.post("/session", data={"key": "x" * 5000})).status_code == 413


async def test_signing_out_ends_the_session_on_the_server_too(each_world: World) -> None:
    world = each_world
    page = await signed_in(world)
    stolen = f"{COOKIE}={world.outsider.cookies[COOKIE]}"

    answer = await world.outsider.post("/session/end", data={"token": page.token})

    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert COOKIE not in world.outsider.cookies
    assert (await world.outsider.get("/tasks", headers={"cookie": stolen})).status_code == 401
    problem(await world.outsider.get("/v1/tasks", headers={"cookie": stolen}), 401)


async def test_an_ended_session_is_forgotten_once_it_would_have_expired(each_world: World) -> None:
    world = each_world
    for hours in (0, 13):
        world.clock.advance(hours * 3600)
        page = await signed_in(world)
        await world.outsider.post("/session/end", data={"token": page.token})

    assert await world.use.db.read(count_ended_sessions) == 1


@pytest.mark.parametrize(
    "back", ["https://evil.example", "//evil.example", "/\\evil.example", "", "javascript:alert(1)"]
)
async def test_signing_in_leads_only_to_pages_of_this_site(world: World, back: str) -> None:
    wanted = await world.outsider.post("/session", data={"key": ADMIN_KEY, "back": "/tasks?state=failed"})
    other = await world.outsider.post("/session", data={"key": ADMIN_KEY, "back": back})

    assert (wanted.headers["location"], other.headers["location"]) == ("/tasks?state=failed", "/")


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        pytest.param({"sec-fetch-site": "cross-site"}, None, id="another site"),
        pytest.param({"sec-fetch-site": "same-site"}, None, id="another host of the same site"),
        pytest.param({"origin": "https://evil.example"}, None, id="another origin"),
        pytest.param({"origin": "null"}, None, id="no origin"),
        pytest.param({}, "", id="no token"),
        pytest.param({}, "AAAA", id="an invalid token"),
    ],
)
async def test_a_form_of_another_site_is_refused(world: World, headers: dict[str, str], token: str | None) -> None:
    page = await signed_in(world)

    fields = {"token": page.token if token is None else token}
    answer = await world.outsider.post("/session/end", data=fields, headers=headers)

    assert answer.status_code == 403
    assert (await world.outsider.get("/tasks")).status_code == 200


@pytest.mark.parametrize("headers", [{"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}])
async def test_another_site_cannot_sign_its_visitors_in(world: World, headers: dict[str, str]) -> None:
    answer = await world.outsider.post("/session", data={"key": ADMIN_KEY}, headers=headers)

    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


async def test_many_wrong_keys_in_the_form_are_answered_late_and_then_refused(world: World) -> None:
    async def sign_in(number: int) -> int:
        return (await world.outsider.post("/session", data={"key": f"a wrong key {number}"})).status_code

    first = [await sign_in(number) for number in range(20)]
    began = time.monotonic()
    together = await asyncio.gather(*(sign_in(number) for number in range(20, 40)))
    seconds = time.monotonic() - began

    assert set(first) == {401}
    assert set(together) == {401, 429}
    assert together.count(429) == 12
    assert seconds >= 1
    assert (await world.outsider.post("/session", data={"key": ADMIN_KEY})).status_code == 303


async def test_the_token_of_one_session_does_not_prove_the_forms_of_another(world: World) -> None:
    first = await signed_in(world)
    second = await signed_in(world)

    assert first.token != second.token
    assert (await world.outsider.post("/session/end", data={"token": first.token})).status_code == 403


async def test_a_key_in_a_header_reads_the_pages_and_sends_no_form(world: World) -> None:
    assert (await world.api.get("/tasks")).status_code == 200
    assert (await world.api.post("/session/end", data={"token": ""})).status_code == 401


@pytest.mark.parametrize("path", ["/", "/tasks", "/session"])
async def test_a_page_loads_nothing_foreign_and_cannot_be_framed(world: World, path: str) -> None:
    answer = await world.outsider.request("POST" if path == "/session" else "GET", path)

    policy = answer.headers["content-security-policy"]
    assert policy == "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert GATEWAY not in answer.text
    assert re.findall(r"<script[^>]*>", answer.text) == ['<script src="/static/fluxhook.js" defer>']
    assert "style=" not in answer.text


async def test_an_error_on_a_page_is_a_page(world: World) -> None:
    await signed_in(world)

    answer = await world.outsider.get("/tasks", params={"state": "lost"})

    assert answer.status_code == 422
    assert answer.headers["content-type"].startswith("text/html")
    assert "Invalid request" in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/tasks?state=lost", 422),
        ("GET", f"/tasks/task_{'0' * 37}", 404),
        ("GET", "/deliveries/lost", 404),
        ("POST", "/session/end", 403),  # without the token of a form
    ],
)
async def test_an_error_page_has_the_navigation_of_its_visitor(
    world: World, method: str, path: str, status: int
) -> None:
    await signed_in(world)
    answer = await world.outsider.request(method, path)
    await application(world, "shop")
    await signed_in(world, key="the key of shop, for tests only")
    of_application = await world.outsider.request(method, path)
    refused = await world.outsider.get("/settings")
    foreign = await world.outsider.post("/session/end", headers={"origin": "http://evil.example"})

    assert (answer.status_code, of_application.status_code, refused.status_code) == (status, status, 403)
    assert ['href="/settings"' in page.text for page in (answer, of_application, refused)] == [True, False, False]
    assert ['href="/callbacks"' in page.text for page in (answer, of_application, refused)] == [True, True, True]
    assert "Sign out" in answer.text
    assert 'name="token"' not in foreign.text


@pytest.mark.parametrize("path", ["/tasks/", "/nothing", "/v1/nothing", "/static/nothing.css"])
async def test_a_browser_gets_a_page_for_a_path_without_a_route_and_a_program_a_document(
    world: World, path: str
) -> None:
    await signed_in(world)
    browser = await world.outsider.get(path, headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    program = await world.outsider.get(path)
    world.outsider.cookies.clear()
    stranger = await world.outsider.get(path, headers={"accept": "text/html"})

    assert (browser.status_code, program.status_code, stranger.status_code) == (404, 404, 404)
    assert "There is no resource at this path." in browser.text
    assert 'href="/settings"' in browser.text
    assert browser.headers["content-security-policy"]
    assert program.json()["code"] == "not_found"
    assert "There is no resource at this path." in stranger.text
    assert 'href="/settings"' not in stranger.text


def count_ended_sessions(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(ended_sessions)).scalar_one()
