"""Lists of tasks with filters: every task once, and a bound on the rows that one page reads."""

from dataclasses import replace
from typing import Any

import pytest

from app.db import Connection
from app.db.engine.database import Database
from app.db.queries import task_list
from app.db.queries.task_list import TaskFilter
from app.rules.request import TaskRequest
from app.rules.task import Status
from tests.rows import plan_task

APPLICATION = "app_admin"


def put_tasks(connection: Connection) -> None:
    for number in range(60):
        plan_task(
            connection,
            f"{number:02}",
            status=Status.STORED if number % 2 else Status.FAILED,
            request=TaskRequest({"prompt": f"fox {number}"}),
            user="a" if number % 3 else "b",
            metadata={"batch": str(number % 5)},
        )


def all_pages(connection: Connection, task_filter: TaskFilter, limit: int) -> tuple[list[str], int]:
    """Follow the cursors to the end. Return the ids, and the number of pages."""
    found: list[str] = []
    pages = 0
    before: str | None = None
    while True:
        page = task_list.page(connection, replace(task_filter, before=before), limit)
        found += (task.id.removeprefix("task_") for task in page.tasks)
        pages, before = pages + 1, page.next_cursor
        if before is None:
            return found, pages


@pytest.mark.parametrize("application_id", [APPLICATION, None])
@pytest.mark.parametrize("limit", [1, 7, 100])
async def test_every_task_that_fits_is_listed_once_whatever_the_bounds_are(
    database: Database, monkeypatch: pytest.MonkeyPatch, limit: int, application_id: str | None
) -> None:
    monkeypatch.setattr(task_list, "_AT_ONCE", 8)
    monkeypatch.setattr(task_list, "MAX_EXAMINED", 16)
    filters: dict[TaskFilter, Any] = {
        TaskFilter(application_id, user="a"): lambda number: number % 3,
        TaskFilter(application_id, user="b", metadata=("batch:0",)): lambda number: number % 15 == 0,
        TaskFilter(application_id, prompt_contains="FOX 4"): lambda number: number // 10 == 4 or number == 4,
        TaskFilter(application_id, (Status.STORED,), user="a"): lambda number: number % 2 and number % 3,
        TaskFilter(application_id, (Status.STORED, Status.FAILED), prompt_contains="5"): lambda number: (
            "5" in str(number)
        ),
        TaskFilter(application_id, model="flux-kontext-pro", prompt_contains="9"): lambda number: "9" in str(number),
        TaskFilter(application_id, since="task_50", metadata=("batch:1",)): lambda number: number in {51, 56},
        TaskFilter(application_id, prompt_contains="cat"): lambda _number: False,
    }

    def unit(connection: Connection) -> None:
        put_tasks(connection)
        for task_filter, fits in filters.items():
            expected = [f"{number:02}" for number in reversed(range(60)) if fits(number)]
            found, _ = all_pages(connection, task_filter, limit)
            assert found == expected, task_filter

    await database.write(unit)


async def test_a_page_of_a_search_without_a_match_ends_at_the_bound(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_list, "_AT_ONCE", 8)
    monkeypatch.setattr(task_list, "MAX_EXAMINED", 16)

    def unit(connection: Connection) -> tuple[list[str], int]:
        put_tasks(connection)
        return all_pages(connection, TaskFilter(prompt_contains="cat"), 10)

    assert await database.write(unit) == ([], 4)  # 60 rows, 16 on a page
