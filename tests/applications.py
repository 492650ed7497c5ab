"""Applications of tests: a key of an application of its own, with limits and a budget."""

from typing import Any

from sqlalchemy import update

from app.db import Connection
from app.db.tables import api_keys, applications
from app.db.tables.api_keys import NewApiKey
from app.web.auth import digest_of
from tests.world import World

Headers = dict[str, str]


async def application(
    world: World, name: str, *, limits: dict[str, int | None] | None = None, budget: tuple[float, str] | None = None
) -> Headers:
    """Make the application `app_NAME` with one key, and return the key's headers."""
    secret = f"the key of {name}, for tests only"
    key = NewApiKey(f"key_{name}", name, digest_of(secret), [], world.clock.at)
    await world.use.db.write(_put, key, limits, budget)
    return {"x-key": secret}


def _put(
    connection: Connection, key: NewApiKey, limits: dict[str, int | None] | None, budget: tuple[float, str] | None
) -> None:
    api_keys.put(connection, key)
    values: dict[str, Any] = {"limits": limits}
    if budget is not None:
        values["budget"] = {"credits": budget[0], "period": budget[1]}
    table = applications.applications
    connection.execute(update(table).where(table.c.id == applications.id_of_key(key.id)).values(values))
