"""Addresses of PostgreSQL as hosts hand them out: what they say about the connection is done, or refused clearly."""

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
_ASKS_FOR_TLS = bytes.fromhex("00000008 04d2162f")  # PostgreSQL's SSLRequest


def with_query(url: str, query: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{query}"


async def asked(url: str, question: str) -> object:
    async with open_database(url) as database:
        return await database.read(lambda connection: connection.execute(text(question)).scalar_one())


@pytest.mark.parametrize("mode", ["disable", "prefer", "require"])
async def test_encryption_is_asked_for_as_the_address_says(mode: str) -> None:
    heard: list[bytes] = []

    async def refuse_encryption(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readexactly(8))
        writer.write(b"N")
        writer.close()

    server = await asyncio.start_server(refuse_encryption, "127.0.0.1", 0)
    address = "postgresql://fluxhook@{}:{}/fluxhook".format(*server.sockets[0].getsockname())
    async with server:
        with pytest.raises(Unavailable):
            await asked(f"{address}?sslmode={mode}", "SELECT 1")

    assert (heard[0] == _ASKS_FOR_TLS) == (mode != "disable")


async def test_what_is_for_the_server_reaches_it(postgres_url: str) -> None:
    address = with_query(postgres_url, "application_name=the%20gateway&options=-c%20work_mem%3D5MB&connect_timeout=10")

    assert await asked(address, "SHOW application_name") == "the gateway"
    assert await asked(address, "SHOW work_mem") == "5MB"


async def test_what_the_driver_and_sqlalchemy_know_by_themselves_goes_on_working(postgres_url: str) -> None:
    address = with_query(postgres_url, "ssl=disable&prepared_statement_cache_size=0&channel_binding=prefer")

    assert await asked(address, "SELECT 1") == 1


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("sslmode=very", "sslmode must be one of disable, allow"),
        ("sslmode=verify-full", "sslmode=verify-full needs sslrootcert"),
        ("sslmode=verify-full&sslrootcert=/nowhere.pem", "the file of sslrootcert does not exist"),
        ("pgbouncer=true&schema=public", "unknown parameter pgbouncer, schema"),
        ("channel_binding=require", "leave channel_binding out"),
        ("connect_timeout=soon", "connect_timeout must be a number"),
    ],
)
async def test_what_cannot_be_done_is_said(query: str, said: str) -> None:
    address = f"postgresql://fluxhook:{HIDDEN}@db.example.com/fluxhook?{query}"
    with pytest.raises(ConfigurationError, match=said) as refused:
        async with open_database(address):
            raise AssertionError("it must not be opened")
    with pytest.raises(ConfigurationError, match=said):
        Listening(address)

    assert HIDDEN not in refused.value.detail


async def test_an_address_that_is_none_is_said_without_showing_it() -> None:
    with pytest.raises(ConfigurationError, match="is not a database URL") as refused:
        async with open_database(f"postgresql://fluxhook:{HIDDEN}@db:none/fluxhook"):
            raise AssertionError("it must not be opened")

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
def test_an_address_is_shown_without_its_password_wherever_that_stands(address: str, shown: str | None) -> None:
    assert without_secrets(address) == shown


@given(st.text(st.sampled_from("@/:?#&=[]% a")))
def test_a_password_is_never_shown_however_it_is_written(between: str) -> None:
    shown = without_secrets(f"postgresql://fluxhook:{HIDDEN}{between}{HIDDEN}@db/fluxhook")

    assert HIDDEN not in (shown or "")
