"""The service and the provider's twin as in production: each under uvicorn on its own socket."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from app.cli.doctor.checks import examine
from app.cli.serve import prepare
from app.clock import Now, utc_now
from app.main import create_app
from app.settings import Settings
from app.twin import Twin, build, create_twin_app
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
    twin: Twin | None = None,
) -> AsyncGenerator[tuple[str, str]]:
    """Run both; yield the address of the service, which includes a worker, and that of the twin.

    `env` holds further settings of the service, `now` is the clock of its machine, `twin` replaces the usual twin.
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
    usual = build(ready_after_s=ready_after_s, profile=profile, seed=1) if twin is None else create_twin_app(twin)
    checks = partial(examine, settings, with_models=False)
    async with (
        serving(usual, their_socket),
        serving(create_app(open_resources(settings, now), examine=checks), our_socket),
    ):
        yield our_address, their_address
