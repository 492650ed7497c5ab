"""`apps`: applications, from a terminal."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

import typer

from app.cli.api import ask, ask_for_all, ask_json, connect
from app.cli.failure import fail
from app.cli.options import AsJson, Key, Url
from app.cli.output import print_json
from app.cli.table_printer import Cell, Column, print_table
from app.rules.budget import Budget
from app.rules.retention import DataClass
from app.settings import from_environment

_COLUMNS = (
    Column("created_at"),
    Column("id"),
    Column("name", flexible=True),
    Column("budget"),
    Column("disabled_at", optional=True),
)
apps = typer.Typer(help="List, create, show, change, disable and enable applications.", no_args_is_help=True)
KeepOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CLASS=DAYS",
        help="Days after its end for which a task's images, inputs, evidence, or tasks as a whole are kept, such as "
        "images=30; 0: without limit; empty: as in the settings. Repeat it for several.",
    ),
]
Id = Annotated[str, typer.Argument(metavar="ID", help="The ID of the application.")]
BudgetOption = Annotated[str | None, typer.Option(help="The credits that it may spend, such as 40/day or 1200/month.")]
JoinRetries = Annotated[
    bool | None,
    typer.Option(
        "--join-retries/--no-join-retries",
        help="Whether a retry joins the tasks of the request that it repeats. Default of a new application: it does.",
    ),
]

WebhookUrl = Annotated[
    str | None, typer.Option(help="The webhook URL for tasks that name none; an empty text removes it.")
]
WebhookSecret = Annotated[
    str | None,
    typer.Option(
        help="The secret that signs these webhooks; - reads it from standard input, so that no process list shows it; "
        "an empty text removes it."
    ),
]
WebhookForm = Annotated[str | None, typer.Option(help="Their form: provider or event; an empty text: the default.")]
WebhookEvents = Annotated[
    str | None,
    typer.Option(metavar="NAMES", help="Their events, such as submitted,stored; an empty text: final states alone."),
]


@apps.command("list")
def list_apps(*, as_json: AsJson = False, url: Url = None, key: Key = None) -> None:
    """List applications by ID and name, newest first."""
    with connect(from_environment(), url, key) as client:
        rows = ask_for_all(client, "/v1/applications", "applications")
    if as_json:
        print_json(rows)
        return
    print_table(_COLUMNS, ([_cell(column.name, row[column.name]) for column in _COLUMNS] for row in rows))


@apps.command("add")
def add_app(
    name: Annotated[str, typer.Argument(help="A name for the application.")],
    budget: BudgetOption = None,
    keep: KeepOption = None,
    webhook_url: WebhookUrl = None,
    webhook_secret: WebhookSecret = None,
    webhook_form: WebhookForm = None,
    webhook_events: WebhookEvents = None,
    *,
    join_retries: JoinRetries = None,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Create an application and print its ID. `fluxhook keys add NAME --app ID` makes a key of it."""
    webhook = _webhook(webhook_url, webhook_secret, webhook_form, webhook_events)
    body = {**_members(name, budget, join_retries, keep), **webhook}
    with connect(from_environment(), url, key) as client:
        created = ask_json(client, "POST", "/v1/applications", json=body)
    if as_json:
        print_json(created)
    else:
        typer.echo(created["id"])


@apps.command("show")
def show_app(app_id: Id, url: Url = None, key: Key = None) -> None:
    """Print an application as JSON."""
    with connect(from_environment(), url, key) as client:
        print_json(ask_json(client, "GET", f"/v1/applications/{quote(app_id, safe='')}"))


@apps.command("change")
def change_app(
    app_id: Id,
    name: Annotated[str | None, typer.Option(help="Another name.")] = None,
    budget: BudgetOption = None,
    keep: KeepOption = None,
    webhook_url: WebhookUrl = None,
    webhook_secret: WebhookSecret = None,
    webhook_form: WebhookForm = None,
    webhook_events: WebhookEvents = None,
    *,
    join_retries: JoinRetries = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Change an application, and print it as JSON. What is not given stays as it is."""
    webhook = _webhook(webhook_url, webhook_secret, webhook_form, webhook_events)
    body = {**_members(name, budget, join_retries, keep), **webhook}
    if not body:
        fail("give what to change: --name, --budget, --keep, --webhook-..., --join-retries or --no-join-retries")
    path = f"/v1/applications/{quote(app_id, safe='')}"
    with connect(from_environment(), url, key) as client:
        if keep:  # the API replaces the whole member
            known = ask_json(client, "GET", path)["retention_days"] or {}
            body["retention_days"] = {**known, **body["retention_days"]}
        print_json(ask_json(client, "PATCH", path, json=body))


@apps.command("disable")
def disable_app(
    app_id: Id,
    *,
    finish_queued: Annotated[
        bool, typer.Option("--finish-queued", help="Carry out its queued tasks instead of cancelling them.")
    ] = False,
    end_links: Annotated[bool, typer.Option("--end-links", help="End its links to images that need no key.")] = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Disable an application: its keys are refused until `fluxhook apps enable`."""
    query = {"queued": "finish" if finish_queued else "stop", "links": "end" if end_links else "keep"}
    with connect(from_environment(), url, key) as client:
        ask(client, "DELETE", f"/v1/applications/{quote(app_id, safe='')}", params=query)


@apps.command("enable")
def enable_app(app_id: Id, url: Url = None, key: Key = None) -> None:
    """Enable a disabled application again."""
    with connect(from_environment(), url, key) as client:
        ask(client, "PATCH", f"/v1/applications/{quote(app_id, safe='')}", json={"disabled": False})


def _members(name: str | None, budget: str | None, join_retries: bool | None, keep: list[str] | None) -> dict[str, Any]:
    """Return the members of a request that are given."""
    members = {
        "name": name,
        "budget": None if budget is None else _budget(budget),
        "join_retries": join_retries,
        "retention_days": _retention(keep) if keep else None,
    }
    return {member: value for member, value in members.items() if value is not None}


def _webhook(url: str | None, secret: str | None, form: str | None, events: str | None) -> dict[str, Any]:
    """Return the webhook members of a request that are given; null for an empty text, which removes one."""
    if secret == "-":  # noqa: S105 - stands for the standard input
        secret = typer.get_text_stream("stdin").readline().strip()
        if not secret:
            fail("--webhook-secret -: the standard input is empty")
    names = None if events is None else [name.strip() for name in events.split(",") if name.strip()]
    given = {"webhook_url": url, "webhook_secret": secret, "webhook_form": form, "webhook_events": names}
    return {member: value or None for member, value in given.items() if value is not None}


def _retention(pairs: Sequence[str]) -> dict[str, int | None]:
    days: dict[str, int | None] = {}
    for pair in pairs:
        name, equals, number = pair.partition("=")
        if name not in set(DataClass) or not equals or (number and not (number.isascii() and number.isdecimal())):
            fail(f"{pair!r} is not CLASS=DAYS: the classes are {', '.join(DataClass)}, and days are a number")
        days[name] = int(number) if number else None
    return days


def _budget(text: str) -> dict[str, object]:
    try:
        parsed = Budget.parse(text)
    except ValueError as error:
        fail(f"--budget: {error}")
    return {"credits": parsed.credits, "period": parsed.period}


def _cell(name: str, value: Any) -> Cell:
    if name == "budget" and value is not None:
        return str(Budget.of_json(value))
    return datetime.fromisoformat(value) if name.endswith("_at") and isinstance(value, str) else value
