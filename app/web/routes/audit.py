"""The audit: who did what, newest first. Requires the scope `admin`."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from app.db.tables import audit
from app.db.tables.audit import AuditEntry
from app.web.auth import AdminDep, ResourcesDep
from app.web.known_query import KnownQuery
from app.web.problems import USUAL_ERRORS

router = APIRouter(prefix="/v1/audit", tags=["operations"])
_MAX_SEQUENCE = 2**63 - 1


class AuditView(BaseModel):
    """A record of the audit. Its digest covers all other members, so a record cannot be changed unnoticed."""

    sequence: Annotated[int, Field(description="1 for the first record; no number is left out.")]
    at: datetime
    key_id: Annotated[str | None, Field(description="Null if the service itself did it.")]
    application_id: Annotated[str | None, Field(description="The application of the key.")]
    address: Annotated[str | None, Field(description="The network address of the client.")]
    action: Annotated[str, Field(description="Such as `key.created`.")]
    subject: Annotated[str, Field(description="The id of the object; `all` for an action on several objects.")]
    detail: dict[str, Any]
    previous: Annotated[str, Field(description="The digest of the record before; zeros for the first.")]
    digest: Annotated[str, Field(description="SHA-256 in hex; see docs/audit.md for what it covers.")]


class AuditList(BaseModel):
    records: list[AuditView]
    next_cursor: Annotated[
        int | None, Field(description="Pass it as `cursor` to get the next page; null on the last page.")
    ]


@router.get(
    "",
    dependencies=[KnownQuery],
    responses=USUAL_ERRORS,
)
async def list_audit(
    use: ResourcesDep,
    _caller: AdminDep,
    subject: Annotated[
        str | None, Query(pattern=r"^[A-Za-z0-9_.:-]{1,64}$", description="Only records about this object.")
    ] = None,
    cursor: Annotated[
        int | None, Query(ge=1, le=_MAX_SEQUENCE, description="The `next_cursor` of the previous page.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Maximum number of records in the page.")] = 100,
) -> AuditList:
    """List the records of the audit, newest first. Requires the scope `admin`."""
    entries = await use.db.read(audit.newest, limit=limit + 1, before=cursor, subject=subject)
    page = entries[:limit]
    next_cursor = page[-1].record.sequence if len(entries) > limit else None
    return AuditList(records=[_view(entry) for entry in page], next_cursor=next_cursor)


def _view(entry: AuditEntry) -> AuditView:
    record = entry.record
    return AuditView(
        sequence=record.sequence,
        at=record.at,
        key_id=record.key_id,
        application_id=record.application_id,
        address=record.address,
        action=record.action,
        subject=record.subject,
        detail=dict(record.detail),
        previous=entry.previous,
        digest=entry.digest,
    )
