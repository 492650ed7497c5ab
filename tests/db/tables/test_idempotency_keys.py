from datetime import timedelta

from app.db import Connection
from app.db.engine.database import Database
from app.db.tables import idempotency_keys
from app.db.tables.idempotency_keys import Remembered
from tests.rows import START

KEY = ("key_1", "k")


async def test_a_key_is_begun_once(database: Database) -> None:
    def unit(connection: Connection) -> list[bool]:
        keys = [KEY, KEY, ("key_2", "k"), ("key_1", "K")]
        return [idempotency_keys.begin(connection, *key, "d", START) for key in keys]

    assert await database.write(unit) == [True, False, True, True]


async def test_what_is_begun_has_no_answer_and_what_is_answered_has_it(database: Database) -> None:
    def unit(connection: Connection) -> list[Remembered | None]:
        before = idempotency_keys.get(connection, *KEY)
        idempotency_keys.begin(connection, *KEY, "d", START)
        begun = idempotency_keys.get(connection, *KEY)
        idempotency_keys.answer(connection, *KEY, START, {"id": "task_1", "warnings": []})
        return [before, begun, idempotency_keys.get(connection, *KEY)]

    assert await database.write(unit) == [
        None,
        Remembered("d", None, START),
        Remembered("d", {"id": "task_1", "warnings": []}, START),
    ]


async def test_only_whoever_holds_the_key_may_answer_or_forget(database: Database) -> None:
    def unit(connection: Connection) -> tuple[bool, Remembered | None]:
        idempotency_keys.begin(connection, *KEY, "d", START)
        stranger = START + timedelta(seconds=1)
        idempotency_keys.forget(connection, *KEY, stranger)
        return idempotency_keys.answer(connection, *KEY, stranger, {}), idempotency_keys.get(connection, *KEY)

    assert await database.write(unit) == (False, Remembered("d", None, START))


async def test_what_is_older_than_that_is_forgotten_and_nothing_else(database: Database) -> None:
    def unit(connection: Connection) -> tuple[int, list[bool]]:
        for seconds in range(4):
            idempotency_keys.begin(connection, "key_1", f"{seconds}", "d", START + timedelta(seconds=seconds))
        forgotten = idempotency_keys.forget_before(connection, START + timedelta(seconds=2))
        return forgotten, [idempotency_keys.get(connection, "key_1", f"{seconds}") is not None for seconds in range(4)]

    assert await database.write(unit) == (2, [False, False, True, True])
