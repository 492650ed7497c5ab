"""Dead letters: list them and run them again."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from app import jobs
from app.db import Connection
from app.errors import NotFound
from app.jobs import Step
from app.transitions import audit
from app.transitions.audit import Action
from app.web.auth import ActorDep, AdminDep, ResourcesDep
from app.web.known_query import KnownQuery
from app.web.problems import responses

_MAX_ID = 2**63 - 1
_BATCH = 1000  # jobs in one transaction, so that other writers are not blocked

router = APIRouter(prefix="/v1/jobs/held", tags=["operations"])
_NO_SUCH_JOB = responses(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY)
_ERRORS = responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.SERVICE_UNAVAILABLE)


class DeadLetterView(BaseModel):
    """A job that has used up its tries and waits for an operator."""

    id: int
    step: Step
    task_id: Annotated[str, Field(description="The task of the job; the endpoint for `notify`, `-` for `sweep`.")]
    failures: int
    error: Annotated[str | None, Field(description="The name of the last exception; the log has the details.")]


class DeadLetterList(BaseModel):
    jobs: list[DeadLetterView]


class Requeued(BaseModel):
    requeued: Annotated[int, Field(description="The number of jobs that run again.")]


@router.get("", responses={**_ERRORS, **responses(HTTPStatus.UNPROCESSABLE_ENTITY)}, dependencies=[KnownQuery])
async def list_dead_letters(use: ResourcesDep, _caller: AdminDep) -> DeadLetterList:
    """List dead letters, oldest first, at most 1,000."""
    rows = await use.db.read(jobs.dead_letters)
    return DeadLetterList(jobs=[DeadLetterView.model_validate(job, from_attributes=True) for job in rows])


@router.post("/requeue", responses=_ERRORS)
async def requeue_all(use: ResourcesDep, _caller: AdminDep, actor: ActorDep) -> Requeued:
    """Run all dead letters again with all their tries, after the cause of their failure is fixed."""

    def requeue_some(connection: Connection) -> int:
        now, job_ids = use.now(), [job.id for job in jobs.dead_letters(connection, _BATCH)]
        count = jobs.requeue(connection, job_ids, now)
        if count:
            audit.record(connection, actor, Action.JOB_REQUEUED, audit.ALL, now, {"jobs": count})
        return count

    requeued = 0
    while count := await use.db.write(requeue_some):
        requeued += count
    return Requeued(requeued=requeued)


@router.post("/{job_id}/requeue", responses={**_ERRORS, **_NO_SUCH_JOB})
async def requeue_one(
    use: ResourcesDep,
    _caller: AdminDep,
    actor: ActorDep,
    job_id: Annotated[int, Path(ge=1, le=_MAX_ID, description="The id of the dead letter.")],
) -> Requeued:
    """Run a dead letter again with all its tries."""

    def requeue(connection: Connection) -> int:
        now = use.now()
        count = jobs.requeue(connection, [job_id], now)
        if not count:
            raise NotFound("there is no such dead letter")
        audit.record(connection, actor, Action.JOB_REQUEUED, str(job_id), now)
        return count

    return Requeued(requeued=await use.db.write(requeue))
