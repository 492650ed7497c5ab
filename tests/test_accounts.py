"""Several provider accounts in one queue: who gets a task, who passes it on, and that nothing is ever sent twice."""

from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.db.tables import attempts, provider_accounts, tasks
from app.dispatch import dispatch
from app.provider import Accounts
from app.twin import Faults, Rules
from tests.world import World, configure, open_world

PRO, MAX, FLUX_2 = "flux-kontext-pro", "flux-kontext-max", "flux-2-pro"
THREE: Mapping[str, Mapping[str, Any]] = {name: {"limits": {"account": 2}} for name in ("one", "two", "three")}
SMALL = Rules(megapixels=0.02, account_slots=2)


@asynccontextmanager
async def accounts(
    folder: Path, url: str, several: Mapping[str, Mapping[str, Any]] = THREE, **changes: Any
) -> AsyncGenerator[World]:
    async with open_world(folder, url, rules=changes.pop("rules", SMALL), several=several, **changes) as world:
        yield world


async def account_of(world: World, task_id: str) -> str:
    task = await world.use.db.read(tasks.get, task_id)
    assert task is not None
    return task.account_id.removeprefix("acct:")


def accepted(world: World) -> dict[str, int]:
    return {name: twin.ledger()["accepted"] for name, twin in world.twins.items()}


def assert_nothing_was_sent_twice(world: World, posted: int) -> None:
    digests = Counter(task["prompt_digest"] for twin in world.twins.values() for task in twin.ledger()["tasks"])
    assert set(digests.values()) == {1}
    assert len(digests) == posted


async def test_tasks_fill_the_accounts_in_order_and_no_account_beyond_its_slots(
    tmp_path: Path, database_url: str
) -> None:
    async with accounts(tmp_path, database_url) as world:
        posted = [await world.post(prompt=f"fox {number}") for number in range(20)]
        await world.work()
        first = [await account_of(world, task_id) for task_id in posted[:6]]
        await world.go_on(20)

        assert first == ["one", "one", "two", "two", "three", "three"]
        assert {(await world.task(task_id))["status"] for task_id in posted} == {"stored"}
        assert {name: twin.ledger()["max_in_flight"]["account"] for name, twin in world.twins.items()} == {
            "one": 2,
            "two": 2,
            "three": 2,
        }
        assert sum(len(twin.ledger()["refused"]) for twin in world.twins.values()) == 0
        assert_nothing_was_sent_twice(world, 20)


async def test_a_key_that_is_revoked_while_tasks_run_fails_none_and_sends_none_twice(
    tmp_path: Path, database_url: str
) -> None:
    async with accounts(tmp_path, database_url) as world:
        posted = [await world.post(prompt=f"fox {number}") for number in range(12)]
        await world.work()
        before = accepted(world)
        world.twins["two"].rules = SMALL.model_copy(update={"keys_revoked": True})
        await world.go_on(8)
        revoked = accepted(world)
        world.twins["two"].rules = SMALL
        await world.go_on(60, step=5)

        assert before == {"one": 2, "two": 2, "three": 2}
        assert revoked["two"] == 2
        assert {(await world.task(task_id))["status"] for task_id in posted} == {"stored"}
        assert_nothing_was_sent_twice(world, 12)


async def test_each_model_goes_to_an_account_that_serves_it(tmp_path: Path, database_url: str) -> None:
    several: dict[str, dict[str, Any]] = {"pro": {"models": frozenset({PRO})}, "rest": {"limits": {"account": 1}}}
    async with accounts(tmp_path, database_url, several, rules=Rules(megapixels=0.02)) as world:
        waiting = [await world.post(model=FLUX_2) for _ in range(3)]
        pro = [await world.post(model=PRO) for _ in range(3)]
        await world.work()
        states = [(await world.task(task_id))["status"] for task_id in (*waiting, *pro)]
        await world.go_on(15)

        assert states == ["submitted", "queued", "queued", "submitted", "submitted", "submitted"]
        assert {await account_of(world, task_id) for task_id in pro} == {"pro"}
        assert {await account_of(world, task_id) for task_id in waiting} == {"rest"}
        assert {(await world.task(task_id))["status"] for task_id in (*waiting, *pro)} == {"stored"}


async def test_a_model_that_no_account_serves_is_refused(tmp_path: Path, sqlite_url: str) -> None:
    async with accounts(tmp_path, sqlite_url, {"pro": {"models": frozenset({PRO})}}) as world:
        answer = await world.api.post("/v1/tasks", json={"prompt": "a fox", "model": MAX})

        assert answer.status_code == 422
        assert answer.json()["fields"] == {"model": "none of the configured accounts serves it"}


async def test_a_key_with_a_region_uses_only_accounts_of_that_region(tmp_path: Path, database_url: str) -> None:
    several: dict[str, dict[str, Any]] = {
        "one": {"limits": {"account": 2}},
        "two": {"limits": {"account": 2}, "region": "eu", "models": frozenset({PRO})},
    }
    async with accounts(tmp_path, database_url, several) as world:
        made = (await world.api.post("/v1/keys", json={"name": "eu", "region": "eu"})).json()
        headers = {"authorization": f"Bearer {made['key']}"}
        body = {"prompt": "a fox", "model": PRO}
        pinned = [(await world.outsider.post("/v1/tasks", json=body, headers=headers)).json()["id"] for _ in range(4)]
        free = [await world.post() for _ in range(2)]
        refused = await world.outsider.post("/v1/tasks", json={**body, "model": MAX}, headers=headers)
        await world.work()
        running = [(await world.task(task_id))["status"] for task_id in (*pinned, *free)]
        await world.go_on(12)
        changed = await world.api.patch(f"/v1/keys/{made['id']}", json={"region": None})

        assert running == ["submitted", "submitted", "queued", "queued", "submitted", "submitted"]
        assert {await account_of(world, task_id) for task_id in pinned} == {"two"}
        assert {await account_of(world, task_id) for task_id in free} == {"one"}
        assert {(await world.task(task_id))["status"] for task_id in (*pinned, *free)} == {"stored"}
        assert refused.status_code == 422
        assert "in the region eu, to which the API key is limited" in refused.json()["detail"]
        assert (made["region"], changed.json()["region"]) == ("eu", None)


async def test_a_paused_account_passes_its_unsent_tasks_to_the_next(tmp_path: Path, database_url: str) -> None:
    """Both slots of the first account are given away before it is known that the account is out of credits."""
    several = {name: THREE[name] for name in ("one", "two")}
    async with accounts(tmp_path, database_url, several) as world:
        world.twins["one"].rules = SMALL.model_copy(update={"credits": 0})
        posted = [await world.post(prompt=f"fox {number}") for number in range(2)]
        before = [await account_of(world, task_id) for task_id in posted]
        await world.work()
        refused = len(world.twins["one"].ledger()["refused"])
        await world.go_on(4)

        assert before == ["one", "one"]
        assert refused == 1
        assert {(await world.task(task_id))["status"] for task_id in posted} == {"stored"}
        assert accepted(world) == {"one": 0, "two": 2}


@pytest.mark.parametrize("fault", ["lose_answer_after", "lose_answer_before"])
async def test_a_task_whose_answer_was_lost_never_goes_to_another_account(
    tmp_path: Path, database_url: str, fault: str
) -> None:
    several = {name: THREE[name] for name in ("one", "two")}
    async with accounts(tmp_path, database_url, several) as world:
        world.twins["one"].faults = Faults(**{fault: 1, "drop_callback": 1})
        task_id = await world.post()
        await world.go_on(1800, step=60)
        task = await world.task(task_id)

        assert (task["status"], task["failure"]["code"]) == ("failed", "unknown_outcome")
        assert accepted(world) == {"one": int(fault == "lose_answer_after"), "two": 0}


async def test_a_task_that_failed_to_be_sent_tries_another_account(tmp_path: Path, database_url: str) -> None:
    several = {name: THREE[name] for name in ("one", "two")}
    async with accounts(tmp_path, database_url, several) as world:
        world.twins["one"].faults = Faults(submit_5xx=1)
        task_id = await world.post()
        await world.go_on(10)
        found = await world.use.db.read(attempts.of_task, task_id)

        assert (await world.task(task_id))["status"] == "stored"
        assert [attempt.account_id for attempt in found] == ["acct:one", "acct:two"]


async def test_a_429_below_the_limit_lowers_it_for_two_minutes(tmp_path: Path, database_url: str) -> None:
    """The provider grants two slots, and four are configured."""
    async with accounts(tmp_path, database_url, {"one": {"limits": {"account": 4}}}) as world:
        posted = [await world.post(prompt=f"fox {number}") for number in range(12)]
        await world.work()
        now = world.clock()
        (account,) = await world.use.db.read(provider_accounts.list_configured)
        await world.go_on(60)
        later = world.clock.at

        assert (account.limits["account"], account.allowed(now)) == (4, 2)
        assert account.allowed(later.replace(hour=later.hour + 1)) == 4
        assert {(await world.task(task_id))["status"] for task_id in posted} == {"stored"}
        assert_nothing_was_sent_twice(world, 12)


async def test_a_task_of_an_account_that_is_removed_goes_to_another_one(tmp_path: Path, database_url: str) -> None:
    async with accounts(tmp_path, database_url) as world:
        task_id = await world.post()
        before = await account_of(world, task_id)
        world.use = replace(world.use, accounts=Accounts(world.use.accounts.in_order[1:], named=True))
        await world.use.db.write(configure, world.use)
        await world.go_on(6)

        assert before == "one"
        assert (await world.task(task_id))["status"] == "stored"
        assert accepted(world) == {"one": 0, "two": 1, "three": 0}


async def test_a_process_leaves_a_task_of_an_account_that_only_others_have_to_them(
    tmp_path: Path, sqlite_url: str
) -> None:
    async with accounts(tmp_path, sqlite_url) as world:
        task_id = await world.post()
        older = replace(world.use, accounts=Accounts(world.use.accounts.in_order[1:], named=True))
        with pytest.raises(Exception, match="configured in other processes only"):
            await dispatch(older, task_id)
        await world.go_on(6)

        assert accepted(world) == {"one": 1, "two": 0, "three": 0}


async def test_accounts_are_listed_with_slots_pauses_and_balances(tmp_path: Path, sqlite_url: str) -> None:
    async with accounts(tmp_path, sqlite_url) as world:
        world.twins["two"].rules = SMALL.model_copy(update={"keys_revoked": True})
        for number in range(4):
            await world.post(prompt=f"fox {number}")
        await world.work()
        listed = (await world.api.get("/v1/accounts")).json()["accounts"]
        refused = await world.outsider.get("/v1/accounts")
        total = (await world.api.get("/v1/credits")).json()["credits"]
        notes = (await world.api.get("/readyz")).json()["notes"]
        metrics = (await world.api.get("/metrics")).text.splitlines()

        assert [(row["name"], row["slots"], row["slots_in_use"]) for row in listed] == [
            ("one", 2, 2),
            ("two", 2, 0),
            ("three", 2, 2),
        ]
        assert [row["credits"] for row in listed] == [9992, None, 9992]
        assert listed[1]["pause_reason"] == "the provider refuses the API key"
        assert "rejects the configured key" in listed[1]["credits_problem"]
        assert {line for line in metrics if line.startswith("fluxhook_account_credits{")} == {
            'fluxhook_account_credits{account="acct:one"} 9992.0',
            'fluxhook_account_credits{account="acct:three"} 9992.0',
        }
        assert refused.status_code == 401
        assert total == 2 * 9992
        assert [note.partition(" until")[0] for note in notes] == ["account two: no tasks are submitted"]
