"""Liveness, readiness and metrics."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from app.db.engine.database import READ_ONLY, is_read_only
from app.db.migrations.revision import is_current
from app.errors import TooManyWrongKeys, Unavailable
from app.resources import Connections, Resources
from app.rules.scopes import Scope
from app.telemetry import metrics
from app.web.auth import ResourcesDep, digest_of, find_caller, require_caller
from app.web.problems import responses
from app.web.routes.accounts import AccountView, read_accounts
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
    """Require an API key with the scope `metrics`.

    While the database is unavailable, accept the keys that this process accepted before.
    """
    try:
        (await require_caller(request, use)).require(Scope.METRICS)
    except Unavailable:
        if not _was_accepted(request):
            raise
    else:
        _accept(request)


def _was_accepted(request: Request) -> bool:
    """Whether this process has accepted the key of the request for figures before."""
    return _digest(request) in request.app.state.scrapers


def _accept(request: Request) -> None:
    digest = _digest(request)
    if digest is not None:
        request.app.state.scrapers.add(digest)


def _digest(request: Request) -> str | None:
    """Return the digest of the key as it was sent; None without one, as with the cookie of a session."""
    key = request.headers.get("authorization") or request.headers.get("x-key")
    return None if key is None else digest_of(key)


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        **_EXPOSITION,
        **responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.SERVICE_UNAVAILABLE),
    },
    dependencies=[Depends(require_scraper)],
)
async def get_metrics(request: Request, use: ResourcesDep) -> Response:
    """Get the metrics of this process and of the database in the Prometheus text format.

    While the database is unavailable, only the metrics of the process are returned. Balances of the provider accounts
    are at most a minute old.
    """
    gauges, balances = await asyncio.gather(metrics_snapshot.read(use), request.app.state.balances.gauge(use))
    return Response(metrics.exposition([*gauges, balances]), media_type="text/plain; version=0.0.4")


class Readiness(BaseModel):
    status: Literal["ready", "not ready"]
    checks: dict[str, str]
    notes: list[str]


class ReadinessAnswer(BaseModel):
    status: Literal["ready", "not ready"]
    checks: Annotated[
        dict[str, str] | None, Field(description="For a key with the scope `metrics`: each part, and `ok` or why not.")
    ] = None
    notes: Annotated[
        list[str] | None,
        Field(description="For such a key: what an operator should know; these do not make it unready."),
    ] = None
    accounts: Annotated[
        list[AccountView] | None,
        Field(description="For such a key: the provider accounts, as in /v1/accounts; null: not known now."),
    ] = None


_NOT_READY = {"model": ReadinessAnswer, "description": "Not ready; a key with the scope `metrics` sees why."}


@router.get("/readyz", response_model=ReadinessAnswer, responses={HTTPStatus.SERVICE_UNAVAILABLE: _NOT_READY})
async def readyz(request: Request, use: ResourcesDep) -> JSONResponse:
    """Readiness: whether the database with its schema, the store and the provider key are available.

    Without an API key only whether it is ready; a key with the scope `metrics` also gets the checks and the notes.
    """
    found, in_detail = await asyncio.gather(read_readiness(use), _may_see_details(request, use))
    status = HTTPStatus.OK if found.status == "ready" else HTTPStatus.SERVICE_UNAVAILABLE
    if not in_detail:
        return JSONResponse({"status": found.status}, status)
    answer = ReadinessAnswer(
        status=found.status, checks=found.checks, notes=found.notes, accounts=await _accounts(request, use)
    )
    return JSONResponse(answer.model_dump(mode="json"), status)


async def _accounts(request: Request, use: Resources) -> list[AccountView] | None:
    with suppress(Unavailable, TimeoutError):
        async with asyncio.timeout(_CHECK_S):
            return await read_accounts(use, request.app.state.balances)
    return None


async def _may_see_details(request: Request, use: Resources) -> bool:
    """Whether the request has a key for the details; while the database is away, one that was accepted before."""
    try:
        async with asyncio.timeout(_CHECK_S):
            caller = await find_caller(request, use)
    except (Unavailable, TimeoutError):
        return _was_accepted(request)
    except TooManyWrongKeys:
        return False
    if caller is None or Scope.METRICS not in caller.scopes:
        return False
    _accept(request)
    return True


async def read_readiness(use: Resources) -> Readiness:
    """Check everything that `/readyz` reports."""
    database, store = await asyncio.gather(
        _in_time(_database(use), _SILENT), _in_time(_store(use), "the image store does not answer")
    )
    checks = {
        "database": database,
        "store": store,
        "provider": "ok" if use.accounts.can_submit else "no API key is configured",
    }
    notes = [volume.note for volume in await use.disk.volumes() if volume.note]
    if checks["database"] == "ok":
        try:
            async with asyncio.timeout(_CHECK_S):
                notes += await _notes(use)
        except (Unavailable, TimeoutError) as error:
            checks["database"] = error.detail if isinstance(error, Unavailable) else _SILENT
    ready = all(check == "ok" for check in checks.values())
    return Readiness(status="ready" if ready else "not ready", checks=checks, notes=notes)


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
        budget=use.budget,
    )
    return [note.text for note in notes]


async def _database(use: Connections) -> str:
    try:
        current, read_only = await use.db.read(lambda connection: (is_current(connection), is_read_only(connection)))
    except Unavailable as error:
        return error.detail
    if read_only:
        return READ_ONLY
    return "ok" if current else "migrations are missing: run `fluxhook migrate`"


async def _store(use: Connections) -> str:
    try:
        await use.store.check()
    except Unavailable as error:
        return error.detail
    return "ok"
