"""The body of error responses."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field


class ProviderError(BaseModel):
    """The error in the form of the providers' errors."""

    message: str
    type: Annotated[str, Field(description="The HTTP status as text.", examples=["422"])]


class ProblemMembers(BaseModel):
    type: Annotated[str, Field(examples=["urn:fluxhook:problem:invalid_request"])]
    title: str
    status: int
    code: Annotated[str, Field(description="Stable error code; the last part of `type`.", examples=["invalid_request"])]
    message: Annotated[str, Field(description="The same as `detail`.")]
    error: ProviderError
    fields: Annotated[
        dict[str, str] | None,
        Field(description="The reason for each invalid field; present only if fields are invalid."),
    ] = None
    task_id: Annotated[
        str | None, Field(description="The task that may have been recorded; present only with `task_may_exist`.")
    ] = None
    remaining: Annotated[
        float | None, Field(description="The credits that are left; present only with `budget_exceeded`.")
    ] = None
    resets_at: Annotated[
        datetime | None, Field(description="When the budget starts anew; present only with `budget_exceeded`.")
    ] = None
    limit: Annotated[
        str | None, Field(description="The limit that is reached; present only with `limit_exceeded`.")
    ] = None


class Problem(ProblemMembers):
    """The body of every error response (RFC 9457)."""

    detail: str
