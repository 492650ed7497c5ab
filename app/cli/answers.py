"""Answers of the API, as far as the commands show them. Members that a command does not show are not read."""

from datetime import datetime
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from app.cli.api import ask_json
from app.cli.failure import fail
from app.rules.usage import Used

A = TypeVar("A", bound=BaseModel)


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Failed(Answer):
    code: str
    detail: str | None
    money_spent: str


class Image(Answer):
    url: str
    sha256: str
    media_type: str
    bytes: int
    width: int | None
    height: int | None
    unverified_image: str | None = None
    removed_at: datetime | None = None


class Queued(Answer):
    position: int
    paused_until_at: datetime | None
    pause_reason: str | None


class Webhook(Answer):
    url: str
    form: str


class TaskAnswer(Answer):
    id: str
    status: str
    model: str
    provider: str
    watched_by: str = "callback"
    params: dict[str, Any]
    inputs_removed_at: datetime | None = None
    user: str | None = None
    metadata: dict[str, str] = {}
    warnings: list[str]
    priority: int
    deadline_at: datetime | None
    queue: Queued | None
    webhook: Webhook | None
    unwanted: bool
    seed: int | None
    cost: float | None
    failure: Failed | None
    image: Image | None
    created_at: datetime


class Entry(Answer):
    """An entry of a timeline. Each kind of event has some of these members."""

    event: str
    at: datetime
    status: str | None = None
    submission_id: str | None = None
    number: int | None = None
    provider: str | None = None
    outcome: str | None = None
    provider_id: str | None = None
    cost: float | None = None
    detail: str | None = None
    answered_at: datetime | None = None
    witness: str | None = None
    verdict: str | None = None
    said: str | None = None
    effect: str | None = None
    http_status: int | None = None
    copies: int = 1
    repaired: bool = False
    ended_at: datetime | None = None
    due_at: datetime | None = None
    delivery_id: str | None = None
    about: str | None = None
    state: str | None = None
    attempts: int = 0
    endpoint_state: str | None = None


class Next(Answer):
    step: str
    at: datetime
    state: str
    failures: int


class TimelineAnswer(Answer):
    entries: list[Entry]
    next: list[Next] = []


class UsageAnswer(Answer):
    usage: list[Used]


class ModelsAnswer(Answer):
    models: list[dict[str, Any]]


def read(kind: type[A], answer: dict[str, Any], url: str) -> A:
    """Return an answer by its members. Without one of them, it is of another service or version: the command ends."""
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        member = ".".join(map(str, error.errors(include_input=False, include_url=False)[0]["loc"]))
        fail(f"the answer of {url} lacks a valid {member}: check --url, and use a fluxhook of its version", error)


def get(client: httpx.Client, path: str, kind: type[A]) -> A:
    """Return the answer of a path by its members."""
    return read(kind, ask_json(client, "GET", path), str(client.base_url))


class AccountAnswer(Answer):
    name: str
    provider: str
    region: str
    models: list[str] | None
    slots: int
    slots_allowed: int
    slots_in_use: int
    paused_until_at: datetime | None
    pause_reason: str | None
    credits: float | None
    credits_problem: str | None


class AccountsAnswer(Answer):
    accounts: list[AccountAnswer]
