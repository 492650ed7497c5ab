"""The provider accounts: their slots, pauses and balances."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from app.db import Connection
from app.db.tables import provider_accounts, slots
from app.db.tables.provider_accounts import IN_ALL, Account
from app.errors import FluxhookError
from app.resources import Resources
from app.web.auth import AdminDep, ResourcesDep
from app.web.credits import Balances
from app.web.known_query import KnownQuery
from app.web.problems import USUAL_ERRORS

router = APIRouter(prefix="/v1/accounts", tags=["accounts"])


class AccountView(BaseModel):
    """A provider account. Admission gives tasks to the accounts in the order of the list."""

    id: str
    name: str
    provider: str
    region: str
    models: Annotated[list[str] | None, Field(description="The only models that it serves; null: all.")]
    slots: Annotated[int, Field(description="Configured maximum of tasks in flight.")]
    slots_allowed: Annotated[
        int, Field(description="The maximum now: refusals of the provider for lack of a slot lower it for a while.")
    ]
    slots_in_use: int
    slots_by_model: Annotated[dict[str, int], Field(description="Maximum of tasks in flight of single models.")]
    paused_until_at: datetime | None
    pause_reason: Annotated[str | None, Field(description="Also stays after a pause, until a task is accepted.")]
    credits: Annotated[float | None, Field(description="The balance, at most ten seconds old; null if not known.")]
    credits_problem: Annotated[str | None, Field(description="Why the balance is not known.")]


class AccountList(BaseModel):
    accounts: list[AccountView]


@router.get(
    "",
    dependencies=[KnownQuery],
    responses=USUAL_ERRORS,
)
async def list_accounts(request: Request, use: ResourcesDep, _caller: AdminDep) -> AccountList:
    """List the provider accounts of this process with their slots, pauses and balances. Requires the scope `admin`."""
    return AccountList(accounts=await read_accounts(use, request.app.state.balances))


async def read_accounts(use: Resources, balances: Balances) -> list[AccountView]:
    """Return the provider accounts of this process, in their order."""
    rows, in_use = await use.db.read(_read)
    credits_left = await balances.each(use)
    now = use.now()
    return [
        _view(row, account.name, in_use.get(account.id, 0), credits_left[account.id], now)
        for account in use.accounts
        if (row := rows.get(account.id)) is not None
    ]


def _read(connection: Connection) -> tuple[dict[str, Account], dict[str, int]]:
    """Return the accounts by id, and their taken slots."""
    taken = slots.in_use(connection)
    in_use: dict[str, int] = {}
    for (account_id, _), count in taken.items():
        in_use[account_id] = in_use.get(account_id, 0) + count
    return {account.id: account for account in provider_accounts.list_all(connection)}, in_use


def _view(account: Account, name: str, in_use: int, balance: float | FluxhookError, now: datetime) -> AccountView:
    return AccountView(
        id=account.id,
        name=name,
        provider=account.provider,
        region=account.region or "global",
        models=None if account.models is None else list(account.models),
        slots=account.limits[IN_ALL],
        slots_allowed=account.allowed(now),
        slots_in_use=in_use,
        slots_by_model={model: limit for model, limit in account.limits.items() if model != IN_ALL},
        paused_until_at=account.paused_until_at,
        pause_reason=account.pause_reason,
        credits=balance if isinstance(balance, float) else None,
        credits_problem=balance.detail if isinstance(balance, FluxhookError) else None,
    )
