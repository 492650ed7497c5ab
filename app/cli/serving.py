"""`serve`, `migrate` and `twin`: the commands that run something."""

import asyncio
from typing import Annotated

import typer
import uvicorn

from app import __version__, clock, logs
from app.errors import ConfigurationError
from app.main import create_app
from app.provider.twin import build
from app.provider.twin.rules import Profile
from app.record import keys
from app.record.database import Database, open_database
from app.record.migrate import is_current, upgrade
from app.resources import database_url, kept_secret, open_resources
from app.settings import Settings, from_environment
from app.web.access import digest_of

ADMIN_KEY_ID = "key_admin"
# What a stopping server gives the requests in hand, before it closes them.
_GRACE_S = 10


def serve(
    *,
    worker: Annotated[bool, typer.Option(help="Do the jobs in this process too.")] = True,
) -> None:
    """Run the service: the API, and the worker inside it."""
    settings = from_environment()
    logs.configure()
    made_key = asyncio.run(prepare(settings))
    typer.echo(f"Fluxhook {__version__} on http://{settings.host}:{settings.port}")
    if made_key is not None:
        typer.echo(f"API key, shown this once and kept in {settings.data_dir / 'admin_key'}: {made_key}")
    if settings.provider_key is None:
        name = f"FLUXHOOK_{settings.provider.upper()}_API_KEY"
        typer.echo(f"No provider key: tasks are refused until {name} is set. `fluxhook demo` needs none.", err=True)
    app = create_app(open_resources(settings), with_worker=worker)
    server(app, settings.host, settings.port).run()


def migrate() -> None:
    """Bring the database to the schema of this version."""
    settings = from_environment()
    asyncio.run(_migrate(settings))
    typer.echo("The database is up to date.")


def twin(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.", min=0, max=65535)] = 8090,
    ready_after: Annotated[float, typer.Option(help="Seconds until an image is ready.", min=0)] = 2.0,
    profile: Annotated[
        Profile, typer.Option(help="How callbacks are signed: a (HMAC), b or c (plain secret), none.")
    ] = "a",
    seed: Annotated[int | None, typer.Option(help="Makes a run repeatable.")] = None,
) -> None:
    """Play the provider: BFL under /v1, GPTProto under /flux/v1, any key but `bad`."""
    typer.echo(f"The twin on http://{host}:{port}")
    server(build(ready_after, profile, seed), host, port).run()


async def prepare(settings: Settings) -> str | None:
    """Make ready what a start needs; return the admin key if it was made just now.

    An embedded database is migrated. A shared one is not: many replicas start at once, and one command does it.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    key, made = _admin_key(settings)
    async with open_database(database_url(settings)) as database:
        if settings.embedded:
            await database.write(upgrade)
        elif not await database.read(is_current):
            raise ConfigurationError("the database's schema is not this version's: run `fluxhook migrate`")
        await _put_admin_key(database, key)
    return key if made else None


def server(app: object, host: str, port: int) -> uvicorn.Server:
    """A uvicorn server without its own logs: its access line would show the tokens in callback addresses."""
    return uvicorn.Server(
        uvicorn.Config(
            app,  # type: ignore[arg-type]
            host=host,
            port=port,
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_S,
        )
    )


async def _migrate(settings: Settings) -> None:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    async with open_database(database_url(settings)) as database:
        await database.write(upgrade)


def _admin_key(settings: Settings) -> tuple[str, bool]:
    if settings.admin_key is not None:
        return settings.admin_key.get_secret_value(), False
    if not settings.embedded:
        raise ConfigurationError("FLUXHOOK_ADMIN_KEY: needed on PostgreSQL, where replicas share no folder")
    return kept_secret(settings.data_dir / "admin_key")


async def _put_admin_key(database: Database, key: str) -> None:
    now = clock.utc_now()
    await database.write(
        lambda connection: keys.put(
            connection,
            id=ADMIN_KEY_ID,
            name="admin",
            sha256=digest_of(key),
            scopes=["*"],
            created_at=now,
        )
    )
