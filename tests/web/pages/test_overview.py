"""The overview: its counts, its chart, and what an application sees of it."""

import re
from pathlib import Path
from typing import Any

import pytest

from app.db import Connection
from app.db.engine.database import open_database
from app.db.queries import overview, retention
from app.db.queries.overview import MAX_READ
from app.rules.budget import Budget, Period
from app.rules.task import Status
from app.twin import Faults
from app.web.pages.overview import read_overview
from tests.browsing import HTML, look, signed_in
from tests.calling import submitted
from tests.databases import listening_for
from tests.db.queries.test_queue import steps_of
from tests.rows import START, plan_task
from tests.web.pages.test_task_page import seen
from tests.web.routes.test_deliveries import key_for
from tests.world import World, open_world


async def test_an_empty_overview_says_that_nothing_happened(world: World) -> None:
    words = seen((await signed_in(world, "/")).text)

    assert "No task has ended in this period." in words
    assert "Nothing waits for a slot." in words
    assert re.search(r"images lost\s+0\b", words)


async def test_the_overview_counts_what_is_open_and_what_ended(each_world: World) -> None:
    world = each_world
    await world.post()
    await world.post(prompt="unsafe result")
    await world.go_on(8)
    caller = await submitted(world)
    await caller.call(caller.ready(), proof={"x-bfl-signature": "sha256=" + "0" * 64})

    page = await signed_in(world, "/?period=hour")
    words = seen(page.text)

    assert "1 stored and 1 failed" in words
    assert "content moderated 1" in words
    assert re.search(r"forged 1\b", words)
    assert re.search(r"submitted\s+1\b", words)
    assert "1 of 24" in words
    assert re.search(r'<rect class="good"[^>]*height="(?!0)', page.text)


async def test_a_poll_that_replaced_a_callback_is_counted(world: World) -> None:
    world.twin.faults = Faults(drop_callback=1)
    await world.post()
    await world.go_on(60)

    assert re.search(r"repaired by a poll\s+1\b", seen((await signed_in(world, "/")).text))


async def test_an_application_sees_its_own_counts_and_no_account(world: World) -> None:
    await world.post()
    await world.go_on(8)
    await key_for(world, "shop")

    words = seen((await signed_in(world, "/", key="shop's key")).text)

    assert "0 stored and 0 failed" in words
    assert "Slots in use" not in words


@pytest.mark.parametrize(("application_id", "most"), [(None, 10), ("app_admin", 5)], ids=["of all", "of one"])
async def test_each_queued_task_is_counted_once(sqlite_url: str, application_id: str | None, most: int) -> None:
    def fill(connection: Connection, numbers: range) -> None:
        for number in numbers:
            plan_task(connection, f"{number:05}")

    def steps(connection: Connection) -> int:
        counted, view = steps_of(connection, lambda: read_overview(connection, application_id, "day", START))
        assert view.open[Status.QUEUED] > MAX_READ  # more are not read to add up their costs
        return counted

    async with open_database(sqlite_url) as database:
        await database.write(fill, range(MAX_READ + 1))
        short = await database.read(steps)
        await database.write(fill, range(MAX_READ + 1, MAX_READ + 1001))
        long = await database.read(steps)

    assert long - short < most * 1000


async def test_the_page_of_an_application_counts_its_queue_once(each_world: World) -> None:
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append(f"{statement} {parameters}")

    await key_for(each_world, "shop")
    with listening_for(each_world.use.db, "before_cursor_execute", note):
        await signed_in(each_world, "/", key="shop's key")

    unlimited = [statement for statement in sent if "count(" in statement and "LIMIT" not in statement]
    assert len([statement for statement in unlimited if "'queued'" in statement]) == 1


async def test_the_reports_of_an_application_are_found_without_reading_its_tasks(sqlite_url: str) -> None:
    def fill(connection: Connection) -> None:
        for number in range(1000):
            plan_task(connection, f"{number:04}", status=Status.STORED)

    async with open_database(sqlite_url) as database:
        await database.write(fill)
        steps, _ = await database.read(
            lambda connection: steps_of(connection, lambda: overview.reports(connection, "app_admin", START))
        )

    assert steps < 1000


async def test_an_application_reads_that_reports_are_cut_off_if_those_of_others_fill_what_is_read(
    each_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await each_world.post()
    await each_world.go_on(8)
    await key_for(each_world, "shop")
    before = seen((await signed_in(each_world, "/?period=hour", key="shop's key")).text)
    monkeypatch.setattr("app.db.queries.overview.MAX_READ", 1)
    after = seen((await signed_in(each_world, "/?period=hour", key="shop's key")).text)

    assert "reports" not in before
    assert "of the latest 2,000 reports" in after


async def test_the_newest_images_are_shown(each_world: World) -> None:
    world = each_world
    with_image = await world.post(prompt=HTML)
    failed = await world.post(prompt="an unsafe result")
    removed = await world.post(prompt="an old image")
    await world.go_on(8)
    await world.use.db.write(retention.mark_images, [removed], world.clock.at)
    page = await signed_in(world, "/")
    await key_for(world, "shop")
    of_other = await signed_in(world, "/", key="shop's key")

    assert re.findall(r'src="/tasks/(task_\w+)/thumbnail"', page.text) == [with_image]
    assert "<script>alert" not in page.text
    assert failed not in page.text
    assert "/thumbnail" not in of_other.text


async def test_the_overview_is_small_and_its_periods_are_links(world: World) -> None:
    await signed_in(world, "/")

    for period in ("hour", "day", "week"):
        page = await look(world, f"/?period={period}")
        assert len(page.text.encode()) < 100_000
        assert f'href="/?period={period}" aria-current="true"' in page.text


async def test_the_budget_is_shown_with_what_is_spent(tmp_path: Path, sqlite_url: str) -> None:
    async with open_world(tmp_path, sqlite_url, budget=Budget(100, Period.MONTH)) as world:
        await world.post()
        await world.go_on(8)

        assert re.search(r"credits, budget of the month\s+4 of 100", seen((await signed_in(world, "/")).text))
