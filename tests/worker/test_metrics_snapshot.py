"""The metrics snapshot: queue, slots and jobs at a scrape, and the cost of reading them."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from app import jobs
from app.db import Connection
from app.db.engine.database import open_database
from app.db.tables import provider_accounts
from app.jobs import NewJob, Step
from app.rules.budget import Budget
from app.rules.task import Status
from app.telemetry import metrics
from app.worker import metrics_snapshot
from tests.applications import application
from tests.databases import connection_to, listening_for
from tests.rows import START, claim, plan_task, put_account, put_sent_task, take_slot
from tests.world import World, open_world

MAX, PRO = "flux-kontext-max", "flux-kontext-pro"


async def scraped(world: World) -> dict[str, float]:
    """Every gauge by its name and labels, as exposed."""
    shown = metrics.exposition(await metrics_snapshot.read(world.use)).decode()
    lines = [line.rpartition(" ") for line in shown.splitlines() if line.startswith("fluxhook_")]
    return {name.removeprefix("fluxhook_"): float(value) for name, _, value in lines}


async def test_an_idle_service_shows_zeros(each_world: World) -> None:
    values = await scraped(each_world)

    assert values["database_up"] == 1
    assert {values[f'tasks{{status="{status}"}}'] for status in Status if not status.final} == {0}
    assert values[f'queue_depth{{account="account",model="{MAX}"}}'] == 0
    assert values[f'slots_in_use{{account="account",model="{MAX}"}}'] == 0
    assert values['slots_limit{account="account"}'] == 24
    assert values[f'model_slots_limit{{account="account",model="{MAX}"}}'] == 6
    assert {values[f'jobs_due{{step="{step}"}}'] for step in Step} == {0}
    assert values["jobs_held"] == 0


async def test_the_queue_counts_tasks_without_a_slot_and_has_the_age_of_the_oldest(each_world: World) -> None:
    def fill(connection: Connection) -> None:
        put_account(connection)
        put_sent_task(connection, "1")
        plan_task(connection, "2")
        plan_task(connection, "3", START - timedelta(seconds=90))
        plan_task(connection, "4", START - timedelta(seconds=40), model=MAX)
        for number, name in enumerate("12", start=1):
            take_slot(connection, name, number)

    await each_world.use.db.write(fill)
    values = await scraped(each_world)

    assert (values['tasks{status="queued"}'], values['tasks{status="submitting"}']) == (3, 1)
    assert values[f'slots_in_use{{account="account",model="{PRO}"}}'] == 2
    for model, age in ((PRO, 90), (MAX, 40)):
        assert values[f'queue_depth{{account="account",model="{model}"}}'] == 1
        assert values[f'queue_oldest_seconds{{account="account",model="{model}"}}'] == age


async def test_a_pause_is_shown_with_its_reason_until_it_ends(each_world: World) -> None:
    until = START + timedelta(seconds=30)
    await each_world.use.db.write(
        lambda connection: provider_accounts.pause(
            connection, "account", START, until, provider_accounts.OUT_OF_CREDITS, 1
        )
    )
    name = f'account_paused{{account="account",reason="{provider_accounts.OUT_OF_CREDITS}"}}'
    during = await scraped(each_world)
    each_world.clock.advance(31)
    after = await scraped(each_world)

    assert (during[name], after[name]) == (1, 0)


async def test_jobs_are_shown_with_the_age_of_the_oldest_due_one(each_world: World) -> None:
    due, parked = START - timedelta(seconds=20), START + timedelta(seconds=20)
    await each_world.use.db.write(
        lambda connection: jobs.enqueue(connection, [NewJob(Step.COLLECT, "a", due), NewJob(Step.COLLECT, "b", parked)])
    )
    values = await scraped(each_world)

    assert (values['jobs_waiting{step="collect"}'], values['jobs_due{step="collect"}']) == (2, 1)
    assert values['jobs_oldest_due_seconds{step="collect"}'] == 20


async def test_a_dead_letter_is_shown(each_world: World) -> None:
    def hold(connection: Connection) -> None:
        jobs.enqueue(connection, [NewJob(Step.COLLECT, "a", START)])
        jobs.dead_letter(connection, claim(connection, START, 1)[0], "Broken")

    await each_world.use.db.write(hold)

    assert (await scraped(each_world))["jobs_held"] == 1


async def test_a_feed_that_is_not_held_back_shows_no_delay(each_world: World) -> None:
    await each_world.post()
    values = await scraped(each_world)

    assert values["feed_delay_seconds"] == 0
    assert values["feed_oldest_transaction_seconds"] >= 0  # another application may use the server


async def test_an_open_transaction_that_holds_the_feed_back_is_shown(tmp_path: Path, postgres_url: str) -> None:
    async with open_world(tmp_path, postgres_url) as world, connection_to(postgres_url) as other:
        await other.execute(text("SELECT pg_current_xact_id()"))
        await world.post()
        world.clock.advance(45)
        values = await scraped(world)

    assert values["feed_delay_seconds"] == 45
    assert values["feed_oldest_transaction_seconds"] > 0


async def test_a_read_only_database_is_not_up(world: World, postgres_url: str) -> None:
    def refuse_writes(connection: Connection) -> None:
        connection.exec_driver_sql("SET LOCAL default_transaction_read_only = on").close()

    async with open_database(postgres_url) as standby:
        with listening_for(standby, "begin", refuse_writes):
            families = await metrics_snapshot.read(replace(world.use, db=standby))

    assert [family.samples[0].value for family in families if family.name == "fluxhook_database_up"] == [0]


async def test_the_used_part_of_each_budget_is_shown(each_world: World) -> None:
    each_world.use = replace(each_world.use, budget=Budget.parse("100/month"))
    shop = await application(each_world, "shop", budget=(5, "day"))
    await application(each_world, "idle", budget=(0, "day"))
    gateway: Any = each_world.network.hosts["gateway"]
    gateway.app.state.use = each_world.use
    await each_world.outsider.post("/v1/tasks", json={"prompt": "a fox"}, headers=shop)

    values = await scraped(each_world)

    assert {name: values[f'budget_used_ratio{{application="{name}"}}'] for name in ("app_shop", "app_idle", "*")} == {
        "app_shop": 0.8,
        "app_idle": 1.0,
        "*": 0.04,
    }
