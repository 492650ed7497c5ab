"""The page `/`: what is in progress, the newest images, what ended lately, and what needs attention."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, NamedTuple

from fastapi import APIRouter, Query, Response

from app import jobs
from app.db import Connection
from app.db.queries import overview, queue, submitters, task_list
from app.db.queries.overview import Reports, Spend
from app.db.queries.queue import Depth, Queued
from app.db.queries.task_list import TaskFilter
from app.db.tables import provider_accounts, slots, tasks
from app.db.tables.provider_accounts import IN_ALL
from app.resources import Resources
from app.rules.task import Failure, Status
from app.web.auth import FeedDep, ResourcesDep
from app.web.listener import EventFilter
from app.web.pages.access import Visitor, VisitorDep
from app.web.pages.charts import Chart, chart
from app.web.pages.live import Part, live
from app.web.pages.render import PageRoute, fragment, render
from app.web.reports import report
from app.web.routes.limits import get_budget
from app.web.schemas.limits import BudgetView
from app.web.schemas.tasks import TaskView
from app.web.task_response import task_views

_REST_S, _AT_LEAST_S = 5.0, 15.0
_IMAGES = 8

router = APIRouter(route_class=PageRoute)


class Period(NamedTuple):
    """A period that ends now, cut into bars of equal length."""

    bar: timedelta
    bars: int
    form: str


PERIODS = {
    "hour": Period(timedelta(minutes=2), 30, "%H:%M"),
    "day": Period(timedelta(hours=1), 24, "%H:%M"),
    "week": Period(timedelta(hours=6), 28, "%d %b %H h"),
}
PeriodName = Annotated[Literal["hour", "day", "week"], Query()]


class Slots(NamedTuple):
    """The slots of an account."""

    account_id: str
    in_use: int
    limit: int
    paused_until_at: datetime | None
    pause_reason: str | None


@dataclass(frozen=True, slots=True)
class Overview:
    now: datetime
    open: dict[Status, int]
    images: list[TaskView]  # tasks with the newest images
    chart: Chart
    failures: dict[Failure, int]
    reports: Reports
    spend: Spend
    # Of all applications, so only for an admin.
    slots: list[Slots]
    queues: list[Depth]
    dead_letters: int


class Shown(NamedTuple):
    """What the template shows. The budget is that of the service for an admin, else the application's own."""

    view: Overview
    budget: BudgetView | None


@router.get("/")
async def show_overview(use: ResourcesDep, visitor: VisitorDep, period: PeriodName = "day") -> Response:
    shown = await _read(use, visitor, period)
    return render(
        "overview.html", visitor=visitor, section="/", period=period, periods=list(PERIODS), **shown._asdict()
    )


@router.get("/live")
async def follow_overview(
    use: ResourcesDep, feed: FeedDep, visitor: VisitorDep, period: PeriodName = "day"
) -> Response:
    """Stream the overview as it changes."""

    async def read() -> Part:
        shown = await _read(use, visitor, period)
        return Part(fragment("_overview.html", {"period": period, **shown._asdict()}))

    return await live(use, visitor.caller.key_id, feed, EventFilter(), read, rest_s=_REST_S, at_least_s=_AT_LEAST_S)


async def _read(use: Resources, visitor: Visitor, period: str) -> Shown:
    budget = await get_budget(use, visitor.caller)
    async with report(use):
        view = await use.db.read(read_overview, visitor.application_id, period, use.now())
    return Shown(view, budget)


def read_overview(connection: Connection, application_id: str | None, name: str, now: datetime) -> Overview:
    """Return what the page shows of an application, or of all for None, for a period of `PERIODS`."""
    period = PERIODS[name]
    edges = _edges(period, now)
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    is_admin = application_id is None
    if application_id is None:
        queued = queue.queued(connection)
    else:
        queued = Queued(submitters.count_queued(connection, application_id), [])
    return Overview(
        now=now,
        open=tasks.count_open(connection, application_id, queued=queued.count),
        images=_images(connection, application_id),
        chart=chart(overview.bars(connection, application_id, edges), period.form),
        failures=overview.failures(connection, application_id, edges[0]),
        reports=overview.reports(connection, application_id, edges[0]),
        spend=overview.spend(connection, application_id, midnight),
        slots=_slots(connection, now) if is_admin else [],
        queues=queued.depths,
        dead_letters=jobs.count_dead_letters(connection) if is_admin else 0,
    )


def _images(connection: Connection, application_id: str | None) -> list[TaskView]:
    newest = task_list.page(connection, TaskFilter(application_id, statuses=(Status.STORED,)), _IMAGES)
    views = task_views(connection, newest.tasks)
    return [task for task in views if task.image and not task.image.unverified_image and task.image.removed_at is None]


def _edges(period: Period, now: datetime) -> list[datetime]:
    """Return the instants between the bars. The last bar has begun and contains `now`."""
    epoch = datetime.fromtimestamp(0, UTC)
    last = epoch + (now - epoch) // period.bar * period.bar
    return [last - period.bar * (period.bars - 1 - number) for number in range(period.bars + 1)]


def _slots(connection: Connection, now: datetime) -> list[Slots]:
    taken: dict[str, int] = {}
    for (account_id, _model), count in slots.in_use(connection).items():
        taken[account_id] = taken.get(account_id, 0) + count
    return [
        Slots(
            account.id,
            taken.get(account.id, 0),
            account.limits.get(IN_ALL, 0),
            account.paused_until_at if account.paused(now) else None,
            account.pause_reason,
        )
        for account in provider_accounts.list_all(connection)
    ]
