"""Every error is answered with the error document, for any path, method or cause."""

from collections.abc import AsyncGenerator
from contextlib import nullcontext
from dataclasses import replace

import httpx
import pytest

from app.errors import FluxhookError, InvalidRequest, Unauthorized, Unavailable
from app.main import create_app
from app.web.problems import answer, document, invalid
from tests.web.documents import problem
from tests.world import ADMIN_KEY, GATEWAY, World

TASK = "task_0000000000000000000000000000000000000"
ROUTES = {
    "/": {"GET"},
    "/session": {"POST"},
    "/session/end": {"POST"},
    "/healthz": {"GET"},
    "/readyz": {"GET"},
    "/openapi.json": {"GET", "HEAD"},
    "/static/fluxhook.css": {"GET", "HEAD"},
    "/v1/tasks": {"GET", "POST"},
    f"/v1/tasks/{TASK}": {"GET", "DELETE"},
    f"/v1/tasks/{TASK}/timeline": {"GET"},
    f"/v1/tasks/{TASK}/image": {"GET", "HEAD"},
    "/v1/keys": {"GET", "POST"},
    "/v1/keys/key_admin": {"PATCH", "DELETE"},
    "/v1/flux-kontext-pro": {"POST"},
    "/callbacks/a/b": {"POST"},
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")


def test_an_error_document_has_the_members_that_every_kind_of_client_reads() -> None:
    assert document(InvalidRequest("seed: is required", {"seed": "is required"})) == {
        "type": "urn:fluxhook:problem:invalid_request",
        "title": "Invalid request",
        "status": 422,
        "detail": "seed: is required",
        "code": "invalid_request",
        "message": "seed: is required",
        "error": {"message": "seed: is required", "type": "422"},
        "fields": {"seed": "is required"},
    }


def test_only_a_temporary_error_has_a_retry_after() -> None:
    assert "retry-after" in answer(Unavailable("the database is away")).headers
    assert "retry-after" not in answer(InvalidRequest("no")).headers


def test_a_missing_key_says_how_to_send_one() -> None:
    assert answer(Unauthorized("no key")).headers["www-authenticate"] == "Bearer"


def test_a_field_is_named_by_its_path() -> None:
    found = invalid([{"loc": ("images", 0, "query"), "type": "missing", "msg": "Field required"}])

    assert found.fields == {"images.0.query": "is required"}


@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/flux-kontext-pro"])
async def test_a_blank_prompt_is_called_blank(world: World, path: str) -> None:
    answer = await world.api.post(path, json={"prompt": " \n "})

    assert (answer.status_code, answer.json()["fields"]) == (422, {"prompt": "must not be blank"})


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/tasks", "cursor"),
        ("/v1/tasks", "model"),
        ("/v1/events", "task_id"),
        ("/v1/deliveries", "endpoint_id"),
        ("/v1/endpoints", "cursor"),
    ],
)
async def test_a_parameter_with_an_invalid_format_is_named(world: World, path: str, field: str) -> None:
    found = problem(await world.api.get(path, params={field: "Not of this form"}), 422)

    assert found["fields"] == {field: "has an invalid format"}


async def test_a_name_with_a_control_character_is_not_called_blank(world: World) -> None:
    found = problem(await world.api.post("/v1/keys", json={"name": "a\0b"}), 422)

    assert found["fields"] == {"name": "has an invalid format"}


@pytest.mark.parametrize("path", ROUTES)
async def test_another_method_is_refused_with_the_right_ones(world: World, path: str) -> None:
    for method in sorted(set(METHODS) - ROUTES[path]):
        refused = await world.api.request(method, path)

        assert set(refused.headers["allow"].split(", ")) == ROUTES[path]
        if method == "HEAD":
            assert refused.status_code == 405
        else:
            problem(refused, 405, "method_not_allowed")


@pytest.mark.parametrize(
    "path",
    [
        "/nope",
        "/v1",
        "/v1/tasks/",
        "/healthz/",
        "//",
        "//evil.example/v1/tasks",
        "/v1//tasks",
        "/static",
        "/static/",
        "/static/no.css",
        "/static/..%2fpages.py",
        "/static/%2e%2e/%2e%2e/main.py",
        "/static/%00",
        "/static/%ff",
        "/static/" + "a" * 300,
        "/static/fluxhook.css/x",
        "/callbacks/a",
        "/callbacks/a/b/c",
        "/docs",
        "/" + "a" * 20_000,
    ],
    ids=lambda path: path[:40],
)
async def test_an_unknown_path_is_not_found_and_never_redirected(world: World, path: str) -> None:
    found = problem(await world.api.get(f"{GATEWAY}{path}"), 404, "not_found")

    assert found["detail"] == "there is no resource at this path"


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=a-b", "items=0-5", "bytes=9999999-", "bytes=-0"])
async def test_static_files_are_sent_whole_for_any_range(world: World, asked: str) -> None:
    answer = await world.outsider.get("/static/fluxhook.css", headers={"range": asked})

    assert answer.status_code == 200
    assert answer.content


@pytest.fixture
async def broken(world: World) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of a service without a database, so that every query raises an unexpected error."""
    app = create_app(nullcontext(world.use), with_worker=False)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url=GATEWAY, headers={"x-key": ADMIN_KEY}) as client,
    ):
        app.state.use = replace(world.use, db=None)  # type: ignore[arg-type]
        yield client


@pytest.mark.parametrize("path", ["/v1/tasks", "/", f"/v1/tasks/{TASK}/image"])
async def test_an_unexpected_error_is_answered_without_its_cause(broken: httpx.AsyncClient, path: str) -> None:
    found = problem(await broken.get(path), 500, "internal_error")

    assert found["detail"] == "an unexpected error: see the log of the service"


def test_the_status_of_an_internal_error_is_also_text() -> None:
    assert document(FluxhookError("x"))["error"]["type"] == "500"
