"""The dead letters over HTTP."""

import pytest

from app import jobs
from app.db import Connection
from app.jobs import NewJob, Step
from tests.rows import claim, stored_jobs
from tests.web.documents import problem
from tests.world import World


async def make_dead_letters(world: World, *task_ids: str) -> None:
    def unit(connection: Connection) -> None:
        jobs.enqueue(connection, [NewJob(Step.COLLECT, task_id, world.clock()) for task_id in task_ids])
        for job in claim(connection, world.clock()):
            jobs.dead_letter(connection, job, "KeyError")

    await world.use.db.write(unit)


async def states(world: World) -> dict[str, str]:
    return {job.task_id: job.state for job in await world.use.db.read(stored_jobs)}


async def test_dead_letters_are_listed_with_their_error(each_world: World) -> None:
    await make_dead_letters(each_world, "task_1")
    (found,) = (await each_world.api.get("/v1/jobs/held")).json()["jobs"]

    assert {**found, "id": 0} == {"id": 0, "step": "collect", "task_id": "task_1", "failures": 1, "error": "KeyError"}


async def test_one_dead_letter_runs_again_by_its_id(each_world: World) -> None:
    await make_dead_letters(each_world, "task_1", "task_2")
    first = (await each_world.api.get("/v1/jobs/held")).json()["jobs"][0]
    answer = await each_world.api.post(f"/v1/jobs/held/{first['id']}/requeue")

    assert answer.json() == {"requeued": 1}
    assert sorted((await states(each_world)).values()) == ["held", "waiting"]


async def test_all_dead_letters_run_again_at_once(each_world: World) -> None:
    await make_dead_letters(each_world, "task_1", "task_2")
    answer = await each_world.api.post("/v1/jobs/held/requeue")

    assert answer.json() == {"requeued": 2}
    assert set((await states(each_world)).values()) == {"waiting"}


async def test_a_thousand_and_one_dead_letters_all_count_and_run_again(each_world: World) -> None:
    task_ids = [f"task_{number}" for number in range(1001)]
    of_engine = {"sqlite": "jobs SET state = 'held'", "postgresql": "pgqueuer SET status = 'failed'"}

    def unit(connection: Connection) -> None:
        jobs.enqueue(connection, [NewJob(Step.COLLECT, task_id, each_world.clock()) for task_id in task_ids])
        connection.exec_driver_sql(f"UPDATE {of_engine[connection.dialect.name]}")

    await each_world.use.db.write(unit)
    scraped = (await each_world.api.get("/metrics")).text
    answer = await each_world.api.post("/v1/jobs/held/requeue")

    assert "fluxhook_jobs_held 1001.0" in scraped
    assert answer.json() == {"requeued": 1001}


@pytest.mark.parametrize("number", ["1", "9223372036854775807"])
async def test_a_job_that_is_not_a_dead_letter_is_not_found(each_world: World, number: str) -> None:
    problem(await each_world.api.post(f"/v1/jobs/held/{number}/requeue"), 404)


@pytest.mark.parametrize("number", ["0", "-1", "9223372036854775808", "x"])
async def test_an_invalid_job_id_is_refused(world: World, number: str) -> None:
    answer = await world.api.post(f"/v1/jobs/held/{number}/requeue")

    assert answer.status_code in {404, 422}
    problem(answer, answer.status_code)


async def test_dead_letters_require_a_key(world: World) -> None:
    problem(await world.outsider.get("/v1/jobs/held"), 401)
    problem(await world.outsider.post("/v1/jobs/held/requeue"), 401)
