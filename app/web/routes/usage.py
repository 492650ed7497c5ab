"""What was used, for whoever pays or plans."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from app.db.queries import usage
from app.errors import InvalidRequest
from app.params import InstantGiven
from app.web.auth import CallerDep, ResourcesDep
from app.web.problems import responses

router = APIRouter(prefix="/v1/usage", tags=["usage"])

_USUAL, _MOST = timedelta(days=30), timedelta(days=366)
_FIRST = datetime.min.replace(tzinfo=UTC)


class UsedView(BaseModel):
    """The tasks of one API key and one model that were posted in the span, as they stand now."""

    key_id: str
    key_name: Annotated[str | None, Field(description="Null where there is no such key any more.")]
    model: str
    posted: Annotated[int, Field(description="`stored`, `failed`, `cancelled` and `open` together.")]
    stored: int
    failed: int
    cancelled: int
    open: Annotated[int, Field(description="Not ended yet.")]
    cost: Annotated[float, Field(description="Credits over all attempts, as the provider told them; else 0.")]
    cost_unknown: Annotated[
        int,
        Field(description="Tasks of which no cost is known, without those that cost nothing for sure."),
    ]


class Usage(BaseModel):
    """What was posted in a span; keys and models of which nothing was are left out."""

    begin: Annotated[datetime, Field(serialization_alias="from")]
    end: Annotated[datetime, Field(serialization_alias="to", description="Not included.")]
    usage: list[UsedView]


@router.get(
    "",
    responses=responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def get_usage(
    use: ResourcesDep,
    asking: CallerDep,
    begin: Annotated[InstantGiven | None, Query(alias="from", description="Default: 30 days before `to`.")] = None,
    end: Annotated[
        InstantGiven | None, Query(alias="to", description="Not included; at most 366 days after `from`. Default: now.")
    ] = None,
) -> Usage:
    """Tasks that were posted in a span, and what they cost, by API key and model.

    Those of the calling key, or of all keys for one with the scope `*`.
    """
    begin, end = _span(begin, end, use.now())
    found = await use.db.read(lambda connection: usage.between(connection, begin, end, asking.owner))
    return Usage(begin=begin, end=end, usage=[UsedView.model_validate(asdict(each)) for each in found])


def _span(begin: datetime | None, end: datetime | None, now: datetime) -> tuple[datetime, datetime]:
    """From when to when. Raises InvalidRequest."""
    end = now if end is None else end
    begin = end - min(_USUAL, end - _FIRST) if begin is None else begin
    if begin >= end:
        raise _refusal("must come after `from`")
    if end - begin > _MOST:
        raise _refusal(f"must lie {_MOST.days} days after `from` at most")
    return begin, end


def _refusal(reason: str) -> InvalidRequest:
    return InvalidRequest(f"to: {reason}", {"to": reason})
