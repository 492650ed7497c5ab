"""Whether the process lives, and whether it can do its work."""

from http import HTTPStatus
from typing import Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from app.db.engine.database import READ_ONLY, is_read_only
from app.db.migrations.revision import is_current
from app.db.tables import provider_accounts, spooled_results
from app.errors import Unavailable
from app.reconcile import CALLBACKS_MISSING, callbacks_are_missing
from app.resources import Resources
from app.telemetry import metrics
from app.web.auth import ResourcesDep, caller, digest_of
from app.web.problems import responses
from app.worker import metrics_snapshot

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


_EXPOSITION: dict[int | str, dict[str, Any]] = {
    HTTPStatus.OK: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}


async def scraper(request: Request, use: ResourcesDep) -> None:
    """Whoever has a key may scrape; while no key can be looked up, whoever could before."""
    presented = request.headers.get("authorization") or request.headers.get("x-key") or ""
    known: set[str] = request.app.state.scrapers
    try:
        await caller(request, use)
    except Unavailable:
        if digest_of(presented) not in known:
            raise
    else:
        known.add(digest_of(presented))


@router.get(
    "/metrics",
    response_class=Response,
    responses={**_EXPOSITION, **responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.SERVICE_UNAVAILABLE)},
    dependencies=[Depends(scraper)],
)
async def get_metrics(use: ResourcesDep) -> Response:
    """What this process counted and what the database knows, for Prometheus; while it is away, the former alone."""
    return Response(metrics.exposition(await metrics_snapshot.read(use)), media_type="text/plain; version=0.0.4")


class Readiness(BaseModel):
    status: Literal["ready", "not ready"]
    checks: dict[str, str]
    notes: list[str]


_CANNOT_WORK = {"model": Readiness, "description": "It cannot work; see `checks`."}


@router.get("/readyz", response_model=Readiness, responses={HTTPStatus.SERVICE_UNAVAILABLE: _CANNOT_WORK})
async def readyz(use: ResourcesDep) -> JSONResponse:
    """Database, schema, store and provider key, each `ok` or what is wrong."""
    checks = {
        "database": await _database(use),
        "store": await _store(use),
        "provider": "ok" if use.provider else "no API key is configured",
    }
    ready = all(check == "ok" for check in checks.values())
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    notes = await _notes(use) if checks["database"] == "ok" else []
    return JSONResponse({"status": "ready" if ready else "not ready", "checks": checks, "notes": notes}, status)


async def _notes(use: Resources) -> list[str]:
    """What does not stop the service and ought to be known."""
    now = use.now()
    silent, paused, spool = await use.db.read(
        lambda connection: (
            callbacks_are_missing(connection),
            provider_accounts.paused(connection, now),
            spooled_results.spool_holders(connection),
        )
    )
    notes = [CALLBACKS_MISSING] if silent else []
    notes += [f"no tasks are submitted until {each.paused_until_at}: {each.pause_reason}" for each in paused]
    notes += [f"{each.instance} keeps images until the store takes them: {each.images}" for each in spool]
    return notes


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
