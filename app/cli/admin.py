"""`callbacks`, `deliveries`, `replay` and `keys`: inspection and administration from a terminal."""

import json
from typing import Annotated, Any

import typer

from app.cli.api import ask, ask_for_page, connect
from app.cli.client import AsJson, Key, Limit, Url
from app.cli.table_printer import print_table
from app.settings import from_environment

_WIDTH = 180

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
        page = ask_for_page(client, "/v1/callbacks", query)
    _print(
        page["callbacks"],
        ("received_at", "task_id", "verdict", "effect", "said", "copies", "detail"),
        as_json=as_json,
    )
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
            typer.echo(json.dumps(ask(client, "GET", f"/v1/deliveries/{delivery_id}").json(), indent=2))
            return
        rows = ask_for_page(client, "/v1/deliveries", query)["deliveries"]
    _print(rows, ("planned_at", "id", "state", "about", "tries", "detail"), as_json=as_json)


def replay(
    delivery_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="The ID of a delivery.")] = None,
    begin: Annotated[
        str | None, typer.Option("--from", help="Replay the failures since this time, such as 2026-01-31T12:00:00Z.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Replay the failures before this time.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Replay only deliveries to this endpoint, by its ID.")] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Send webhooks again: one delivery, or all that failed in a time range."""
    if (delivery_id is None) == (begin is None or end is None):
        typer.echo("fluxhook: give either the ID of a delivery, or --from and --to", err=True)
        raise typer.Exit(1)
    with connect(from_environment(), url, key) as client:
        if delivery_id is not None:
            ask(client, "POST", f"/v1/deliveries/{delivery_id}/replay")
            typer.echo("1 delivery will be sent again")
            return
        window = {"from": begin, "to": end, **({"endpoint_id": endpoint} if endpoint else {})}
        answer = ask(client, "POST", "/v1/deliveries/replay", json=window).json()
    more = "; there are more: repeat the command" if answer["more"] else ""
    deliveries = "1 delivery" if answer["replayed"] == 1 else f"{answer['replayed']} deliveries"
    typer.echo(f"{deliveries} will be sent again{more}")


@keys.command("list")
def list_keys(*, as_json: AsJson = False, url: Url = None, key: Key = None) -> None:
    """List API keys by ID and name. The keys themselves are never shown."""
    with connect(from_environment(), url, key) as client:
        rows = ask(client, "GET", "/v1/keys").json()["keys"]
    _print(rows, ("created_at", "id", "name", "scopes", "disabled_at"), as_json=as_json)


@keys.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="A name for the key, such as that of the application.")],
    webhook_url: Annotated[str | None, typer.Option(help="The webhook URL for tasks that name none.")] = None,
    *,
    admin: Annotated[bool, typer.Option("--admin", help="Give the key full access.")] = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Create an API key and print its ID and the key, which is not shown again."""
    body = {"name": name, "scopes": ["*"] if admin else [], **({"webhook_url": webhook_url} if webhook_url else {})}
    with connect(from_environment(), url, key) as client:
        created = ask(client, "POST", "/v1/keys", json=body).json()
    typer.echo(f"{created['id']} {created['key']}")


@keys.command("disable")
def disable_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The ID of the key.")], url: Url = None, key: Key = None
) -> None:
    """Disable an API key permanently."""
    with connect(from_environment(), url, key) as client:
        ask(client, "DELETE", f"/v1/keys/{key_id}")


def _print(rows: list[dict[str, Any]], columns: tuple[str, ...], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    print_table(columns, ([_cell(row[name]) for name in columns] for row in rows), _WIDTH)


def _cell(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else "" if value is None else str(value)
