"""Values that must not leak are put into every secret, prompt, image and tag of a running service, and searched for.

They must be in no line of the log, trace, metric, error answer or export of figures; and after an erasure, in no row,
database file or stored file, and not in the write-ahead log once that is overwritten. The service runs as a process of
its own.
"""

import asyncio
import base64
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]
import httpx
import pytest

from app.db.engine.database import open_database
from app.twin import build
from tests.calling import everything
from tests.pictures import chunk, picture, with_chunks
from tests.replicas import Replicas, replicas
from tests.sockets import listening, serving, until

SECRETS = {
    "provider key": "canaryproviderkey0001",
    "admin key": "canaryadminkey0002abcdefgh",
    "ring key": "canaryringkey0003abcdefghijklmnopqrs",
    "webhook secret": "canarywebhooksecret0004",
    "secret of the key's webhook": "canarykeywebhooksecret0005",
    "path of a webhook": "canarywebhookpath0006",
    "wrong key": "canarywrongkey0007",
    "password in a URL": "canarypassword0008",
    "signature": "canarysignature0009",
}
CONTENT = {
    "prompt": "canaryprompt0010",
    "image": "canaryimage0011",
    "user": "canaryuser0012",
    "metadata": "canarymetadata0013",
    "prompt in another form": "canaryprompt0015",
    "answer of a webhook": "canaryanswer0016",
    "idempotency key": "canaryidempotency0014",
}
DATA_LIFE = Path(__file__).parents[1] / "docs" / "data-life.md"
_HEADERS = {"idempotency-key": CONTENT["idempotency key"]}


def found(canaries: dict[str, str], data: bytes) -> set[str]:
    """Return the names of the canaries that are in these bytes, plain, in hex or in base64."""
    return {name for name, value in canaries.items() if any(form in data for form in forms(value.encode()))}


def forms(value: bytes) -> Iterator[bytes]:
    """Yield the value, in hex, and the part of its base64 that does not depend on what is around it, at each alignment.

    A dump of PostgreSQL has binary values in hex.
    """
    yield value
    yield value.hex().encode()
    for before in range(3):
        encoded = base64.b64encode(b"x" * before + value)
        yield encoded[4 if before else 0 : len(encoded) - 4]


def image() -> str:
    return base64.b64encode(with_chunks(picture(), chunk(b"tEXt", b"Comment\0" + CONTENT["image"].encode()))).decode()


@dataclass
class Running:
    """A service, the traces that it has exported, and how many of its webhooks were refused."""

    service: Replicas
    webhook_url: str
    traces: list[bytes] = field(default_factory=list)
    refused_webhooks: int = 0
    shop: dict[str, str] = field(default_factory=dict)  # the headers of the application that posts

    @property
    def log(self) -> bytes:
        return self.service.log.read_bytes()

    async def has_traces(self) -> bool:
        return bool(self.traces)


@asynccontextmanager
async def running(folder: Path, database_url: str) -> AsyncGenerator[Running]:
    theirs, provider = listening()
    recording, recorder = listening()

    async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request: accept traces, and refuse webhooks with a canary in the answer."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0")
        body = await reader.readexactly(length)
        is_trace = head.startswith(b"POST /v1/traces")
        if is_trace:
            run.traces.append(body)
        else:
            run.refused_webhooks += 1
        answer = b"" if is_trace else CONTENT["answer of a webhook"].encode()
        status = b"200 OK" if is_trace else b"500 Internal Server Error"
        writer.write(
            b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, len(answer), answer)
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(record, sock=recording)
    env = {
        "FLUXHOOK_DATABASE_URL": database_url,
        "FLUXHOOK_BFL_API_KEY": SECRETS["provider key"],
        "FLUXHOOK_ADMIN_KEY": SECRETS["admin key"],
        "FLUXHOOK_SECRET_KEYS": SECRETS["ring key"],
        "FLUXHOOK_EGRESS_ALLOW": "127.0.0.0/8",
        "OTEL_EXPORTER_OTLP_ENDPOINT": recorder,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    async with server, serving(build(ready_after_s=0.2, seed=1), theirs), replicas(folder, provider, **env) as service:
        service.api.headers["authorization"] = f"Bearer {SECRETS['admin key']}"
        service.env["FLUXHOOK_PUBLIC_URL"] = str(service.api.base_url).rstrip("/")
        run = Running(service, f"{recorder}/{SECRETS['path of a webhook']}")
        await service.start("serve")
        await until(service.healthy, 120)
        yield run


async def live(run: Running) -> list[str]:
    """Post tasks by each API, with canaries, until they have ended. Return the ids of the erasable ones."""
    api = run.service.api
    key = await api.post(
        "/v1/keys",
        json={
            "name": "shop",
            "webhook_url": run.webhook_url,
            "webhook_secret": SECRETS["secret of the key's webhook"],
        },
    )
    headers = run.shop = {"authorization": f"Bearer {key.raise_for_status().json()['key']}"}
    tagged = {"user": CONTENT["user"], "metadata": {"order": CONTENT["metadata"]}}
    own = {"webhook_url": run.webhook_url, "webhook_secret": SECRETS["webhook secret"]}
    posts = [
        ("/v1/tasks", {"prompt": CONTENT["prompt"], "input_image": image(), **tagged, **own}, {**headers, **_HEADERS}),
        ("/v1/tasks", {"prompt": CONTENT["prompt"], **tagged}, headers),
        ("/v1/flux-kontext-pro", {"prompt": CONTENT["prompt in another form"], "input_image": image()}, headers),
        (
            "/openai/v1/images/generations",
            {"prompt": CONTENT["prompt in another form"], "user": CONTENT["user"], "response_format": "b64_json"},
            headers,
        ),
    ]
    answers = [await api.post(path, json=body, headers=sent) for path, body, sent in posts]
    assert [answer.status_code for answer in answers] == [202, 202, 200, 200], [answer.text[:300] for answer in answers]

    async def all_ended() -> bool:
        tasks = (await api.get("/v1/tasks")).json()["tasks"]
        return len(tasks) == len(posts) and all(task["status"] == "stored" for task in tasks)

    async def one_is_refused() -> bool:
        return run.refused_webhooks > 0

    await until(all_ended, 60)
    await until(one_is_refused, 60)
    return [task["id"] for task in (await api.get("/v1/tasks")).json()["tasks"]]


async def refused(run: Running) -> list[httpx.Response]:
    """Send requests that are refused, with canaries in what is wrong with them."""
    api, prompt = run.service.api, CONTENT["prompt"]
    with_password = f"http://name:{SECRETS['password in a URL']}@127.0.0.1/hook"
    bodies: list[dict[str, object]] = [
        {"prompt": prompt, "webhook_url": with_password},
        {"prompt": prompt, "webhook_url": f"ftp://127.0.0.1/{SECRETS['path of a webhook']}"},
        {"prompt": prompt, "webhook_secret": {"secret": SECRETS["webhook secret"]}, "webhook_url": run.webhook_url},
        {"prompt": prompt, "webhook_form": SECRETS["webhook secret"]},
        {"prompt": prompt, "seed": prompt},
        {"prompt": [prompt]},
        {"prompt": prompt, "input_image": CONTENT["image"]},
        {"prompt": prompt, "input_image": with_password},
        {"prompt": prompt, "metadata": {"order": [CONTENT["metadata"]]}},
        {"prompt": prompt, "metadata": CONTENT["metadata"]},
        {"prompt": prompt, "user": [CONTENT["user"]]},
    ]
    answers = [
        await api.post(path, json=body)
        for path in ("/v1/tasks", "/v1/flux-kontext-pro")
        for body in bodies
        if path == "/v1/tasks" or "metadata" not in body
    ]
    secret, wrong = SECRETS["signature"], {"authorization": f"Bearer {SECRETS['wrong key']}"}
    task_id = "task_0000000000000000000000000000000000000"
    answers += [
        await api.post("/v1/tasks", content=f'{{"prompt": "{prompt}'),
        await api.post("/v1/tasks", json={"prompt": f"another {prompt}"}, headers={**run.shop, **_HEADERS}),
        await api.post("/openai/v1/images/generations", json={"prompt": prompt, "size": prompt}),
        await api.post("/openai/v1/images/generations", json={"prompt": prompt}, headers=wrong),
        await api.post("/v1/keys", json={"name": "a", "webhook_url": with_password}),
        await api.post("/v1/keys", json={"name": "a", "webhook_url": run.webhook_url, "webhook_secret": ""}),
        await api.post("/v1/endpoints/test", json={"webhook_url": with_password}),
        await api.get("/v1/tasks", headers=wrong),
        await api.get("/v1/tasks", params={"status": CONTENT["metadata"]}),
        await api.get("/v1/tasks", params={"created_after": CONTENT["metadata"]}),
        await api.get("/metrics", headers=wrong),
        await api.get(f"/results/{task_id}.png", params={"expires": "1", "signature": secret}),
        await api.post(f"/callbacks/sub_1/{secret}", json={"status": prompt}, headers={"x-webhook-secret": secret}),
        await api.post("/session", data={"key": SECRETS["wrong key"]}, headers={"authorization": ""}),
        await api.delete(f"/v1/users/{CONTENT['user']}0"),
    ]
    return answers


async def figures(run: Running) -> list[httpx.Response]:
    """Get what is about the service as a whole, and what holds numbers only."""
    csv = {"accept": "text/csv"}
    paths = ("/metrics", "/readyz", "/v1/usage", "/v1/audit", "/v1/accounts", "/v1/jobs/held", "/v1/limits")
    api = run.service.api
    return [
        *[(await api.get(path)).raise_for_status() for path in paths],
        (await api.get("/v1/usage", params={"by": ["application", "model"]}, headers=csv)).raise_for_status(),
        (await api.get("/v1/applications")).raise_for_status(),
    ]


def doctor(run: Running) -> bytes:
    command = [sys.executable, "-m", "app", "doctor"]
    return subprocess.run(command, env=run.service.env, capture_output=True, check=False).stdout  # noqa: S603 - ours


async def test_canaries_leak_nowhere_and_are_gone_after_the_erasure(tmp_path: Path, database_url: str) -> None:
    async with running(tmp_path, database_url) as run:
        task_ids = await live(run)
        errors = await refused(run)
        shown = await figures(run)
        checked = await asyncio.to_thread(doctor, run)
        keys = (await run.service.api.get("/v1/keys")).raise_for_status()
        await until(run.has_traces, 30)
        everywhere = {**SECRETS, **CONTENT}

        accepted = [answer for answer in errors if not answer.is_client_error]
        assert not accepted, [(answer.status_code, answer.request.content) for answer in accepted]
        assert [(answer.request.url, found(everywhere, answer.content)) for answer in errors] == [
            (answer.request.url, set()) for answer in errors
        ]
        assert [(answer.request.url, found(everywhere, answer.content)) for answer in shown] == [
            (answer.request.url, set()) for answer in shown
        ]
        assert found(everywhere, checked) == set()
        assert checked
        only_paths = {"path of a webhook"}  # only its owner sees the URL
        assert found(everywhere, keys.content) == only_paths
        assert found(everywhere, run.log) == set()
        assert found(everywhere, b"".join(run.traces)) == set()
        async with open_database(database_url) as database:
            rows = await database.read(everything)
        assert found(SECRETS, rows) == only_paths
        assert {"prompt", "user", "metadata", "idempotency key"} <= found(CONTENT, rows)
        assert "image" in found(CONTENT, b"".join(path.read_bytes() for path in everything_below(tmp_path)))

        before = await asyncio.to_thread(dumped, database_url)
        assert not before or {"prompt", "user", "metadata", "answer of a webhook"} <= found(CONTENT, before)

        if not database_url.startswith("sqlite"):
            await run_on(database_url, "ANALYZE")  # as the server does by itself, once a table has changed enough
        await erase(run, task_ids)
        async with open_database(database_url) as database:
            assert found(CONTENT, await database.read(everything)) == set()
        if database_url.startswith("sqlite"):
            checkpoint(Path(database_url.removeprefix("sqlite:///")))
        else:
            assert found(CONTENT, await asyncio.to_thread(dumped, database_url)) == set()
            places = await rewritten(database_url)
            of_server = [path for place in places for path in await asyncio.to_thread(readable_files, place)]
            assert {path.name: found(CONTENT, path.read_bytes()) for path in of_server} == {
                path.name: set() for path in of_server
            }
        files = [path for path in everything_below(tmp_path) if path != run.service.log]
        assert {path.name: found(CONTENT, path.read_bytes()) for path in files} == {path.name: set() for path in files}
        assert found(everywhere, run.log) == set()


async def erase(run: Running, task_ids: list[str]) -> None:
    """Erase the tasks of the user, then the others one by one, until their images are gone."""
    api = run.service.api
    by_user = await api.delete(f"/v1/users/{CONTENT['user']}", headers=run.shop)
    receipts = [by_user.raise_for_status().json()["id"]]
    for task_id in task_ids:
        answer = (await api.delete(f"/v1/tasks/{task_id}")).raise_for_status()
        receipts.append(answer.headers["location"].rpartition("/")[2])

    async def finished() -> bool:
        states = [(await api.get(f"/v1/erasures/{receipt}")).json()["state"] for receipt in receipts]
        return set(states) == {"finished"}

    await until(finished, 60)


def everything_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def checkpoint(path: Path) -> None:
    """Move the write-ahead log into the database file, and empty it."""
    with closing(sqlite3.connect(path)) as connection:
        busy = 1
        while busy:
            ((busy, *_),) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def dumped(database_url: str) -> bytes:
    """Return what `pg_dump` writes of a PostgreSQL database; nothing for SQLite, and without one of this version."""
    program = shutil.which("pg_dump")
    if program is None or database_url.startswith("sqlite"):
        return b""
    done = subprocess.run([program, database_url], capture_output=True, check=False)  # noqa: S603 - ours
    if b"server version mismatch" in done.stderr:
        return b""
    assert done.returncode == 0, done.stderr
    return done.stdout


async def run_on(database_url: str, *statements: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def rewritten(database_url: str) -> list[Path]:
    """Do what docs/data-life.md says about the disk, and return the folders of the database and of its log."""
    await run_on(database_url, *statements_of("## What remains"))
    connection = await asyncpg.connect(database_url)
    try:
        folder = Path(await connection.fetchval("SHOW data_directory"))
        oid = await connection.fetchval("SELECT oid FROM pg_database WHERE datname = current_database()")
    finally:
        await connection.close()
    return [folder / "base" / str(oid), folder / "pg_wal"]


def statements_of(heading: str) -> list[str]:
    """Return the SQL statements of a section of the document."""
    section = DATA_LIFE.read_text().partition(heading)[2]
    return [line.strip() for line in section.partition("```sql")[2].partition("```")[0].splitlines() if line.strip()]


def readable_files(folder: Path) -> list[Path]:
    """Return the files of a folder; none if it belongs to another user or machine."""
    return [path for path in folder.iterdir() if path.is_file()] if os.access(folder, os.R_OK) else []


@pytest.mark.parametrize("around", ["", "a", "ab", "abc"])
def test_a_canary_is_found_in_base64_at_any_place(around: str) -> None:
    data = base64.b64encode(f"{around}{CONTENT['image']}{around}".encode())

    assert found(CONTENT, data) == {"image"}
