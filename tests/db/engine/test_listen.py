"""Listeners are called for NOTIFY from other connections, also after the connection was lost."""

import asyncio
from collections.abc import AsyncGenerator

import asyncpg  # type: ignore[import-untyped]
import pytest

from app.db.engine.listen import Listening
from tests.sockets import until


class Heard:
    """A listener that counts its calls."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1

    async def more_than(self, times: int) -> None:
        async def heard() -> bool:
            return self.times > times

        await until(heard)


@pytest.fixture
async def listening(postgres_url: str) -> AsyncGenerator[Listening]:
    opened = Listening(postgres_url)
    yield opened
    await opened.close()


@pytest.fixture
async def other(postgres_url: str) -> AsyncGenerator[asyncpg.Connection]:
    """Another connection to the same database."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


async def test_a_listener_is_called_when_its_channel_is_subscribed_and_for_each_notification(
    listening: Listening, other: asyncpg.Connection
) -> None:
    heard = Heard()
    listening.add("one", heard)
    await heard.more_than(0)

    await other.execute("NOTIFY one")

    await heard.more_than(1)


async def test_each_channel_has_its_own_listeners_which_may_be_added_later(
    listening: Listening, other: asyncpg.Connection
) -> None:
    first, second, both = Heard(), Heard(), Heard()
    listening.add("one", first)
    await first.more_than(0)
    listening.add("two", second)
    listening.add("two", both)
    await second.more_than(0)

    await other.execute("NOTIFY two")
    await second.more_than(1)

    assert (first.times, both.times) == (1, 2)


async def test_a_listener_is_called_again_after_a_lost_connection(
    listening: Listening, other: asyncpg.Connection
) -> None:
    heard = Heard()
    listening.add("one", heard)
    await heard.more_than(0)

    await other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ILIKE 'listen%'")
    await heard.more_than(1)
    await other.execute("NOTIFY one")

    await heard.more_than(2)


async def test_closing_does_not_wait_for_an_unreachable_server() -> None:
    heard = Heard()
    listening = Listening("postgresql://absent@127.0.0.1:1/nothing")
    listening.add("one", heard)
    await asyncio.sleep(0)

    async with asyncio.timeout(30):
        await listening.close()

    assert heard.times == 0


async def test_closing_ends_the_listening_connection(postgres_url: str, other: asyncpg.Connection) -> None:
    heard, listening = Heard(), Listening(postgres_url)
    listening.add("one", heard)
    await heard.more_than(0)

    await listening.close()

    async def is_ended() -> bool:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query ILIKE 'listen%'"
        return bool(await other.fetchval(query) == 0)

    await until(is_ended)


async def test_a_listener_may_filter_by_payload(listening: Listening, other: asyncpg.Connection) -> None:
    some, every = Heard(), Heard()
    listening.add("one", some, containing="insert")
    listening.add("one", every)
    await some.more_than(0)
    await every.more_than(0)

    await other.execute("NOTIFY one, 'update'; NOTIFY one, 'an insert'")

    await every.more_than(2)
    assert some.times == 2
