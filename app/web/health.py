"""Whether the process lives, and whether it can do its work."""

from http import HTTPStatus
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from app.errors import Unavailable
from app.record.migrate import is_current
from app.resources import Resources
from app.web.access import Use

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


class Readiness(BaseModel):
    status: Literal["ready", "not ready"]
    checks: dict[str, str]


_CANNOT_WORK = {"model": Readiness, "description": "It cannot work; see `checks`."}


@router.get("/readyz", response_model=Readiness, responses={HTTPStatus.SERVICE_UNAVAILABLE: _CANNOT_WORK})
async def readyz(use: Use) -> JSONResponse:
    """Database, schema, store and provider key, each `ok` or what is wrong."""
    checks = {
        "database": await _database(use),
        "store": await _store(use),
        "provider": "ok" if use.provider else "no API key is configured",
    }
    ready = all(check == "ok" for check in checks.values())
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse({"status": "ready" if ready else "not ready", "checks": checks}, status)


async def _database(use: Resources) -> str:
    try:
        return "ok" if await use.db.read(is_current) else "migrations are missing: run `fluxhook migrate`"
    except Unavailable as error:
        return error.detail


async def _store(use: Resources) -> str:
    try:
        await use.store.check()
    except Unavailable as error:
        return error.detail
    return "ok"
