"""URLs of PostgreSQL as hosting providers write them: each parameter is applied, or refused with a clear error."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from app.db.engine.database import open_database
from app.db.engine.listen import Listening
from app.db.engine.postgres_url import without_secrets
from app.errors import ConfigurationError, Unavailable

HIDDEN = "hunter2"
_SSL_REQUEST = bytes.fromhex("00000008 04d2162f")


def with_query(url: str, query: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{query}"


async def query(url: str, sql: str) -> object:
    async with open_database(url) as database:
        return await database.read(lambda connection: connection.execute(text(sql)).scalar_one())


@pytest.mark.parametrize("mode", ["disable", "prefer", "require"])
async def test_sslmode_decides_whether_encryption_is_requested(mode: str) -> None:
    received: list[bytes] = []

    async def refuse_encryption(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readexactly(8))
        writer.write(b"N")
        writer.close()

    server = await asyncio.start_server(refuse_encryption, "127.0.0.1", 0)
    address = "postgresql://fluxhook@{}:{}/fluxhook".format(*server.sockets[0].getsockname())
    async with server:
        with pytest.raises(Unavailable):
            await query(f"{address}?sslmode={mode}", "SELECT 1")

    assert (received[0] == _SSL_REQUEST) == (mode != "disable")


async def test_parameters_for_the_server_reach_it(postgres_url: str) -> None:
    address = with_query(postgres_url, "application_name=the%20gateway&options=-c%20work_mem%3D5MB&connect_timeout=10")

    assert await query(address, "SHOW application_name") == "the gateway"
    assert await query(address, "SHOW work_mem") == "5MB"


async def test_parameters_of_the_driver_and_of_sqlalchemy_are_passed_on(postgres_url: str) -> None:
    address = with_query(postgres_url, "ssl=disable&prepared_statement_cache_size=0&channel_binding=prefer")

    assert await query(address, "SELECT 1") == 1


@pytest.mark.parametrize(
    ("query_string", "message"),
    [
        ("sslmode=very", "sslmode must be one of disable, allow"),
        ("sslmode=verify-full", "sslmode=verify-full needs sslrootcert"),
        ("sslmode=verify-full&sslrootcert=/nowhere.pem", "the file of sslrootcert does not exist"),
        ("pgbouncer=true&schema=public", "unknown parameter pgbouncer, schema"),
        ("channel_binding=require", "leave channel_binding out"),
        ("connect_timeout=soon", "connect_timeout must be a number"),
    ],
)
async def test_an_unsupported_parameter_is_refused(query_string: str, message: str) -> None:
    address = f"postgresql://fluxhook:{HIDDEN}@db.example.com/fluxhook?{query_string}"
    with pytest.raises(ConfigurationError, match=message) as refused:
        async with open_database(address):
            raise AssertionError("it must not open")
    with pytest.raises(ConfigurationError, match=message):
        Listening(address)

    assert HIDDEN not in refused.value.detail


async def test_an_invalid_url_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigurationError, match="is not a database URL") as refused:
        async with open_database(f"postgresql://fluxhook:{HIDDEN}@db:none/fluxhook"):
            raise AssertionError("it must not open")

    assert HIDDEN not in refused.value.detail


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://fluxhook:hunter2@db/fluxhook", "postgresql://fluxhook:***@db/fluxhook"),
        ("postgresql://fluxhook@db/fluxhook?sslmode=require", "postgresql://fluxhook@db/fluxhook?sslmode=require"),
        ("postgresql:///fluxhook?host=db&user=u&password=hunter2", "postgresql:///fluxhook?host=db&user=u"),
        ("postgresql:///fluxhook?host=db&sslpassword=hunter2", "postgresql:///fluxhook?host=db"),
        ("postgresql:///fluxhook?host=db&pwd=hunter2", "postgresql:///fluxhook?host=db"),
        ("postgresql://fluxhook:hunter2/hunter2?@db/fluxhook", "postgresql://fluxhook:***@db/fluxhook"),
        ("postgresql://fluxhook:hunter2@hunter2@db/fluxhook", None),
        ("postgresql://fluxhook:hunter2/hunter2", None),
        ("sqlite:////data/fluxhook.db", "sqlite:////data/fluxhook.db"),
    ],
)
def test_a_url_is_shown_without_its_password_in_any_place(address: str, shown: str | None) -> None:
    assert without_secrets(address) == shown


@given(st.text(st.sampled_from("@/:?#&=[]% a")))
def test_no_form_of_a_password_is_shown(between: str) -> None:
    shown = without_secrets(f"postgresql://fluxhook:{HIDDEN}{between}{HIDDEN}@db/fluxhook")

    assert HIDDEN not in (shown or "")
