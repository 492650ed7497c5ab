"""A JSON body is looked at after the key, and never more of it than is sane."""

import pytest

from tests.web.documents import problem
from tests.world import World

ROUTES = [("POST", "/v1/keys"), ("POST", "/v1/endpoints/test"), ("POST", "/v1/deliveries/replay")]
LARGE = b'{"name": "' + b"x" * 100_000 + b'"}'
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_who_has_no_key_learns_nothing_of_the_body(world: World, method: str, path: str) -> None:
    problem(await world.outsider.request(method, path, content=LARGE, headers=JSON), 401)


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_body_that_is_too_large_is_refused(world: World, method: str, path: str) -> None:
    problem(await world.api.request(method, path, content=LARGE, headers=JSON), 413)


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_what_is_not_json_is_refused_by_its_name(world: World, method: str, path: str) -> None:
    for headers in ({"content-type": "text/plain"}, {**JSON, "content-encoding": "gzip"}):
        problem(await world.api.request(method, path, content=b"{}", headers=headers), 415)


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_broken_json_is_called_that(world: World, method: str, path: str) -> None:
    problem(await world.api.request(method, path, content=b"{", headers=JSON), 400)


async def test_any_kind_of_json_will_do(world: World) -> None:
    answer = await world.api.post(
        "/v1/keys", content=b'{"name": "shop"}', headers={"content-type": "application/vnd.shop+json; charset=utf-8"}
    )

    assert answer.status_code == 201
