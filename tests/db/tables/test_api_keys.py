from collections.abc import Sequence
from datetime import datetime, timedelta

from app.db import Connection
from app.db.engine.database import Database
from app.db.tables import api_keys
from app.db.tables.api_keys import NewApiKey
from tests.rows import START


def put(connection: Connection, sha256: str, key_id: str = "key_1", scopes: Sequence[str] = ("*",)) -> None:
    api_keys.put(connection, NewApiKey(key_id, "admin", sha256, scopes, START))


async def test_a_key_is_found_by_its_digest_and_by_its_id(database: Database) -> None:
    def unit(connection: Connection) -> list[api_keys.Key | None]:
        put(connection, "aa", scopes=["read", "write"])
        return [
            api_keys.by_digest(connection, "aa"),
            api_keys.get(connection, "key_1"),
            api_keys.by_digest(connection, "bb"),
            api_keys.get(connection, "key_2"),
        ]

    found = await database.write(unit)

    assert found[0] == found[1] == api_keys.Key("key_1", "app_1", "admin", "aa", ["read", "write"], START, None)
    assert found[2:] == [None, None]


async def test_disabling_a_key_keeps_its_first_time_and_no_other_key_changes(database: Database) -> None:
    def unit(connection: Connection) -> list[datetime | None]:
        put(connection, "aa")
        put(connection, "bb", "key_2")
        for seconds in (1, 2):
            api_keys.disable(connection, "key_1", START + timedelta(seconds=seconds))
        return [
            key.disabled_at for key in (api_keys.get(connection, "key_1"), api_keys.get(connection, "key_2")) if key
        ]

    assert await database.write(unit) == [START + timedelta(seconds=1), None]


async def test_putting_a_key_again_replaces_and_enables_the_key_with_the_same_id(database: Database) -> None:
    def unit(connection: Connection) -> list[api_keys.Key | None]:
        put(connection, "aa")
        put(connection, "cc", "key_2")
        api_keys.disable(connection, "key_1", START)
        put(connection, "bb")
        return [api_keys.by_digest(connection, digest) for digest in ("aa", "bb", "cc")]

    old, new, other = await database.write(unit)

    assert old is None
    assert new is not None
    assert new.disabled_at is None
    assert other is not None
