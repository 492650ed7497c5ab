"""`accounts`: the provider accounts with their slots, pauses and balances."""

from app.cli.answers import AccountAnswer, AccountsAnswer, read
from app.cli.api import ask_json, connect
from app.cli.options import AsJson, Key, Url
from app.cli.output import print_json
from app.cli.table_printer import Cell, Column, print_table
from app.settings import from_environment

_COLUMNS = (
    "name",
    Column("provider", optional=True),
    Column("region", optional=True),
    "in use",
    "slots",
    "credits",
    Column("paused until", flexible=True),
    Column("reason", flexible=True),
    Column("models", flexible=True, optional=True),
)


def accounts(*, as_json: AsJson = False, url: Url = None, key: Key = None) -> None:
    """List the provider accounts with their slots, balances and pauses, in the order in which they get tasks."""
    with connect(from_environment(), url, key) as client:
        answer = ask_json(client, "GET", "/v1/accounts")
        if as_json:
            print_json(answer)
            return
        rows = read(AccountsAnswer, answer, str(client.base_url)).accounts
    print_table(_COLUMNS, map(_row, rows))


def _row(account: AccountAnswer) -> tuple[Cell, ...]:
    lowered = account.slots_allowed != account.slots
    return (
        account.name,
        account.provider,
        account.region,
        account.slots_in_use,
        f"{account.slots_allowed} (of {account.slots})" if lowered else account.slots,
        account.credits_problem if account.credits is None else account.credits,
        account.paused_until_at,
        account.pause_reason,
        "all" if account.models is None else " ".join(account.models),
    )
