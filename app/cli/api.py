"""HTTP calls of the client commands to a running service, through its public API."""

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import typer

from app.settings import Settings

_ALL_INTERFACES = frozenset({"0.0.0.0", "::"})  # noqa: S104 - recognised, not listened on


@contextmanager
def connect(settings: Settings, url: str | None, key: str | None) -> Generator[httpx.Client]:
    """Yield a client for `url`, by default the configured host and port, with `key`, by default the admin key."""
    with httpx.Client(
        base_url=url or local_url(settings),
        headers={"authorization": f"Bearer {key or _own_key(settings)}"},
        timeout=90,
        trust_env=False,
    ) as client:
        yield client


def local_url(settings: Settings) -> str:
    host = "127.0.0.1" if settings.host in _ALL_INTERFACES else settings.host
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def ask(client: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
    """Send one request. A failure prints one sentence and ends the command with exit code 1."""
    try:
        response = client.request(method, path, **options)
    except httpx.HTTPError as error:
        typer.echo(f"fluxhook: no response from {client.base_url}: {type(error).__name__}", err=True)
        raise typer.Exit(1) from error
    if response.is_error:
        typer.echo(f"fluxhook: {_reason(response)}", err=True)
        raise typer.Exit(1)
    return response


def ask_for_page(client: httpx.Client, path: str, query: Mapping[str, object]) -> dict[str, Any]:
    """Return one page of a list. Filters that are None are left out."""
    params = {name: str(value) for name, value in query.items() if value is not None}
    page: dict[str, Any] = ask(client, "GET", path, params=params).json()
    return page


def post_task(
    client: httpx.Client, fields: Mapping[str, Any], files: Sequence[tuple[str, Path]] = ()
) -> dict[str, Any]:
    """Submit a task with images from files, each with the name of its field, and return it."""
    task: dict[str, Any]
    if not files:
        task = ask(client, "POST", "/v1/tasks", json=dict(fields)).json()
        return task
    with ExitStack() as stack:
        parts: list[tuple[str, Any]] = [(name, (None, _as_text(value))) for name, value in fields.items()]
        parts += [(field, (path.name, stack.enter_context(path.open("rb")))) for field, path in files]
        task = ask(client, "POST", "/v1/tasks", files=parts).json()
        return task


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _own_key(settings: Settings) -> str:
    if settings.admin_key is not None:
        return settings.admin_key.get_secret_value()
    try:
        return (settings.data_dir / "admin_key").read_text().strip()
    except (OSError, UnicodeDecodeError):  # missing, not readable, or not a generated key
        typer.echo("fluxhook: no API key found: give --key, or set FLUXHOOK_ADMIN_KEY or FLUXHOOK_DATA_DIR", err=True)
        raise typer.Exit(1) from None


def _reason(response: httpx.Response) -> str:
    try:
        return f"{response.json()['detail']} (HTTP {response.status_code})"
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code}"
