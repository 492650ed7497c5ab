"""The obvious receiver: checks the HMAC, then uses one ORM session and one transaction for each callback.

Nothing is slowed down on purpose: WAL and a synced commit on SQLite, asyncpg and a pool of the same size as the
service's on PostgreSQL.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy import JSON, DateTime, ForeignKey, LargeBinary, String, create_engine, event, insert, make_url
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from app import clock
from benchmarks.hmac_only import proven

_POOL = 10
_BUSY_S = 30


class Base(DeclarativeBase):
    pass


class Task(Base):
    __tablename__ = "tasks"
    id: Mapped[str] = mapped_column(String(48), primary_key=True)  # the id in the callback's path
    status: Mapped[str] = mapped_column(String(16))
    sample_url: Mapped[str | None]
    updated_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class Evidence(Base):
    __tablename__ = "evidence"
    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id"), index=True)
    headers: Mapped[dict[str, Any]] = mapped_column(JSON)
    body: Mapped[bytes] = mapped_column(LargeBinary)
    received_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


Store = Callable[[str, dict[str, str], bytes, dict[str, Any]], Awaitable[bool]]


def naive(url: str, task_ids: list[str]) -> FastAPI:
    """Build the receiver on `sqlite:///PATH` or `postgresql://...`, with these tasks in its database."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        opening = _on_sqlite(url, task_ids) if url.startswith("sqlite:") else _on_postgres(url, task_ids)
        async with opening as app.state.store:
            yield

    app = FastAPI(openapi_url=None, lifespan=lifespan)

    @app.post("/callbacks/{submission_id}/{token}")
    async def post_callback(submission_id: str, token: str, request: Request) -> Response:  # noqa: ARG001
        body = await request.body()
        if not proven(request.headers.get("x-bfl-signature"), body):
            return JSONResponse({"error": {"message": "Invalid signature", "type": "401"}}, 401)
        if not await app.state.store(submission_id, dict(request.headers), body, await request.json()):
            return JSONResponse({"detail": "no such task"}, 404)
        return JSONResponse({"status": "success"})

    return app


@asynccontextmanager
async def _on_sqlite(url: str, task_ids: list[str]) -> AsyncGenerator[Store]:
    engine = create_engine(url, connect_args={"timeout": _BUSY_S}, pool_size=_POOL)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(Task), _rows(task_ids))

    def store(task_id: str, headers: dict[str, str], body: bytes, message: dict[str, Any]) -> bool:
        with Session(engine) as session:
            task = session.get(Task, task_id)
            if task is None:
                return False
            _settle(task, message)
            session.add(_evidence(task_id, headers, body))
            session.commit()
            return True

    async def in_a_thread(task_id: str, headers: dict[str, str], body: bytes, message: dict[str, Any]) -> bool:
        return await asyncio.to_thread(store, task_id, headers, body, message)

    yield in_a_thread
    engine.dispose()


@asynccontextmanager
async def _on_postgres(url: str, task_ids: list[str]) -> AsyncGenerator[Store]:
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"), pool_size=_POOL, max_overflow=0)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(insert(Task), _rows(task_ids))

    async def store(task_id: str, headers: dict[str, str], body: bytes, message: dict[str, Any]) -> bool:
        async with AsyncSession(engine) as session:
            task = await session.get(Task, task_id)
            if task is None:
                return False
            _settle(task, message)
            session.add(_evidence(task_id, headers, body))
            await session.commit()
            return True

    yield store
    await engine.dispose()


def _rows(task_ids: list[str]) -> list[dict[str, str]]:
    return [{"id": task_id, "status": "submitted"} for task_id in task_ids]


def _settle(task: Task, message: dict[str, Any]) -> None:
    task.status = message["status"].lower()
    task.sample_url = message["result"]["sample"]
    task.updated_at = clock.utc_now()


def _evidence(task_id: str, headers: dict[str, str], body: bytes) -> Evidence:
    return Evidence(task_id=task_id, headers=headers, body=body, received_at=clock.utc_now())
