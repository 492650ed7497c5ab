"""The process is killed before or after each database access of a task, and restarted."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from app import jobs
from app.db.engine.database import Database
from tests.calling import small
from tests.databases import OneByOne
from tests.world import World

pytestmark = pytest.mark.proof

T = TypeVar("T")


class Killed(BaseException):
    """The process was killed."""


class Dying(OneByOne):
    """A database whose process is killed before or after one of its accesses."""

    def __init__(self, inner: Database, number: int, *, after: bool) -> None:
        self._inner = inner
        self._number = number
        self._after = after
        self.dialect = inner.dialect
        self.on_jobs = inner.on_jobs
        self.on_events = inner.on_events

    async def read(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return await self._around(self._inner.read, work, *args, **kwargs)

    async def write(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return await self._around(self._inner.write, work, *args, **kwargs)

    async def _around(self, access: Callable[..., Any], work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        self._number -= 1
        if self._number == 0 and not self._after:
            raise Killed
        result: T = await access(work, *args, **kwargs)
        if self._number == 0:
            raise Killed
        return result


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", range(1, 11))
async def test_a_process_killed_at_any_database_access_loses_no_task_and_pays_once(
    world: World, number: int, after: bool
) -> None:
    small(world)
    task_id = await world.post()
    living = world.use
    world.use = replace(living, db=Dying(living.db, number, after=after))
    with pytest.raises(Killed):
        await world.go_on(30)
    world.use = living
    await living.db.write(lambda connection: jobs.release(connection, living.worker_id))
    await world.go_on(40)
    await world.go_on(1000, 50)
    task, ledger = await world.task(task_id), world.ledger()

    if ledger["accepted"] == 0:  # killed after the commit that bytes may leave, before the first byte
        assert (task["failure"]["code"], task["failure"]["money_spent"]) == ("unknown_outcome", "maybe")
    else:
        assert (task["status"], ledger["accepted"], ledger["charged"]) == ("stored", 1, 4)
    assert await living.db.read(jobs.dead_letters) == []
