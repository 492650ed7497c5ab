"""Authentication: keys in two headers, a read-only session, and the routes that need neither."""

from datetime import timedelta

import httpx
import pytest

from app.db import Connection
from app.db.tables import api_keys
from app.db.tables.api_keys import NewApiKey
from app.web.auth import digest_of
from app.web.sessions import COOKIE
from tests.web.documents import nothing_recorded, problem
from tests.world import ADMIN_KEY, World

GUARDED = [
    ("POST", "/v1/tasks"),
    ("GET", "/v1/tasks"),
    ("GET", "/v1/tasks/task_0000000000000000000000000000000000000"),
    ("GET", "/v1/tasks/no-id-at-all"),
    ("GET", "/v1/tasks/task_0000000000000000000000000000000000000/timeline"),
    ("GET", "/v1/tasks/task_0000000000000000000000000000000000000/image"),
    ("HEAD", "/v1/tasks/task_0000000000000000000000000000000000000/image"),
]


async def sign_in(world: World, key: str = ADMIN_KEY) -> dict[str, str]:
    """The header with the session cookie of this key."""
    answer = await world.outsider.post("/session", data={"key": key})
    world.outsider.cookies.clear()
    return {"cookie": f"{COOKIE}={answer.cookies[COOKIE]}"}


async def replace_key(world: World, secret: str, *, disabled: bool = False) -> None:
    """Give the admin key another secret, or disable it."""

    def replace(connection: Connection) -> None:
        api_keys.put(connection, NewApiKey("key_admin", "admin", digest_of(secret), ["*"], world.clock()))
        if disabled:
            api_keys.disable(connection, "key_admin", world.clock())

    await world.use.db.write(replace)


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_a_request_without_a_key_is_refused_and_changes_nothing(world: World, method: str, path: str) -> None:
    answer = await world.outsider.request(method, path)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    if method != "HEAD":
        problem(answer, 401, "unauthorized")
    assert await nothing_recorded(world)


NO_KEYS: list[tuple[str, str | bytes]] = [
    ("authorization", "Bearer wrong"),
    ("authorization", "Bearer"),
    ("authorization", "Bearer  "),
    ("authorization", ADMIN_KEY),
    ("authorization", f"Basic {ADMIN_KEY}"),
    ("authorization", f"Bearer {ADMIN_KEY}x"),
    ("authorization", f"Bearer {ADMIN_KEY[:-1]}"),
    ("authorization", f"Bearer {digest_of(ADMIN_KEY)}"),
    ("authorization", b"Bearer \xff\xfe"),
    ("x-key", ""),
    ("x-key", "wrong"),
    ("x-key", b"\xff"),
    ("cookie", f"{COOKIE}={ADMIN_KEY}"),
    ("cookie", f"{COOKIE}="),
    ("cookie", f"{COOKIE}=a.b"),
    ("cookie", f"{COOKIE}=.AAAA"),
    ("cookie", f"{COOKIE}=".encode() + b"\xff\xfe"),
]


async def test_an_invalid_key_gets_the_same_answer_as_a_missing_one(world: World) -> None:
    none = await world.outsider.get("/v1/tasks")

    for name, value in NO_KEYS:
        raw = value.encode() if isinstance(value, str) else value
        answer = await world.outsider.get("/v1/tasks", headers=[(name.encode(), raw)])
        assert problem(answer, 401) == none.json(), (name, value)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {ADMIN_KEY}"},
        {"authorization": f"bearer   {ADMIN_KEY} "},
        {"x-key": ADMIN_KEY},
        {"authorization": "Basic abc", "x-key": ADMIN_KEY},
    ],
    ids=["Bearer", "bearer", "x-key", "x-key beside the proxy's own"],
)
async def test_a_key_is_accepted_in_either_header(world: World, headers: dict[str, str]) -> None:
    assert (await world.outsider.get("/v1/tasks", headers=headers)).status_code == 200


async def test_a_wrong_key_is_refused_even_with_a_session(world: World) -> None:
    session = await sign_in(world)

    problem(await world.outsider.get("/v1/tasks", headers={**session, "x-key": "wrong"}), 401)


async def test_a_disabled_key_is_refused(world: World) -> None:
    await replace_key(world, ADMIN_KEY, disabled=True)

    problem(await world.api.get("/v1/tasks"), 401)


async def test_a_session_reads_and_cannot_write(world: World) -> None:
    session = await sign_in(world)

    assert (await world.outsider.get("/v1/tasks", headers=session)).status_code == 200
    problem(await world.outsider.post("/v1/tasks", headers=session, json={"prompt": "x"}), 401)
    assert await nothing_recorded(world)


async def test_a_session_ends_after_twelve_hours(world: World) -> None:
    session = await sign_in(world)
    world.clock.advance(timedelta(hours=12).total_seconds())
    assert (await world.outsider.get("/tasks", headers=session)).status_code == 200

    world.clock.advance(1)

    assert (await world.outsider.get("/tasks", headers=session)).status_code == 401


@pytest.mark.parametrize(("secret", "disabled"), [("another-key", False), (ADMIN_KEY, True)], ids=["new", "disabled"])
async def test_the_sessions_of_a_key_end_with_it(world: World, secret: str, disabled: bool) -> None:
    session = await sign_in(world)

    await replace_key(world, secret, disabled=disabled)

    problem(await world.outsider.get("/v1/tasks", headers=session), 401)


async def test_an_altered_session_is_refused(world: World) -> None:
    cookie = (await sign_in(world))["cookie"]
    flipped = "B" if cookie[-9] == "A" else "A"
    altered = cookie[:-9] + flipped + cookie[-8:]

    problem(await world.outsider.get("/v1/tasks", headers={"cookie": altered}), 401)


async def test_the_database_holds_no_key(world: World) -> None:
    key = await world.use.db.read(lambda connection: api_keys.get(connection, "key_admin"))

    assert key is not None
    assert ADMIN_KEY not in repr(key)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json", "/static/fluxhook.css"])
async def test_public_routes_need_no_key(world: World, path: str) -> None:
    assert (await world.outsider.get(path)).status_code == httpx.codes.OK
