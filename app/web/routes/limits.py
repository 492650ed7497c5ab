"""What an application may use and spend."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query

from app.db import Connection
from app.db.queries import submitters
from app.db.tables import applications, budget_periods
from app.db.tables.applications import Application
from app.db.tables.budget_periods import ALL, PeriodId
from app.errors import NotFound
from app.resources import Policy, Resources
from app.rules.budget import Budget
from app.transitions import limits
from app.web.auth import Caller, ReaderDep, ResourcesDep
from app.web.known_query import KnownQuery
from app.web.problems import USUAL_ERRORS, responses
from app.web.schemas.limits import ApplicationLimits, BudgetView, InUse, budget_view, limits_view

router = APIRouter(prefix="/v1/limits", tags=["usage"])


@router.get(
    "",
    dependencies=[KnownQuery],
    responses={**USUAL_ERRORS, **responses(HTTPStatus.NOT_FOUND)},
)
async def get_limits(
    use: ResourcesDep,
    caller: ReaderDep,
    application: Annotated[
        str | None, Query(pattern=r"^app_\w{1,44}$", description="Default: the calling application.")
    ] = None,
) -> ApplicationLimits:
    """Get the limits and the budget of an application, with what it uses. The scope `admin` allows naming another."""
    wanted = application or caller.application_id
    if caller.owner not in {None, wanted}:
        raise NotFound("there is no such application")
    return await use.db.read(_read, use, wanted, with_service=caller.owner is None)


async def get_budget(use: Resources, caller: Caller) -> BudgetView | None:
    """Return the budget of the service for an admin, if it has one, else that of the caller's application."""
    return await use.db.read(_read_budget, use, caller.application_id, with_service=caller.owner is None)


def _read_budget(connection: Connection, use: Policy, application_id: str, *, with_service: bool) -> BudgetView | None:
    found, now = _application(connection, application_id), use.now()
    of_service = _budget(connection, ALL, use.budget, now) if with_service else None
    return of_service or _budget(connection, application_id, found.budget, now)


def _read(connection: Connection, use: Policy, application_id: str, *, with_service: bool) -> ApplicationLimits:
    found, now = _application(connection, application_id), use.now()
    return ApplicationLimits(
        application_id=application_id,
        limits=limits_view(limits.effective(use.limits, application_id, found.limits)),
        in_use=InUse(
            in_flight=submitters.count_in_flight(connection, application_id),
            queued=submitters.count_queued(connection, application_id),
        ),
        budget=_budget(connection, application_id, found.budget, now),
        service_budget=_budget(connection, ALL, use.budget, now) if with_service else None,
    )


def _application(connection: Connection, application_id: str) -> Application:
    found = applications.get(connection, application_id)
    if found is None:
        raise NotFound("there is no such application")
    return found


def _budget(connection: Connection, owner: str, budget: Budget | None, now: datetime) -> BudgetView | None:
    if budget is None:
        return None
    period = PeriodId(owner, budget.period, budget.period.start(now))
    return budget_view(budget, budget_periods.read(connection, [period]).get(period, 0.0), now)
