"""The jobs that were set aside after their last try: to look at, and to run again."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from app import jobs
from app.db import Connection
from app.errors import NotFound
from app.jobs import Step
from app.web.auth import CallerDep, ResourcesDep
from app.web.problems import responses

_MAX_ID = 2**63 - 1
_AT_ONCE = 1000  # of them run again in one transaction, so that others have their turn

router = APIRouter(prefix="/v1/jobs/held", tags=["operations"])
_NO_SUCH_JOB = responses(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY)
_ERRORS = responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.SERVICE_UNAVAILABLE)


class DeadLetterView(BaseModel):
    """A job that failed again and again for a reason that does not pass by itself."""

    id: int
    step: Step
    task_id: Annotated[str, Field(description="What it is about; `-` for the service's own upkeep.")]
    failures: int
    error: Annotated[str | None, Field(description="The name of the last exception; the log has the rest.")]


class DeadLetterList(BaseModel):
    jobs: list[DeadLetterView]


class Requeued(BaseModel):
    requeued: Annotated[int, Field(description="How many jobs run again.")]


@router.get("", responses=_ERRORS)
async def list_dead_letters(use: ResourcesDep, _asking: CallerDep) -> DeadLetterList:
    """The dead letters, oldest first, a thousand at most."""
    held = await use.db.read(jobs.dead_letters)
    return DeadLetterList(jobs=[DeadLetterView.model_validate(job, from_attributes=True) for job in held])


@router.post("/requeue", responses=_ERRORS)
async def requeue_all(use: ResourcesDep, _asking: CallerDep) -> Requeued:
    """Run all of them again, as if they had never failed: after the mend of what made them fail."""

    def requeue_some(connection: Connection) -> int:
        some = [job.id for job in jobs.dead_letters(connection, _AT_ONCE)]
        return jobs.requeue(connection, some, use.now())

    requeued = 0
    while some := await use.db.write(requeue_some):
        requeued += some
    return Requeued(requeued=requeued)


@router.post("/{job_id}/requeue", responses={**_ERRORS, **_NO_SUCH_JOB})
async def requeue_one(
    use: ResourcesDep, _asking: CallerDep, job_id: Annotated[int, Path(ge=1, le=_MAX_ID)]
) -> Requeued:
    """Run one of them again, as if it had never failed."""
    requeued = await use.db.write(lambda connection: jobs.requeue(connection, [job_id], use.now()))
    if not requeued:
        raise NotFound("no such job was set aside")
    return Requeued(requeued=requeued)
