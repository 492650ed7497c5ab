"""What providers called back with: every callback that is kept, with its verdict and what it did."""

from dataclasses import asdict
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from app.db import Connection
from app.db.queries import callbacks
from app.db.queries.callbacks import LOOKED, CallbackFilter
from app.db.tables import attempts
from app.db.tables.evidence import EvidenceRow
from app.rules.task import Effect, Said
from app.security.verify import Verdict
from app.web.auth import CallerDep, ResourcesDep
from app.web.problems import responses

router = APIRouter(prefix="/v1/callbacks", tags=["callbacks"])

OfCallback = Literal[Verdict.SIGNED, Verdict.SHARED_SECRET, Verdict.UNPROVEN, Verdict.FORGED]


class CallbackView(BaseModel):
    """One callback, without its body and its headers."""

    id: str
    task_id: str
    submission_id: str
    verdict: Annotated[OfCallback, Field(description="How far it proved itself.")]
    effect: Annotated[Effect, Field(description="What it did.")]
    said: Annotated[Said, Field(description="What it said; `unclear` too where it is not believed.")]
    detail: str | None
    copies: Annotated[int, Field(description="How often exactly this came.")]
    received_at: datetime
    last_received_at: datetime


class CallbackList(BaseModel):
    callbacks: list[CallbackView]
    next_cursor: Annotated[
        str | None,
        Field(
            description="Give it as `cursor` for the callbacks before these. A page may have fewer than `limit` and go "
            f"on all the same: of all that is kept of providers, {LOOKED} pieces are looked through for one page."
        ),
    ]


@router.get(
    "",
    responses=responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def list_callbacks(
    use: ResourcesDep,
    _asking: CallerDep,
    task_id: Annotated[str | None, Query(pattern=r"^task_[0-9a-v]{37}$", description="Only of this task.")] = None,
    verdict: Annotated[OfCallback | None, Query(description="Only those with this verdict.")] = None,
    cursor: Annotated[str | None, Query(pattern=r"^ev_[0-9a-v]{37}$")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> CallbackList:
    """Callbacks that are kept, newest first. Copies count as one; of the forged and the unproven ten an attempt."""
    wanted = CallbackFilter(task_id, verdict)

    def read(connection: Connection) -> CallbackList:
        page = callbacks.newest(connection, wanted, limit=limit, before=cursor)
        tasks = attempts.task_ids(connection, {each.submission_id for each in page.found})
        shown = [_view(each, tasks[each.submission_id]) for each in page.found]
        return CallbackList(callbacks=shown, next_cursor=page.goes_on)

    return await use.db.read(read)


def _view(each: EvidenceRow, task_id: str) -> CallbackView:
    return CallbackView.model_validate({**asdict(each), "task_id": task_id})
