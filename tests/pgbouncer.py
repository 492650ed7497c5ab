"""PgBouncer in transaction mode, in front of the PostgreSQL server of the tests."""

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import make_url

from benchmarks.postgres_server import PLACE, not_as_root
from tests.postgres import Postgres
from tests.sockets import until

POOL_SIZE = 4  # sessions of the server for one database
_PORT = 6432  # names the socket in the folder; nothing listens on the network
# Round robin: consecutive transactions of a client run in different sessions.
_CONFIGURATION = """
[databases]
* = {server}

[pgbouncer]
unix_socket_dir = {folder}
listen_port = {port}
auth_type = any
pool_mode = {pool_mode}
default_pool_size = {pool_size}
max_client_conn = 500
server_round_robin = 1
"""


@asynccontextmanager
async def pgbouncer(
    server: Postgres, *, pool_mode: str = "transaction", pool_size: int = POOL_SIZE
) -> AsyncGenerator[Postgres | str]:
    """Yield the server as it is reached through PgBouncer, or the reason why that is not possible."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/bin:/usr/bin")
    if program is None:
        yield "no pgbouncer found: install it"
        return
    folder = Path(tempfile.mkdtemp(prefix="fluxhook-pgb-", dir=PLACE))
    address = make_url(server.dsn)
    parts = {"host": address.host or address.query.get("host"), "port": address.port, "user": address.username}
    parts["password"] = address.password
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(
        _CONFIGURATION.format(
            server=" ".join(f"{name}={value}" for name, value in parts.items() if value is not None),
            folder=folder,
            port=_PORT,
            pool_mode=pool_mode,
            pool_size=pool_size,
        )
    )
    process = await asyncio.create_subprocess_exec(
        *not_as_root(),
        program,
        "-q",
        str(configuration),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C goes only to the tests
    )
    through = Postgres(f"postgresql://{address.username or ''}@/postgres?host={folder}&port={_PORT}")
    try:
        await until(lambda: _answers(through.dsn))
        yield through
    finally:
        process.terminate()
        await process.wait()
        shutil.rmtree(folder, ignore_errors=True)


async def _answers(dsn: str) -> bool:
    try:
        connection = await asyncpg.connect(dsn, statement_cache_size=0)
    except (OSError, asyncpg.PostgresError):
        return False
    await connection.close()
    return True
