"""Liveness, readiness and metrics."""

import asyncio
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from app.db.engine.database import READ_ONLY, is_read_only
from app.db.migrations.revision import is_current
from app.errors import Unavailable
from app.resources import Resources
from app.telemetry import metrics
from app.web.auth import ResourcesDep, digest_of, require_caller
from app.web.problems import responses
from app.worker import metrics_snapshot, readiness_notes

router = APIRouter(tags=["operations"])


_CHECK_S = 8.0  # for each check of a resource: enough to replace a lost connection to the database
_SILENT = "the database does not answer"
IDENTITY = "identity"  # the purpose of the proof


class Liveness(BaseModel):
    status: Literal["ok"] = "ok"
    proof: Annotated[
        str | None, Field(description="Proves to an operator that this is the installation with these secret keys.")
    ] = None


@router.get("/healthz", response_model_exclude_none=True, responses=responses(HTTPStatus.UNPROCESSABLE_ENTITY))
async def healthz(
    use: ResourcesDep,
    challenge: Annotated[
        str | None, Query(pattern=r"^[A-Za-z0-9_-]{16,64}$", description="Any text, which `proof` then answers.")
    ] = None,
) -> Liveness:
    """Liveness: the process responds."""
    return Liveness(proof=None if challenge is None else use.keys.mac(challenge.encode(), IDENTITY))


_EXPOSITION: dict[int | str, dict[str, Any]] = {
    HTTPStatus.OK: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}


async def require_scraper(request: Request, use: ResourcesDep) -> None:
    """Require an API key. While the database is unavailable, accept the keys that this process accepted before."""
    key = request.headers.get("authorization") or request.headers.get("x-key") or ""
    accepted: set[str] = request.app.state.scrapers
    try:
        await require_caller(request, use)
    except Unavailable:
        if digest_of(key) not in accepted:
            raise
    else:
        accepted.add(digest_of(key))


@router.get(
    "/metrics",
    response_class=Response,
    responses={**_EXPOSITION, **responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.SERVICE_UNAVAILABLE)},
    dependencies=[Depends(require_scraper)],
)
async def get_metrics(use: ResourcesDep) -> Response:
    """Get the metrics of this process and of the database in the Prometheus text format.

    While the database is unavailable, only the metrics of the process are returned.
    """
    return Response(metrics.exposition(await metrics_snapshot.read(use)), media_type="text/plain; version=0.0.4")


class Readiness(BaseModel):
    status: Literal["ready", "not ready"]
    checks: dict[str, str]
    notes: list[str]


_NOT_READY = {"model": Readiness, "description": "Not ready; see `checks`."}


@router.get("/readyz", response_model=Readiness, responses={HTTPStatus.SERVICE_UNAVAILABLE: _NOT_READY})
async def readyz(use: ResourcesDep) -> JSONResponse:
    """Readiness: checks of the database with its schema, the store and the provider key, each `ok` or the problem.

    `notes` lists conditions that an operator should know and that do not make the service unready.
    """
    database, store = await asyncio.gather(
        _in_time(_database(use), _SILENT), _in_time(_store(use), "the image store does not answer")
    )
    checks = {
        "database": database,
        "store": store,
        "provider": "ok" if use.provider else "no API key is configured",
    }
    notes = [volume.note for volume in await use.disk.volumes() if volume.note]
    if checks["database"] == "ok":
        try:
            async with asyncio.timeout(_CHECK_S):
                notes += await _notes(use)
        except (Unavailable, TimeoutError) as error:
            checks["database"] = error.detail if isinstance(error, Unavailable) else _SILENT
    ready = all(check == "ok" for check in checks.values())
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse({"status": "ready" if ready else "not ready", "checks": checks, "notes": notes}, status)


async def _in_time(check: Awaitable[str], otherwise: str) -> str:
    """Return the result of a check, or `otherwise` if it takes too long: who asks does not wait for it."""
    try:
        async with asyncio.timeout(_CHECK_S):
            return await check
    except TimeoutError:
        return otherwise


async def _notes(use: Resources) -> list[str]:
    notes = await use.db.read(
        readiness_notes.read,
        use.now(),
        callbacks_expected=use.public_url is not None,
        clock_ahead=use.clock_ahead(),
    )
    return [note.text for note in notes]


async def _database(use: Resources) -> str:
    try:
        current, read_only = await use.db.read(lambda connection: (is_current(connection), is_read_only(connection)))
    except Unavailable as error:
        return error.detail
    if read_only:
        return READ_ONLY
    return "ok" if current else "migrations are missing: run `fluxhook migrate`"


async def _store(use: Resources) -> str:
    try:
        await use.store.check()
    except Unavailable as error:
        return error.detail
    return "ok"
