"""Helpers of several tests: the error document, and the rows that a refused request must not write."""

from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, select, text

from app.db import Connection
from tests.rows import stored_jobs
from tests.world import World

TABLES = ("tasks", "submissions")


def problem(answer: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """Check what holds for every error document, and return the document of this answer.

    A 422 of the provider-compatible API has the form of `invalid_fields`.
    """
    assert answer.status_code == status, answer.text
    if status == HTTPStatus.UNPROCESSABLE_ENTITY and answer.headers["content-type"] == "application/json":
        invalid_fields(answer, code or "invalid_request")
        compatible: dict[str, Any] = answer.json()
        return compatible
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["type"] == f"urn:fluxhook:problem:{code or found['code']}"
    assert found["title"]
    assert found["status"] == status
    assert found["detail"] == found["message"] == found["error"]["message"] != ""
    assert found["error"]["type"] == str(status)
    assert "errors" not in found
    assert "Traceback" not in answer.text
    return found


def invalid_fields(answer: httpx.Response, code: str = "invalid_request") -> list[dict[str, Any]]:
    """Check what holds for every 422 of the provider-compatible API, and return its list of invalid fields."""
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()
    assert found["code"] == code
    assert found["message"] == found["error"]["message"] != ""
    assert found["error"]["type"] == "422"
    assert "errors" not in found
    fields: list[dict[str, Any]] = found["detail"]
    assert fields
    for field in fields:
        assert field.keys() == {"loc", "msg", "type"}
        assert field["loc"][0] in {"body", "query", "header"}
        assert field["msg"] in found["message"]
        assert field["type"]
    return fields


async def rows(world: World) -> dict[str, int]:
    """Return the number of rows in each table that a submitted task writes to."""

    def count(connection: Connection) -> dict[str, int]:
        counts = {table: select(func.count()).select_from(text(table)) for table in TABLES}
        found = {table: connection.execute(query).scalar_one() for table, query in counts.items()}
        return {**found, "jobs": len(stored_jobs(connection))}

    return await world.use.db.read(count)


async def nothing_recorded(world: World) -> bool:
    return set((await rows(world)).values()) == {0}


def kept_files(world: World) -> list[Path]:
    return [path for path in (world.use.scratch / "images").rglob("*") if path.is_file()]
