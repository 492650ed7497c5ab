"""A JSON body is read after the key is checked, and only up to a limit."""

import pytest

from tests.web.documents import problem
from tests.world import World

ROUTES = [("POST", "/v1/keys"), ("POST", "/v1/endpoints/test"), ("POST", "/v1/deliveries/replay")]
LARGE = b'{"name": "' + b"x" * 100_000 + b'"}'
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_without_a_key_the_body_is_not_checked(world: World, method: str, path: str) -> None:
    problem(await world.outsider.request(method, path, content=LARGE, headers=JSON), 401)


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_body_that_is_too_large_is_refused(world: World, method: str, path: str) -> None:
    problem(await world.api.request(method, path, content=LARGE, headers=JSON), 413)


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_body_with_another_media_type_is_refused(world: World, method: str, path: str) -> None:
    for headers in ({"content-type": "text/plain"}, {**JSON, "content-encoding": "gzip"}):
        problem(await world.api.request(method, path, content=b"{}", headers=headers), 415)


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_invalid_json_is_malformed(world: World, method: str, path: str) -> None:
    problem(await world.api.request(method, path, content=b"{", headers=JSON), 400)


async def test_every_json_media_type_is_accepted(world: World) -> None:
    answer = await world.api.post(
        "/v1/keys", content=b'{"name": "shop"}', headers={"content-type": "application/vnd.shop+json; charset=utf-8"}
    )

    assert answer.status_code == 201
