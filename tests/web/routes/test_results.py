"""Links to results: they work without a key, only for their task and until they expire."""

from dataclasses import replace
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest

from app.security.keyring import KeyRing
from app.twin import Rules
from tests.web.documents import problem
from tests.world import RING_KEY, World


@pytest.fixture
async def link(world: World) -> str:
    """The link `result.sample` of a finished task."""
    world.twin.rules = Rules(megapixels=0.01)
    posted = await world.api.post("/v1/flux-kontext-pro", json={"prompt": "a red fox", "output_format": "webp"})
    await world.go_on(6)
    return str((await world.api.get(posted.json()["polling_url"])).json()["result"]["sample"])


def changed(link: str, **changes: str) -> str:
    query = dict(parse_qsl(urlsplit(link).query)) | changes
    return f"{link.partition('?')[0]}?{urlencode(query)}"


async def test_a_link_serves_the_same_image_as_the_route_with_a_key(world: World, link: str) -> None:
    task_id = urlsplit(link).path.removeprefix("/results/").removesuffix(".webp")
    own = await world.api.get(f"/v1/tasks/{task_id}/image")

    whole = await world.outsider.get(link)
    part = await world.outsider.get(link, headers={"range": "bytes=2-5"})
    known = await world.outsider.get(link, headers={"if-none-match": whole.headers["etag"]})
    head = await world.outsider.head(link)

    assert (whole.status_code, whole.headers["content-type"]) == (200, "image/webp")
    assert (whole.content, whole.headers) == (own.content, own.headers)
    assert (part.status_code, part.content) == (206, whole.content[2:6])
    assert (known.status_code, known.content) == (304, b"")
    assert (head.status_code, head.content, head.headers) == (200, b"", own.headers)


async def test_a_link_works_for_a_week_and_is_then_answered_as_expired(world: World, link: str) -> None:
    world.clock.advance(7 * 86_400 - 1)
    assert (await world.outsider.get(link)).status_code == 200

    world.clock.advance(1)
    problem(await world.outsider.get(link), 410, "link_expired")
    assert (await world.outsider.head(link)).status_code == 410


async def test_each_poll_returns_a_new_link(world: World, link: str) -> None:
    task_id = urlsplit(link).path.removeprefix("/results/").removesuffix(".webp")
    world.clock.advance(7 * 86_400)

    fresh = (await world.api.get("/v1/get_result", params={"id": task_id})).json()["result"]["sample"]

    assert fresh != link
    assert (await world.outsider.get(fresh)).status_code == 200


async def test_an_altered_link_is_not_found(world: World, link: str) -> None:
    query = dict(parse_qsl(urlsplit(link).query))
    other = await world.post()
    forged = [
        changed(link, expires=str(int(query["expires"]) + 1)),
        changed(link, expires="0" + query["expires"]),
        changed(link, expires="9" * 40),
        changed(link, expires=""),
        changed(link, signature=query["signature"][:-1]),
        changed(link, signature=query["signature"].swapcase()),
        changed(link, signature=""),
        changed(link, signature="\ud800".encode("utf-8", "surrogatepass").decode("latin-1")),
        link.partition("?")[0],
        link.replace(".webp?", ".png?"),
        link.replace(".webp?", "?"),
        link.replace("/results/task_", "/results/"),
        f"/results/{other}.webp?{urlsplit(link).query}",
    ]

    for each in forged:
        problem(await world.outsider.get(each), 404, "not_found")
    assert (await world.api.get(forged[0])).status_code == 404, "a key does not make a forged link valid"


async def test_a_link_stays_valid_while_its_key_is_in_the_ring(world: World, link: str) -> None:
    way = world.network.hosts["gateway"]
    assert isinstance(way, httpx.ASGITransport)
    new = "a-newer-ring-key-for-tests-0123456789"
    for ring, status in (((new, RING_KEY), 200), ((new,), 404)):
        way.app.state.use = replace(world.use, keys=KeyRing(ring))  # type: ignore[attr-defined]
        assert (await world.outsider.get(link)).status_code == status


async def test_the_signature_of_a_link_is_in_no_log_line(
    world: World, link: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await world.outsider.get(link)

    logged = capsys.readouterr().out
    assert "/results/{task_id}.{suffix}" in logged
    assert dict(parse_qsl(urlsplit(link).query))["signature"] not in logged
