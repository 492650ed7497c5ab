"""`callbacks`, `deliveries`, `replay` and `keys`: what providers told us and we told applications, from a terminal."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from app.cli.api import ask, ask_for_page, connect
from app.cli.client import Key, Url
from app.settings import from_environment

_WIDTH = 180

keys = typer.Typer(help="List, add and disable API keys.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print them as JSON.")]
OfTask = Annotated[str | None, typer.Option(help="Only those of this task.")]
Limit = Annotated[int, typer.Option(min=1, max=100, help="How many.")]


def callbacks(
    verdict: Annotated[str | None, typer.Option(help="Only those signed, shared_secret, unproven or forged.")] = None,
    task: OfTask = None,
    limit: Limit = 20,
    *,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """List what the provider called back with, newest first."""
    query = {"verdict": verdict, "task_id": task, "limit": limit}
    with connect(from_environment(), url, key) as client:
        page = ask_for_page(client, "/v1/callbacks", query)
    _print(
        page["callbacks"],
        ("received_at", "task_id", "verdict", "effect", "said", "copies", "detail"),
        as_json=as_json,
    )
    if page["next_cursor"] is not None and len(page["callbacks"]) < limit:
        typer.echo(f"there may be older ones: GET /v1/callbacks?cursor={page['next_cursor']}", err=True)


def deliveries(
    delivery_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="One, with its attempts.")] = None,
    state: Annotated[str | None, typer.Option(help="Only those waiting, delivered or failed.")] = None,
    task: OfTask = None,
    limit: Limit = 20,
    *,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """List what applications were told, newest first."""
    query = {"state": state, "task_id": task, "limit": limit}
    with connect(from_environment(), url, key) as client:
        if delivery_id is not None:
            typer.echo(json.dumps(ask(client, "GET", f"/v1/deliveries/{delivery_id}").json(), indent=2))
            return
        found = ask_for_page(client, "/v1/deliveries", query)["deliveries"]
    _print(found, ("planned_at", "id", "state", "about", "tries", "detail"), as_json=as_json)


def replay(
    delivery_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="A delivery's id.")] = None,
    begin: Annotated[str | None, typer.Option("--from", help="An instant: all given up since then.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="An instant: all given up before it.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Only those to this endpoint.")] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Tell again: one delivery, or all that were given up in a time."""
    if (delivery_id is None) == (begin is None or end is None):
        typer.echo("fluxhook: give a delivery's id, or --from and --to", err=True)
        raise typer.Exit(1)
    with connect(from_environment(), url, key) as client:
        if delivery_id is not None:
            ask(client, "POST", f"/v1/deliveries/{delivery_id}/replay")
            typer.echo("1 will be tried again")
            return
        window = {"from": begin, "to": end, **({"endpoint_id": endpoint} if endpoint else {})}
        answer = ask(client, "POST", "/v1/deliveries/replay", json=window).json()
    more = ", and there are more: ask again" if answer["more"] else ""
    typer.echo(f"{answer['replayed']} will be tried again{more}")


@keys.command("list")
def list_keys(*, as_json: AsJson = False, url: Url = None, key: Key = None) -> None:
    """List the keys, without the keys themselves."""
    with connect(from_environment(), url, key) as client:
        found = ask(client, "GET", "/v1/keys").json()["keys"]
    _print(found, ("created_at", "id", "name", "scopes", "disabled_at"), as_json=as_json)


@keys.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="Whose it is.")],
    webhook_url: Annotated[str | None, typer.Option(help="Where its tasks are told that do not say.")] = None,
    *,
    admin: Annotated[bool, typer.Option("--admin", help="It may do everything.")] = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Make a key, and print its id and, this once, the key itself."""
    given = {"name": name, "scopes": ["*"] if admin else [], **({"webhook_url": webhook_url} if webhook_url else {})}
    with connect(from_environment(), url, key) as client:
        made = ask(client, "POST", "/v1/keys", json=given).json()
    typer.echo(f"{made['id']} {made['key']}")


@keys.command("disable")
def disable_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id.")], url: Url = None, key: Key = None
) -> None:
    """Disable a key for good."""
    with connect(from_environment(), url, key) as client:
        ask(client, "DELETE", f"/v1/keys/{key_id}")


def _print(found: list[dict[str, Any]], columns: tuple[str, ...], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table(*columns, box=None, pad_edge=False)
    for each in found:
        table.add_row(*(_cell(each[name]) for name in columns))
    # As wide as it has to be: an id that is cut cannot be copied.
    Console(width=_WIDTH, highlight=False).print(table)


def _cell(value: Any) -> str:
    text = " ".join(value) if isinstance(value, list) else "" if value is None else str(value)
    return text.replace("[", r"\[")
