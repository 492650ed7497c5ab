from datetime import timedelta

from app.db import Connection
from app.db.engine.database import Database
from app.db.tables import idempotency_keys
from app.db.tables.idempotency_keys import Remembered, StoredAnswer
from tests.rows import START

KEY = ("key_1", "k")


async def test_a_key_is_taken_only_once_by_each_api_key(database: Database) -> None:
    def unit(connection: Connection) -> list[bool]:
        keys = [KEY, KEY, ("key_2", "k"), ("key_1", "K")]
        return [idempotency_keys.begin(connection, *key, "d", START) for key in keys]

    assert await database.write(unit) == [True, False, True, True]


async def test_a_request_has_no_answer_until_one_is_stored(database: Database) -> None:
    answer = StoredAnswer("task_1", {"id": "task_1", "status": "queued", "warnings": []})

    def unit(connection: Connection) -> list[Remembered | None]:
        before = idempotency_keys.get(connection, *KEY)
        idempotency_keys.begin(connection, *KEY, "d", START)
        begun = idempotency_keys.get(connection, *KEY)
        idempotency_keys.answer(connection, *KEY, START, answer)
        return [before, begun, idempotency_keys.get(connection, *KEY)]

    assert await database.write(unit) == [
        None,
        Remembered("d", None, START),
        Remembered("d", answer, START),
    ]


def test_an_answer_is_stored_as_the_task_and_after_its_erasure_as_the_id_alone() -> None:
    task = {"id": "task_1", "status": "queued"}

    for answer, stored in ((StoredAnswer("task_1", task), task), (StoredAnswer("task_1"), {"id": "task_1"})):
        assert answer.as_json() == stored
        assert StoredAnswer.of_json(stored) == answer


async def test_only_the_request_that_has_the_key_may_answer_or_remove_it(database: Database) -> None:
    def unit(connection: Connection) -> tuple[bool, Remembered | None]:
        idempotency_keys.begin(connection, *KEY, "d", START)
        other_began_at = START + timedelta(seconds=1)
        idempotency_keys.remove(connection, *KEY, other_began_at)
        answered = idempotency_keys.answer(connection, *KEY, other_began_at, StoredAnswer("task_1"))
        return answered, idempotency_keys.get(connection, *KEY)

    assert await database.write(unit) == (False, Remembered("d", None, START))


async def test_only_keys_from_before_the_given_time_are_pruned(database: Database) -> None:
    def unit(connection: Connection) -> tuple[int, list[bool]]:
        for seconds in range(4):
            idempotency_keys.begin(connection, "key_1", f"{seconds}", "d", START + timedelta(seconds=seconds))
        forgotten = idempotency_keys.prune(connection, START + timedelta(seconds=2))
        return forgotten, [idempotency_keys.get(connection, "key_1", f"{seconds}") is not None for seconds in range(4)]

    assert await database.write(unit) == (2, [False, False, True, True])
