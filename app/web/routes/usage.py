"""The usage: tasks and their cost, by key and model or in groups of the caller's choice, as JSON or CSV."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Response
from pydantic import AfterValidator, BaseModel, Field

from app.db import Connection
from app.db.queries import usage, usage_groups
from app.db.queries.usage_groups import Dimension, Group
from app.errors import InvalidRequest
from app.params import UtcInstant
from app.web.auth import ReaderDep, ResourcesDep
from app.web.known_query import KnownQuery
from app.web.problems import USUAL_ERRORS
from app.web.reports import report
from app.web.usage_csv import csv_text

router = APIRouter(prefix="/v1/usage", tags=["usage"])

_DEFAULT_PERIOD, _MAX_PERIOD = timedelta(days=30), timedelta(days=366)
_MAX_GROUPS = 10_000
_EARLIEST = datetime.min.replace(tzinfo=UTC)

# Members of both forms of the usage.
Posted = Annotated[int, Field(description="The sum of `stored`, `failed`, `cancelled` and `open`.")]
Open = Annotated[int, Field(description="Tasks that are not final.")]
# A sum of binary fractions such as three times 1.4 is 4.2, not 4.199999999999999.
Credits = Annotated[float, AfterValidator(lambda total: round(total, 6))]
Cost = Annotated[
    Credits, Field(description="Credits over all attempts, as the provider reported them; 0 if it reported none.")
]
CostUnknown = Annotated[
    int, Field(description="Tasks without a reported cost, except those that certainly cost nothing.")
]


class UsedView(BaseModel):
    """The tasks of one API key and one model that were posted in the period, by their current state."""

    key_id: str
    key_name: Annotated[str | None, Field(description="Null if the key no longer exists.")]
    model: str
    posted: Posted
    stored: int
    failed: int
    cancelled: int
    open: Open
    cost: Cost
    cost_unknown: CostUnknown


class Usage(BaseModel):
    """The usage in a period. Keys and models without tasks are left out."""

    begin: Annotated[datetime, Field(serialization_alias="from")]
    end: Annotated[datetime, Field(serialization_alias="to", description="Exclusive.")]
    usage: list[UsedView]


class UsageGroup(BaseModel):
    """The tasks of one group that were posted in the period, by their current state."""

    application_id: str | None = None
    application_name: str | None = None
    key_id: str | None = None
    key_name: Annotated[str | None, Field(description="Null if the key no longer exists.")] = None
    model: str | None = None
    account_id: str | None = None
    user: Annotated[str | None, Field(description="Null for tasks without an end user, and for erased tasks.")] = None
    day: Annotated[str | None, Field(description="The day in UTC, such as 2026-01-31.")] = None
    posted: Posted
    stored: int
    failed: int
    cancelled: int
    open: Open
    cost: Cost
    cost_estimated: Annotated[
        Credits,
        Field(description="An estimate of what the tasks in `cost_unknown` cost, in credits; it is not in `cost`."),
    ]
    cost_unknown: CostUnknown


class GroupedUsage(BaseModel):
    """The usage in a period. The groups have only the members that `by` names. Groups without tasks are left out."""

    begin: Annotated[datetime, Field(serialization_alias="from")]
    end: Annotated[datetime, Field(serialization_alias="to", description="Exclusive.")]
    by: list[Dimension]
    usage: list[UsageGroup]


# The members of a group in each dimension.
_MEMBERS = {
    Dimension.APPLICATION: ("application_id", "application_name"),
    Dimension.KEY: ("key_id", "key_name"),
    Dimension.MODEL: ("model",),
    Dimension.ACCOUNT: ("account_id",),
    Dimension.USER: ("user",),
    Dimension.DAY: ("day",),
}
_COUNTS = ("posted", "stored", "failed", "cancelled", "open", "cost", "cost_estimated", "cost_unknown")
_CSV_HEADERS = {"content-disposition": 'attachment; filename="fluxhook-usage.csv"', "cache-control": "no-store"}
# One thread, so that many large answers at once take the interpreter from the event loop no more often than one does.
_RENDERER = ThreadPoolExecutor(1, thread_name_prefix="usage")
_CSV: dict[str, Any] = {"text/csv": {"schema": {"type": "string"}}}


@router.get(
    "",
    response_model=Usage | GroupedUsage,
    response_model_exclude_unset=True,
    dependencies=[KnownQuery],
    responses={
        HTTPStatus.OK: {"content": _CSV},
        **USUAL_ERRORS,
    },
)
async def get_usage(
    use: ResourcesDep,
    caller: ReaderDep,
    begin: Annotated[UtcInstant | None, Query(alias="from", description="Default: 30 days before `to`.")] = None,
    end: Annotated[
        UtcInstant | None, Query(alias="to", description="Exclusive; at most 366 days after `from`. Default: now.")
    ] = None,
    by: Annotated[
        list[Dimension] | None,
        Query(description="What to group by; repeat it for several. Default: `key` and `model`, in another form."),
    ] = None,
    form: Annotated[
        Literal["json", "csv"] | None, Query(alias="format", description="Default: `json`, or as `Accept` asks.")
    ] = None,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> Usage | GroupedUsage | Response:
    """Get the tasks that were posted in a period, and their cost.

    Covers the calling application, or all applications with the scope `admin`.
    """
    begin, end = _period(begin, end, use.now())
    as_csv = form == "csv" or (form is None and "text/csv" in accept.lower())
    if not by and not as_csv:
        async with report(use):
            rows = await use.db.read(usage.between, begin, end, caller.owner)
        return Usage(begin=begin, end=end, usage=[UsedView.model_validate(asdict(row)) for row in rows])
    dimensions = list(dict.fromkeys(by or (Dimension.KEY, Dimension.MODEL)))
    async with report(use):
        found = await use.db.read(_grouped, begin, end, dimensions, caller.owner)
    render = asyncio.get_running_loop().run_in_executor
    if as_csv:
        table = await render(_RENDERER, _as_csv, found, dimensions)
        return Response(table, media_type="text/csv; charset=utf-8", headers=_CSV_HEADERS)
    head = GroupedUsage(begin=begin, end=end, by=dimensions, usage=[])
    return Response(await render(_RENDERER, _as_json, found, head), media_type="application/json")


@dataclass(frozen=True, slots=True)
class _Found:
    """Groups, and the names of the keys and applications in them."""

    groups: Sequence[Group]
    keys: Mapping[str, str]
    applications: Mapping[str, str]


def _grouped(
    connection: Connection, begin: datetime, end: datetime, by: Sequence[Dimension], application_id: str | None
) -> _Found:
    """Return the groups with the names of keys and applications. Raises InvalidRequest if there are too many."""
    groups = usage_groups.grouped(connection, begin, end, by, _MAX_GROUPS + 1, application_id)
    if len(groups) > _MAX_GROUPS:
        reason = f"makes more than {_MAX_GROUPS:,} groups: choose a shorter period or fewer of them"
        raise InvalidRequest(f"by: {reason}", {"by": reason})
    keys = usage_groups.names_of_keys(connection) if Dimension.KEY in by else {}
    applications = usage_groups.names_of_applications(connection) if Dimension.APPLICATION in by else {}
    return _Found(groups, keys, applications)


def _as_csv(found: _Found, dimensions: Sequence[Dimension]) -> str:
    columns = [*(member for dimension in dimensions for member in _MEMBERS[dimension]), *_COUNTS]
    return csv_text(columns, (_view(group, found).model_dump() for group in found.groups))


def _as_json(found: _Found, head: GroupedUsage) -> str:
    """Return the answer `head` with these groups.

    Group by group: the serializer holds the interpreter's lock to its end, for 10,000 groups for tens of milliseconds.
    """
    start = head.model_dump_json(by_alias=True).removesuffix("]}")
    return start + ",".join(_view(group, found).model_dump_json(exclude_unset=True) for group in found.groups) + "]}"


def _view(group: Group, found: _Found) -> UsageGroup:
    members: dict[str, str | None] = {_MEMBERS[dimension][0]: value for dimension, value in group.of.items()}
    if Dimension.KEY in group.of:
        members["key_name"] = found.keys.get(group.of[Dimension.KEY] or "")
    if Dimension.APPLICATION in group.of:
        members["application_name"] = found.applications.get(group.of[Dimension.APPLICATION] or "")
    return UsageGroup(**members, **{name: getattr(group, name) for name in _COUNTS})


def _period(begin: datetime | None, end: datetime | None, now: datetime) -> tuple[datetime, datetime]:
    """Return begin and end (exclusive), with their defaults. Raises InvalidRequest."""
    end = now if end is None else end
    begin = end - min(_DEFAULT_PERIOD, end - _EARLIEST) if begin is None else begin
    if begin >= end:
        raise _refusal("must come after `from`")
    if end - begin > _MAX_PERIOD:
        raise _refusal(f"must be at most {_MAX_PERIOD.days} days after `from`")
    return begin, end


def _refusal(reason: str) -> InvalidRequest:
    return InvalidRequest(f"to: {reason}", {"to": reason})
