"""The page `/tasks`: tasks as a gallery or a table, filtered, newest first."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator

from app import ids
from app.db import Connection
from app.db.queries import task_list
from app.db.queries.task_list import TaskFilter
from app.db.tables import applications
from app.db.tables.applications import Application
from app.params import UtcInstant
from app.rules.task import Status
from app.web.auth import FeedDep, ResourcesDep
from app.web.listener import EventFilter
from app.web.pages.access import Visitor, VisitorDep
from app.web.pages.live import Part, live
from app.web.pages.render import PageRoute, fragment, render
from app.web.schemas.tasks import TaskView
from app.web.task_response import task_views

_SHOWN = 24
_APPLICATIONS = 50
_REST_S, _AT_LEAST_S = 2.0, 15.0
_OPEN = tuple(status for status in Status if not status.final)

router = APIRouter(prefix="/tasks", route_class=PageRoute)


class Filters(BaseModel):
    """What the form of the page selects. An empty field selects nothing."""

    model_config = ConfigDict(extra="ignore")

    state: Status | Literal["open", ""] = ""
    model: Annotated[str, Field(pattern=r"^[0-9a-z._/-]{0,64}$")] = ""
    application: Annotated[str, Field(pattern=r"^(app_\w{1,44})?$")] = ""  # counts for an admin only
    user: Annotated[str, Field(max_length=256)] = ""
    text: Annotated[str, Field(max_length=200)] = ""
    since: UtcInstant | None = None
    until: UtcInstant | None = None
    view: Literal["gallery", "table"] = "gallery"
    before: Annotated[str, Field(pattern=rf"^$|{ids.pattern('task')}")] = ""

    @field_validator("since", "until", mode="before")
    @classmethod
    def _in_utc(cls, text: object) -> object:
        """Read what an input of the type `datetime-local` sends, as UTC."""
        if not isinstance(text, str):
            return text
        return f"{text}Z" if text and text[-1:].isdigit() and "+" not in text else text or None

    @property
    def are_set(self) -> bool:
        return any((self.state, self.model, self.application, self.user, self.text, self.since, self.until))

    def task_filter(self, application_id: str | None) -> TaskFilter:
        """Return the conditions for tasks of an application; of any application, or the selected one, for None."""
        before = [self.before] if self.before else []
        if self.until is not None:
            before.append(ids.first_at("task", self.until))
        return TaskFilter(
            application_id=application_id or self.application or None,
            statuses=_OPEN if self.state == "open" else (Status(self.state),) if self.state else (),
            model=self.model or None,
            user=self.user or None,
            prompt_contains=self.text or None,
            since=None if self.since is None else ids.first_at("task", self.since),
            before=min(before, default=None),
        )

    def query(self, **changes: str) -> str:
        """Return the query string of this page with other values, without what is at its default."""
        values = {
            "state": self.state,
            "model": self.model,
            "application": self.application,
            "user": self.user,
            "text": self.text,
            "since": local(self.since),
            "until": local(self.until),
            "view": "" if self.view == "gallery" else self.view,
            **changes,
        }
        return urlencode({name: value for name, value in values.items() if value})


def local(at: datetime | None) -> str:
    """Return the value of an input of the type `datetime-local`."""
    return "" if at is None else at.strftime("%Y-%m-%dT%H:%M")


FiltersDep = Annotated[Filters, Query()]


@dataclass(frozen=True, slots=True)
class Page:
    tasks: list[TaskView]
    next_cursor: str | None


@router.get("")
async def show_tasks(use: ResourcesDep, visitor: VisitorDep, filters: FiltersDep, done: str = "") -> Response:
    return render(
        "tasks.html",
        visitor=visitor,
        section="/tasks",
        filters=filters,
        is_erased=done == "erase",
        since=local(filters.since),
        until=local(filters.until),
        models=[model.id for model in use.catalog if model.kind == "image"],
        statuses=list(Status),
        applications=await use.db.read(_choice, visitor, filters),
        page=await use.db.read(_read, visitor, filters),
    )


@router.get("/live")
async def follow_tasks(use: ResourcesDep, feed: FeedDep, visitor: VisitorDep, filters: FiltersDep) -> Response:
    """Stream the first page of the list as it changes."""

    async def read() -> Part:
        page = await use.db.read(_read, visitor, filters)
        return Part(fragment("_tasks.html", {"page": page, "filters": filters}))

    own = EventFilter(owner=visitor.caller.owner)
    return await live(use, visitor.caller.key_id, feed, own, read, rest_s=_REST_S, at_least_s=_AT_LEAST_S)


def _read(connection: Connection, visitor: Visitor, filters: Filters) -> Page:
    found = task_list.page(connection, filters.task_filter(visitor.application_id), _SHOWN)
    return Page(task_views(connection, found.tasks), found.next_cursor)


def _choice(connection: Connection, visitor: Visitor, filters: Filters) -> list[Application]:
    """Return the newest applications and the selected one, for an admin if there are several."""
    if visitor.application_id is not None:
        return []
    newest = applications.newest(connection, _APPLICATIONS)
    if filters.application and all(application.id != filters.application for application in newest):
        selected = applications.get(connection, filters.application)
        newest += [] if selected is None else [selected]
    return newest if len(newest) > 1 else []
