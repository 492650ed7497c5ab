"""`callbacks`, `deliveries`, `replay` and `keys`: inspection and administration from a terminal."""

from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

import typer

from app.cli.api import ask_for_all, ask_for_page, ask_json, connect
from app.cli.failure import fail
from app.cli.options import AsJson, Key, Limit, Url
from app.cli.output import print_json
from app.cli.table_printer import STATES, Cell, Column, print_table
from app.settings import from_environment

_CALLBACKS = (
    Column("received_at"),
    Column("task_id"),
    Column("verdict", styles=STATES),
    Column("effect"),
    Column("said", optional=True),
    Column("copies", optional=True),
    Column("detail", optional=True, flexible=True),
)
_DELIVERIES = (
    Column("planned_at"),
    Column("id"),
    Column("state", styles=STATES),
    Column("about"),
    Column("tries", optional=True),
    Column("detail", flexible=True),
)
_KEYS = (
    Column("created_at"),
    Column("id"),
    Column("name", flexible=True),
    Column("scopes"),
    Column("disabled_at"),
)

keys = typer.Typer(help="List, create and disable API keys.", no_args_is_help=True)
OfTask = Annotated[str | None, typer.Option(help="Show only one task, by its ID.")]


def callbacks(
    verdict: Annotated[
        str | None, typer.Option(help="Show only one verdict: signed, shared_secret, unproven or forged.")
    ] = None,
    task: OfTask = None,
    limit: Limit = 20,
    *,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """List callbacks of the provider, newest first."""
    query = {"verdict": verdict, "task_id": task, "limit": limit}
    with connect(from_environment(), url, key) as client:
        page = ask_for_page(client, "/v1/callbacks", query, "callbacks")
    _print(page["callbacks"], _CALLBACKS, as_json=as_json)
    if page["next_cursor"] is not None and len(page["callbacks"]) < limit:
        typer.echo(f"older callbacks may exist: GET /v1/callbacks?cursor={page['next_cursor']}", err=True)


def deliveries(
    delivery_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Show this delivery with its attempts.")
    ] = None,
    state: Annotated[str | None, typer.Option(help="Show only one state: waiting, delivered or failed.")] = None,
    task: OfTask = None,
    limit: Limit = 20,
    *,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """List webhook deliveries, newest first, or show one with its attempts."""
    query = {"state": state, "task_id": task, "limit": limit}
    with connect(from_environment(), url, key) as client:
        if delivery_id is not None:
            print_json(ask_json(client, "GET", f"/v1/deliveries/{quote(delivery_id, safe='')}"))
            return
        rows = ask_for_page(client, "/v1/deliveries", query, "deliveries")["deliveries"]
    _print(rows, _DELIVERIES, as_json=as_json)


def replay(
    delivery_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="The ID of a delivery.")] = None,
    begin: Annotated[
        str | None, typer.Option("--from", help="Replay the failures since this time, such as 2026-01-31T12:00:00Z.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Replay the failures before this time.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Replay only deliveries to this endpoint, by its ID.")] = None,
    *,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Send webhooks again: one delivery, or all that failed in a time range."""
    if (delivery_id is None) == (begin is None or end is None):
        fail("give either the ID of a delivery, or --from and --to")
    with connect(from_environment(), url, key) as client:
        if delivery_id is not None:
            answer = ask_json(client, "POST", f"/v1/deliveries/{quote(delivery_id, safe='')}/replay")
            count, has_more = 1, False
        else:
            window = {"from": begin, "to": end, **({"endpoint_id": endpoint} if endpoint else {})}
            answer = ask_json(client, "POST", "/v1/deliveries/replay", json=window)
            count, has_more = answer["replayed"], answer["more"]
    if as_json:
        print_json(answer)
        return
    more = "; there are more: repeat the command" if has_more else ""
    typer.echo(f"{'1 delivery' if count == 1 else f'{count} deliveries'} will be sent again{more}")


@keys.command("list")
def list_keys(*, as_json: AsJson = False, url: Url = None, key: Key = None) -> None:
    """List API keys by ID and name. The keys themselves are never shown."""
    with connect(from_environment(), url, key) as client:
        rows = ask_for_all(client, "/v1/keys", "keys")
    _print(rows, _KEYS, as_json=as_json)


@keys.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="A name for the key, such as that of the application.")],
    webhook_url: Annotated[str | None, typer.Option(help="The webhook URL for tasks that name none.")] = None,
    app: Annotated[str | None, typer.Option(help="The ID of its application. Default: a new one of this name.")] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="A scope: submit, read, manage, metrics or admin; repeat it. Default: the first three."),
    ] = None,
    expires_at: Annotated[
        str | None, typer.Option(help="When it expires, such as 2026-12-31T00:00:00Z. Default: never.")
    ] = None,
    *,
    admin: Annotated[bool, typer.Option("--admin", help="Give the key full access.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Create an API key and print its ID and the key, which is not shown again."""
    scopes = ["admin"] if admin else scope
    given = {"scopes": scopes, "webhook_url": webhook_url, "expires_at": expires_at}
    body = {"name": name, **{member: value for member, value in given.items() if value}}
    path = "/v1/keys" if app is None else f"/v1/applications/{quote(app, safe='')}/keys"
    with connect(from_environment(), url, key) as client:
        created = ask_json(client, "POST", path, json=body)
    if as_json:
        print_json(created)
    else:
        typer.echo(f"{created['id']} {created['key']}")


@keys.command("disable")
def disable_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The ID of the key.")],
    *,
    finish_queued: Annotated[
        bool, typer.Option("--finish-queued", help="Carry out its queued tasks. Default: they are cancelled.")
    ] = False,
    end_links: Annotated[
        bool, typer.Option("--end-links", help="End the links to images that were made for it.")
    ] = False,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Revoke an API key permanently."""
    options = {"queued": "finish" if finish_queued else "stop", "links": "end" if end_links else "keep"}
    with connect(from_environment(), url, key) as client:
        revoked = ask_json(client, "DELETE", f"/v1/keys/{quote(key_id, safe='')}", params=options)
    if as_json:
        print_json(revoked)


def _print(rows: list[dict[str, Any]], columns: tuple[Column, ...], *, as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    print_table(columns, ([_cell(column.name, row[column.name]) for column in columns] for row in rows))


def _cell(name: str, value: Any) -> Cell:
    if name.endswith("_at") and isinstance(value, str):
        return datetime.fromisoformat(value)
    return " ".join(value) if isinstance(value, list) else None if value is None else str(value)
