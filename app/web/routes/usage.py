"""The usage of API keys: tasks and their cost."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from app.db.queries import usage
from app.errors import InvalidRequest
from app.params import UtcInstant
from app.web.auth import CallerDep, ResourcesDep
from app.web.known_query import KnownQuery
from app.web.problems import responses

router = APIRouter(prefix="/v1/usage", tags=["usage"])

_DEFAULT_PERIOD, _MAX_PERIOD = timedelta(days=30), timedelta(days=366)
_EARLIEST = datetime.min.replace(tzinfo=UTC)


class UsedView(BaseModel):
    """The tasks of one API key and one model that were posted in the period, by their current state."""

    key_id: str
    key_name: Annotated[str | None, Field(description="Null if the key no longer exists.")]
    model: str
    posted: Annotated[int, Field(description="The sum of `stored`, `failed`, `cancelled` and `open`.")]
    stored: int
    failed: int
    cancelled: int
    open: Annotated[int, Field(description="Tasks that are not final.")]
    cost: Annotated[
        float, Field(description="Credits over all attempts, as the provider reported them; 0 if it reported none.")
    ]
    cost_unknown: Annotated[
        int,
        Field(description="Tasks without a reported cost, except those that certainly cost nothing."),
    ]


class Usage(BaseModel):
    """The usage in a period. Keys and models without tasks are left out."""

    begin: Annotated[datetime, Field(serialization_alias="from")]
    end: Annotated[datetime, Field(serialization_alias="to", description="Exclusive.")]
    usage: list[UsedView]


@router.get(
    "",
    dependencies=[KnownQuery],
    responses=responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def get_usage(
    use: ResourcesDep,
    caller: CallerDep,
    begin: Annotated[UtcInstant | None, Query(alias="from", description="Default: 30 days before `to`.")] = None,
    end: Annotated[
        UtcInstant | None, Query(alias="to", description="Exclusive; at most 366 days after `from`. Default: now.")
    ] = None,
) -> Usage:
    """Get the tasks that were posted in a period, and their cost, by API key and model.

    Covers the calling key, or all keys if it has the scope `*`.
    """
    begin, end = _period(begin, end, use.now())
    rows = await use.db.read(usage.between, begin, end, caller.owner)
    return Usage(begin=begin, end=end, usage=[UsedView.model_validate(asdict(row)) for row in rows])


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
