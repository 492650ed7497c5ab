"""The floor of a whole task: the least that a correct client of the provider does, in one plain process.

A post is written to SQLite and submitted. The callback's secret is checked, its result is written, the image is
downloaded, decoded and written to disk, and the application gets its webhook. Both statements and the image are synced.
Nothing is retried, and a kill loses what is in progress.
"""

import asyncio
import hmac
import os
import secrets  # noqa: TID251 - the floor shares nothing with the service
import sqlite3
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image

_SCHEMA = "CREATE TABLE tasks (id TEXT PRIMARY KEY, secret TEXT, webhook_url TEXT, result TEXT)"


def floor(folder: Path, provider: str) -> FastAPI:
    """Build the floor. `folder`: for its database and images. `provider`: the base URL of the provider."""
    database = sqlite3.connect(folder / "floor.db", check_same_thread=False, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute(_SCHEMA)
    writer = ThreadPoolExecutor(1)
    client = httpx.AsyncClient(trust_env=False, timeout=60, limits=httpx.Limits(max_connections=None))
    running: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with client:
            yield

    app = FastAPI(openapi_url=None, lifespan=lifespan)

    async def write(statement: str, *values: str | None) -> None:
        await asyncio.get_running_loop().run_in_executor(writer, database.execute, statement, values)

    def start(work: Callable[..., Any], *arguments: Any) -> None:
        task = asyncio.create_task(work(*arguments))
        running.add(task)
        task.add_done_callback(running.discard)

    async def submit(body: dict[str, Any]) -> None:
        answer = await client.post(f"{provider}/v1/flux-kontext-pro", json=body, headers={"x-key": "the-floor"})
        answer.raise_for_status()

    async def finish(task_id: str, webhook_url: str, link: str) -> None:
        data = (await client.get(link)).raise_for_status().content
        await asyncio.to_thread(_decode_and_store, folder / f"{task_id}.jpg", data)
        message = {"id": task_id, "status": "Ready", "result": {"sample": link}}
        (await client.post(webhook_url, json=message)).raise_for_status()

    @app.post("/v1/tasks", status_code=202)
    async def post_task(request: Request) -> Response:
        body = await request.json()
        task_id, secret = secrets.token_hex(16), secrets.token_urlsafe(32)
        webhook_url = body.pop("webhook_url")
        await write("INSERT INTO tasks VALUES (?, ?, ?, NULL)", task_id, secret, webhook_url)
        callback_url = f"http://127.0.0.1:{request.scope['server'][1]}/callbacks/{task_id}"
        start(submit, {**body, "webhook_url": callback_url, "webhook_secret": secret})
        return JSONResponse({"id": task_id}, 202)

    @app.post("/callbacks/{task_id}")
    async def post_callback(task_id: str, request: Request) -> Response:
        message = await request.json()
        secret, webhook_url = database.execute(
            "SELECT secret, webhook_url FROM tasks WHERE id = ?", (task_id,)
        ).fetchone()
        if not hmac.compare_digest(request.headers.get("x-webhook-secret", ""), secret):
            return JSONResponse({"detail": "Invalid secret"}, 401)
        link = message["result"]["sample"]
        await write("UPDATE tasks SET result = ? WHERE id = ?", link, task_id)
        start(finish, task_id, webhook_url, link)
        return JSONResponse({"status": "success"})

    return app


def _decode_and_store(file: Path, data: bytes) -> None:
    with Image.open(BytesIO(data)) as image:
        image.load()
    with file.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
