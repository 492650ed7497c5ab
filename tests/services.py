"""The service and the provider's twin as in production: each under uvicorn on its own socket."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from app.cli.serve import prepare
from app.clock import Now, utc_now
from app.main import create_app
from app.settings import Settings
from app.twin import build
from app.twin.rules import Profile
from app.wiring import open_resources
from tests.sockets import listening, serving
from tests.world import ADMIN_KEY, RING_KEY


@asynccontextmanager
async def services_running(
    folder: Path,
    database_url: str,
    *,
    provider: str = "bfl",
    profile: Profile = "b",
    ready_after_s: float = 0.2,
    env: Mapping[str, str] | None = None,
    now: Now = utc_now,
) -> AsyncGenerator[tuple[str, str]]:
    """Run both; yield the address of the service, which includes a worker, and that of the twin.

    `env` holds further settings of the service, `now` is the clock of its machine.
    """
    our_socket, our_address = listening()
    their_socket, their_address = listening()
    name = provider.upper()
    settings = Settings.from_env(
        {
            "FLUXHOOK_DATA_DIR": str(folder / "data"),
            "FLUXHOOK_DATABASE_URL": database_url,
            "FLUXHOOK_PUBLIC_URL": our_address,
            "FLUXHOOK_PROVIDER": provider,
            f"FLUXHOOK_{name}_BASE_URL": their_address,
            f"FLUXHOOK_{name}_API_KEY": "a-provider-key",
            "FLUXHOOK_ADMIN_KEY": ADMIN_KEY,
            "FLUXHOOK_SECRET_KEYS": RING_KEY,
            **(env or {}),
        }
    )
    await prepare(settings)
    async with (
        serving(build(ready_after_s=ready_after_s, profile=profile, seed=1), their_socket),
        serving(create_app(open_resources(settings, now)), our_socket),
    ):
        yield our_address, their_address
