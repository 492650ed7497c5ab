"""Stored callbacks of the provider, with verdict and effect."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from app import ids
from app.db import Connection
from app.db.queries import callbacks
from app.db.queries.callbacks import MAX_SCANNED, CallbackFilter
from app.db.tables import attempts
from app.db.tables.evidence import EvidenceRow
from app.rules.task import Effect, Said
from app.security.verify import Verdict
from app.web.auth import ReaderDep, ResourcesDep
from app.web.known_query import KnownQuery
from app.web.problems import USUAL_ERRORS

router = APIRouter(prefix="/v1/callbacks", tags=["callbacks"])

OfCallback = Literal[Verdict.SIGNED, Verdict.SHARED_SECRET, Verdict.UNPROVEN, Verdict.FORGED]


class CallbackView(BaseModel):
    """A callback, without its body and its headers."""

    id: str
    task_id: str
    submission_id: str
    verdict: Annotated[OfCallback, Field(description="How far the callback proves its origin.")]
    effect: Annotated[Effect, Field(description="Its effect on the task.")]
    said: Annotated[Said, Field(description="What it reports; `unclear` also if it is not proven.")]
    detail: str | None
    copies: Annotated[int, Field(description="How often exactly this content was received.")]
    received_at: datetime
    last_received_at: datetime


class CallbackList(BaseModel):
    callbacks: list[CallbackView]
    next_cursor: Annotated[
        str | None,
        Field(
            description="Pass it as `cursor` to get the next page; null on the last page. A page can have fewer than "
            f"`limit` callbacks and a next page: at most {MAX_SCANNED} stored pieces of evidence are scanned for one "
            "page."
        ),
    ]


@router.get(
    "",
    dependencies=[KnownQuery],
    responses=USUAL_ERRORS,
)
async def list_callbacks(
    use: ResourcesDep,
    caller: ReaderDep,
    task_id: Annotated[
        str | None, Query(pattern=ids.pattern("task"), description="Only callbacks of this task.")
    ] = None,
    verdict: Annotated[OfCallback | None, Query(description="Only callbacks with this verdict.")] = None,
    cursor: Annotated[
        str | None, Query(pattern=ids.pattern("ev"), description="The `next_cursor` of the previous page.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Maximum number of callbacks in the page.")] = 20,
) -> CallbackList:
    """List stored callbacks, newest first.

    Identical callbacks are one entry with a count. Of each attempt, at most ten forged and ten unproven callbacks are
    stored.
    """
    query = CallbackFilter(task_id, caller.owner, verdict)

    def read(connection: Connection) -> CallbackList:
        page = callbacks.newest(connection, query, limit=limit, before=cursor)
        task_ids = attempts.task_ids(connection, {row.attempt_id for row in page.found})
        views = [_view(row, task_ids[row.attempt_id]) for row in page.found]
        return CallbackList(callbacks=views, next_cursor=page.next_cursor)

    return await use.db.read(read)


def _view(row: EvidenceRow, task_id: str) -> CallbackView:
    return CallbackView.model_validate({**asdict(row), "submission_id": row.attempt_id, "task_id": task_id})
