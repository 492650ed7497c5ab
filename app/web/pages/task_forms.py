"""The buttons of the why page: each asks once, and then does what the route of the API does."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from app import ids, jobs
from app.db import Connection
from app.errors import Conflict, NotFound
from app.jobs import NewJob, Step
from app.resources import Resources
from app.rules.scopes import Scope
from app.rules.task import MoneySpent
from app.transitions import audit
from app.web.auth import Caller, ResourcesDep
from app.web.pages.access import Form, FormDep, VisitorDep, require_own
from app.web.pages.questions import Question, ask_once
from app.web.pages.render import PageRoute
from app.web.pages.session import see_other
from app.web.pages.why import actions_for
from app.web.path_ids import TaskId
from app.web.routes.deliveries import replay_delivery
from app.web.routes.task_actions import cancel_task, erase_task, resubmit_task

router = APIRouter(prefix="/tasks/{task_id}", route_class=PageRoute)

Action = Literal["ask", "cancel", "resubmit", "erase", "replay"]


_QUESTIONS = {
    "ask": Question(
        "Ask the provider now?",
        "The provider is polled as soon as a worker is free, unless it was polled a moment ago. That costs nothing.",
        "Ask the provider",
    ),
    "cancel": Question(
        "Cancel this task?",
        "A queued task is not sent and costs nothing. A task that the provider already has cannot be cancelled: it is "
        "marked as unwanted, and its result is kept.",
        "Cancel the task",
        is_danger=True,
    ),
    "erase": Question(
        "Erase this task?",
        "Its request, images, evidence and webhooks are deleted for good. Its cost stays in the usage.",
        "Erase the task",
        is_danger=True,
    ),
    "replay": Question(
        "Send this webhook again?",
        "It keeps its id, so an application that detects duplicates ignores it if it was delivered before.",
        "Send it again",
    ),
}
_RESUBMIT = {
    MoneySpent.NO: "The failed attempt cost nothing; a new one costs what the model costs.",
    MoneySpent.MAYBE: "The failed attempt may have been charged, and a new one costs again.",
    MoneySpent.YES: "The failed attempt was charged, and a new one costs again.",
}


@router.get("/confirm/{action}")
async def ask_first(
    use: ResourcesDep,
    visitor: VisitorDep,
    task_id: TaskId,
    action: Action,
    delivery: Annotated[str, Query(pattern=rf"^$|{ids.pattern('dlv')}")] = "",
) -> Response:
    task = await require_own(use, visitor, task_id)
    if action == "resubmit":
        text = _RESUBMIT[task.money_spent or MoneySpent.MAYBE]
        question = Question("Make a new attempt?", text, "Make a new attempt", is_danger=True)
    else:
        question = _QUESTIONS[action]
    if action != "replay" and not getattr(actions_for(task.status), action):
        raise Conflict(f"the task is {task.status}, so this is no longer possible")
    return ask_once(
        visitor,
        "/tasks",
        question,
        about=task.request.prompt,
        action=f"/tasks/{task_id}/{action}",
        back=f"/tasks/{task_id}",
        fields={"delivery": delivery} if delivery else {},
    )


@router.post("/ask")
async def ask_provider(use: ResourcesDep, form: FormDep, task_id: TaskId) -> Response:
    """Poll the provider as soon as a worker is free. The job keeps to the shortest time between two polls."""
    form.visitor.caller.require(Scope.MANAGE)
    task = await require_own(use, form.visitor, task_id)
    if not actions_for(task.status).ask:
        raise Conflict(f"the task is {task.status}: the provider has nothing to add")

    def ask(connection: Connection) -> None:
        now = use.now()
        jobs.enqueue(connection, [NewJob(Step.RECONCILE, task_id, now)])
        audit.record(connection, form.actor, audit.Action.TASK_ASKED, task_id, now)

    await use.db.write(ask)
    return see_other(f"/tasks/{task_id}?done=ask")


async def _owned(use: Resources, form: Form, task_id: str, scope: Scope) -> Caller:
    """Return the visitor as the caller of a route of the API. Raises Forbidden, or NotFound for a task of another."""
    form.visitor.caller.require(scope)
    await require_own(use, form.visitor, task_id)
    return form.visitor.caller


@router.post("/cancel")
async def cancel(use: ResourcesDep, form: FormDep, task_id: TaskId) -> Response:
    await cancel_task(use, await _owned(use, form, task_id, Scope.MANAGE), form.actor, task_id)
    return see_other(f"/tasks/{task_id}?done=cancel")


@router.post("/resubmit")
async def resubmit(use: ResourcesDep, form: FormDep, task_id: TaskId) -> Response:
    await resubmit_task(use, await _owned(use, form, task_id, Scope.SUBMIT), form.actor, task_id)
    return see_other(f"/tasks/{task_id}?done=resubmit")


@router.post("/erase")
async def erase(use: ResourcesDep, form: FormDep, task_id: TaskId) -> Response:
    await erase_task(use, await _owned(use, form, task_id, Scope.MANAGE), form.actor, task_id)
    return see_other("/tasks?done=erase")


@router.post("/replay")
async def replay(use: ResourcesDep, form: FormDep, task_id: TaskId) -> Response:
    caller = await _owned(use, form, task_id, Scope.MANAGE)
    delivery_id = form.fields.get("delivery", "")
    if not ids.is_id("dlv", delivery_id):
        raise NotFound("there is no such delivery")
    await replay_delivery(use, caller, form.actor, delivery_id)
    return see_other(f"/tasks/{task_id}?done=replay")
