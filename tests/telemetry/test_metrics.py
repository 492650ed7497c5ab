"""Metrics: each effect is counted once, and scrapes need an API key."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import httpx
import pytest

from app.db import Connection
from app.db.engine.database import Database
from app.errors import Unavailable
from app.telemetry import metrics
from app.transitions import moves
from app.twin import Faults
from tests.calling import submitted
from tests.rows import START, plan_task, put_account
from tests.web.documents import problem
from tests.world import World

T = TypeVar("T")
NAMES = (
    "fluxhook_assets_lost_total",
    "fluxhook_tasks_repaired_by_poll_total",
    "fluxhook_orphaned_tasks_recovered_total",
)


def counted(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(f"fluxhook_{name}", labels) or 0.0


class Rise:
    """The increase of each of these series since its creation."""

    def __init__(self, *wanted: tuple[str, dict[str, str]]) -> None:
        self._before = [(name, labels, counted(name, **labels)) for name, labels in wanted]

    @property
    def now(self) -> list[float]:
        return [counted(name, **labels) - before for name, labels, before in self._before]


async def test_every_counter_is_exposed_from_the_start_with_a_description(world: World) -> None:
    answer = await world.api.get("/metrics")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    for name in NAMES:
        assert f"\n{name} " in answer.text
        assert f"# HELP {name} " in answer.text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("images_kept_aside_total", "results_spooled_total"),
        ("tasks_unscheduled_total", "orphaned_tasks_recovered_total"),
        ("callbacks_turned_away_total", "callbacks_shed_total"),
        ("forgeries_not_kept_total", "forged_callbacks_dropped_total"),
    ],
)
def test_a_renamed_counter_has_the_same_value_under_its_deprecated_name(old: str, new: str) -> None:
    getattr(metrics, new.removesuffix("_total")).inc(3)

    assert metrics.REGISTRY.get_sample_value(f"fluxhook_{old}") == counted(new) >= 3
    assert f"# HELP fluxhook_{old} Deprecated: use `fluxhook_{new}`." in metrics.exposition().decode()


async def test_the_metrics_require_a_key(world: World) -> None:
    problem(await world.outsider.get("/metrics"), 401, "unauthorized")


@pytest.mark.parametrize("name", NAMES)
def test_a_counter_has_no_label_with_user_input(name: str) -> None:
    lines = [line for line in metrics.exposition().decode().splitlines() if line.startswith(name)]

    assert len(lines) == 1
    assert "{" not in lines[0]


async def test_a_stored_task_is_counted_once_in_each_metric(each_world: World) -> None:
    rise = Rise(
        ("tasks_ended_total", {"status": "stored", "failure": ""}),
        ("callbacks_total", {"verdict": "shared_secret", "status": "200"}),
        ("deadline_margin_seconds_count", {}),
        ("provider_request_seconds_count", {"request": "submit", "said": "pending"}),
        ("job_attempt_seconds_count", {"step": "collect", "outcome": "done"}),
        ("http_request_seconds_count", {"method": "POST", "route": "/v1/tasks", "status": "202"}),
    )
    caller = await submitted(each_world, faults=Faults())
    await each_world.go_on(5)

    assert (await each_world.task(caller.task_id))["status"] == "stored"
    assert rise.now == [1, 1, 1, 1, 1, 1]


async def test_the_deadline_margin_is_the_remaining_lifetime_of_the_link(world: World) -> None:
    rise = Rise(("deadline_margin_seconds_sum", {}))
    caller = await submitted(world, faults=Faults())
    await world.go_on(5)
    link = (await world.timeline(caller.task_id, "evidence"))[-1]

    assert link["witness"] == "callback"
    assert rise.now == [pytest.approx(600, abs=5)]


async def test_callbacks_are_counted_by_verdict_and_status(world: World) -> None:
    rise = Rise(
        ("callbacks_total", {"verdict": "forged", "status": "401"}),
        ("callbacks_total", {"verdict": "unproven", "status": "200"}),
        ("callbacks_total", {"verdict": "unchecked", "status": "404"}),
        ("callbacks_total", {"verdict": "unchecked", "status": "413"}),
    )
    caller = await submitted(world)
    await caller.call(b"{}", {"x-bfl-signature": "wrong"})
    await caller.call(b"{}", {})
    await caller.call(b"{}", token="x" * 43)
    await caller.call(b"x" * (1024 * 1024 + 1))

    assert rise.now == [1, 1, 1, 1]


async def test_a_rolled_back_final_state_is_not_counted(database: Database) -> None:
    rise = Rise(("tasks_ended_total", {"status": "cancelled", "failure": ""}))

    def cancel(connection: Connection, name: str, *, fails: bool) -> None:
        moves.cancel(connection, plan_task(connection, name), START)
        if fails:
            raise KeyError

    await database.write(put_account)
    with pytest.raises(KeyError):
        await database.write(lambda connection: cancel(connection, "1", fails=True))
    undone = rise.now
    await database.write(lambda connection: cancel(connection, "2", fails=False))

    assert (undone, rise.now) == ([0], [1])


async def test_an_unknown_path_creates_no_label(world: World) -> None:
    rise = Rise(("http_request_seconds_count", {"method": "other", "route": "no such route", "status": "404"}))
    await world.outsider.request("BREW", "/pot/a-private-wish")

    assert rise.now == [1]
    assert "a-private-wish" not in (await world.api.get("/metrics")).text


class Away:
    """A database that does not answer."""

    async def read(self, work: Callable[..., T], *_args: Any, **_kwargs: Any) -> T:
        raise Unavailable(f"the database cannot be reached at the moment: {work}")


def without_database(world: World) -> None:
    transport: Any = world.network.hosts["gateway"]
    transport.app.state.use = replace(world.use, db=Away())  # type: ignore[arg-type]


async def test_counters_are_exposed_while_the_database_is_unavailable(world: World) -> None:
    before = await world.api.get("/metrics")
    without_database(world)
    during = await world.api.get("/metrics")

    assert "\nfluxhook_database_up 1.0" in before.text
    assert "\nfluxhook_database_up 0.0" in during.text
    assert "\nfluxhook_assets_lost_total " in during.text
    assert "\nfluxhook_queue_depth" not in during.text


async def test_an_unknown_key_cannot_read_metrics_while_the_database_is_unavailable(world: World) -> None:
    without_database(world)

    problem(await world.api.get("/metrics"), 503, "unavailable")


async def test_a_process_without_an_api_answers_scrapes_too() -> None:
    with metrics.scraped("127.0.0.1", 0) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as scraper:
            answer = await scraper.get("/metrics")

    assert answer.status_code == 200
    assert "\nfluxhook_assets_lost_total " in answer.text
