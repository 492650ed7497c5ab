"""The route that states the cost of a task whose cost the provider did not state."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from app.db import Connection
from app.errors import NotFound
from app.transitions import audit, budgets
from app.transitions.audit import Action
from app.web.auth import ActorDep, AdminDep, ResourcesDep
from app.web.body import REFUSALS, described, json_body
from app.web.path_ids import TaskId
from app.web.problems import responses
from app.web.schemas.tasks import TaskView
from app.web.task_response import read_task_view

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])

_ERRORS = responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.SERVICE_UNAVAILABLE)


class SettledCost(BaseModel):
    """What a task cost, as a person knows it."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    cost: Annotated[float, Field(ge=0, le=1_000_000, description="In credits; 0 if the provider charged nothing.")]


@router.post(
    "/{task_id}/settle",
    responses={**_ERRORS, **REFUSALS},
    openapi_extra=described(SettledCost),
)
async def settle_task(
    use: ResourcesDep,
    _caller: AdminDep,
    actor: ActorDep,
    task_id: TaskId,
    body: Annotated[SettledCost, Depends(json_body(SettledCost))],
) -> TaskView:
    """State what an ended task of unknown cost cost, as one with `unknown_outcome`.

    Until then it counts in budgets with its `estimated_cost`, which this replaces. A cost that the provider states
    later counts instead.
    """

    def settle(connection: Connection) -> TaskView | None:
        if budgets.state_cost(connection, task_id, body.cost):
            audit.record(connection, actor, Action.TASK_SETTLED, task_id, use.now())
        return read_task_view(connection, task_id, None)

    task = await use.db.write(settle)
    if task is None:
        raise NotFound("there is no such task")
    return task
