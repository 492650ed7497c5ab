"""The why page `/tasks/{id}`: what happened to a task, what happens next, and the raw evidence."""

import json
from typing import NamedTuple

from fastapi import APIRouter, Response

from app import ids
from app.db import Connection
from app.db.tables import attempts, evidence, tasks
from app.db.tables.attempts import Attempt
from app.db.tables.evidence import EvidenceContent
from app.db.tables.tasks import Task
from app.errors import NotFound
from app.resources import Resources
from app.web.auth import FeedDep, ResourcesDep
from app.web.listener import EventFilter
from app.web.pages import words
from app.web.pages.access import Visitor, VisitorDep
from app.web.pages.live import Part, live
from app.web.pages.reasons import reasons
from app.web.pages.render import PageRoute, fragment, render
from app.web.pages.why import Why, read_why
from app.web.path_ids import TaskId

_REST_S, _AT_LEAST_S = 0.5, 5.0

router = APIRouter(prefix="/tasks/{task_id}", route_class=PageRoute)

# What a finished action says on the page that it leads to.
DONE = {
    "ask": "The provider is asked as soon as a worker is free, unless it was asked a moment ago.",
    "cancel": "Cancelled, or marked as unwanted if the provider already has it.",
    "resubmit": "A new attempt is on its way.",
    "replay": "The webhook is sent again.",
    "new": "The task is recorded.",
}


@router.get("")
async def show_task(use: ResourcesDep, visitor: VisitorDep, task_id: TaskId, done: str = "") -> Response:
    why = await _read(use, visitor, task_id)
    return render("task.html", visitor=visitor, section="/tasks", why=why, done=DONE.get(done), now=use.now())


@router.get("/live")
async def follow_task(use: ResourcesDep, feed: FeedDep, visitor: VisitorDep, task_id: TaskId) -> Response:
    """Stream the page's content until nothing can change any more."""
    await _read(use, visitor, task_id)

    async def read() -> Part:
        why = await _read(use, visitor, task_id)
        is_over = why.task.status.final and not any(step.at is not None and not step.is_removal for step in why.steps)
        return Part(fragment("_task.html", {"why": why, "now": use.now()}), is_final=is_over)

    about = EventFilter(task_id, owner=visitor.caller.owner)
    return await live(use, visitor.caller.key_id, feed, about, read, rest_s=_REST_S, at_least_s=_AT_LEAST_S)


async def _read(use: Resources, visitor: Visitor, task_id: str) -> Why:
    why = await use.db.read(read_why, use, visitor, task_id)
    if why is None:
        raise NotFound("there is no such task: it was erased, or its id is wrong")
    return why


class _Found(NamedTuple):
    task: Task
    attempt: Attempt
    content: EvidenceContent


@router.get("/evidence/{evidence_id}")
async def show_evidence(use: ResourcesDep, visitor: VisitorDep, task_id: TaskId, evidence_id: str) -> Response:
    """Show a piece of evidence as it is stored: headers and body without secrets, and why it counts as it does."""
    found = await use.db.read(_evidence, task_id, evidence_id) if ids.is_id("ev", evidence_id) else None
    if found is None or not visitor.may_see(found.task):
        raise NotFound("there is no such evidence: it may be older than its retention")
    return render(
        "evidence.html",
        visitor=visitor,
        section="/tasks",
        task_id=task_id,
        attempt=found.attempt,
        row=found.content.row,
        headers=found.content.headers,
        body=_readable(found.content.body),
        size=words.size(len(found.content.body)),
        reasons=reasons(use, found.attempt, found.content),
    )


def _evidence(connection: Connection, task_id: str, evidence_id: str) -> _Found | None:
    content = evidence.get(connection, evidence_id)
    attempt = None if content is None else attempts.get(connection, content.row.attempt_id)
    task = tasks.get(connection, task_id)
    if content is None or attempt is None or task is None or attempt.task_id != task_id:
        return None
    return _Found(task, attempt, content)


def _readable(body: bytes) -> str:
    """Return JSON with indentation, and any other body as text."""
    text = body.decode(errors="replace")
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text
