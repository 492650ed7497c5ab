"""Query plans: a scenario that sends the service's statements, and a check of how the database would run them.

The statements are not listed here: they are captured on their way to the database and then explained.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from app import clock, ids
from app.db.engine.database import Database
from app.db.queries import queue, retention, task_list
from app.db.queries.deliveries import DeliveryFilter, failed_between
from app.db.queries.retention import Group
from app.db.queries.task_list import TaskFilter
from app.db.tables import deliveries, endpoints, task_updates
from app.rules.retention import DataClass
from app.rules.task import Status
from app.transitions.retention import end, end_endpoint, end_late, next_endpoints
from app.twin import Faults
from app.worker.sweep import sweep
from tests.databases import listening_for
from tests.rows import newest_tasks
from tests.world import World

GROWING = {"tasks", "submissions", "evidence", "events", "results", "deliveries", "delivery_attempts", "downloads"}
GROWING |= {"task_tags"}
GROWN_TASKS = 20_000  # enough for PostgreSQL to prefer an index to a sequential scan

_SOON = 100.0  # in PostgreSQL's cost units; a scan of a whole table costs thousands

Sent = dict[str, Any]  # the first parameters of each statement, by its text


async def run_scenario(world: World) -> None:
    """Run the scenario: tasks that end in every way, requests of clients, maintenance."""
    hook: dict[str, Any] = {"webhook_url": "https://app.example.com/hooks/1", "webhook_events": ["submitted"]}
    hook |= {"user": "customer-17", "metadata": {"order": "7"}}
    await world.post(**hook)
    await world.work()
    await world.go_on(10)
    for faults in (Faults(unsigned_callback=1), Faults(lose_answer_after=1, unsigned_callback=1), Faults(submit_429=1)):
        world.twin.faults = faults
        await world.post(**hook)
        await world.work()
        await world.go_on(12, 3)
    world.twin.faults = Faults()
    queued = [await world.post() for _ in range(8)]
    await world.api.post(f"/v1/tasks/{queued[-1]}/cancel")
    await send_client_requests(world, queued[-1])
    assert (await world.api.delete(f"/v1/tasks/{queued[-1]}")).status_code == 204
    await world.work()
    await sweep(world.use)
    await world.go_on(30, 10)
    await world.use.db.write(send_rare_statements)


async def send_client_requests(world: World, task_id: str) -> None:
    filters = ("", "&status=stored", "&status=queued", "&model=flux-kontext-max", "&status=failed&model=none")
    pages = [f"/v1/tasks?limit=20{filter_}&cursor={task_id}" for filter_ in filters]
    pages += [f"/v1/tasks?limit=20{filter_}" for filter_ in filters]
    tagged = "/v1/tasks?user=customer-17&metadata=order:7"
    pages += [tagged, f"{tagged}&status=stored&status=failed&model=flux-kontext-pro&cursor={task_id}"]
    pages += [f"/v1/tasks?prompt_contains=fox{filter_}" for filter_ in filters]
    pages += [f"/v1/tasks/{task_id}", f"/v1/tasks/{task_id}/timeline", "/metrics", "/readyz", "/"]
    pages += ["/v1/tasks?status=stored&status=failed", "/v1/tasks?created_after=2026-01-01T00:00:00Z&status=queued"]
    pages += ["/v1/deliveries", f"/v1/deliveries?task_id={task_id}", "/v1/endpoints", "/v1/jobs/held"]
    pages += ["/v1/events?after=start", f"/v1/events?task_id={task_id}", "/v1/events?kind=task.stored&after=start"]
    pages += [f"/v1/callbacks{query}" for query in ("", "?verdict=signed", "?verdict=forged", "?verdict=unproven")]
    pages += [f"/v1/callbacks?task_id={task_id}", f"/v1/callbacks?task_id={task_id}&verdict=forged"]
    pages += [f"/v1/callbacks?cursor={ids.first_at('ev', clock.utc_now() - timedelta(days=9))}"]
    pages += ["/v1/usage", f"/v1/usage?from={(clock.utc_now() - timedelta(days=1)).isoformat()[:19]}Z"]
    for page in pages:
        assert (await world.api.get(page)).status_code == 200, page


def send_rare_statements(connection: Connection) -> None:
    """Send the statements that the rest of the scenario does not reach."""
    now = clock.utc_now()
    queued = newest_tasks(connection, 3, statuses=(Status.QUEUED,))
    queue.positions(connection, [task.id for task in queued])
    task_updates.reopen(connection, "task_none", now)
    states = (Status.STORED, Status.FAILED)
    search = TaskFilter("app_admin", prompt_contains="fox", before=ids.first_at("task", now))
    for found in (search, replace(search, statuses=states), replace(search, model="flux-kontext-max")):
        task_list.page(connection, found, 3)
    task_list.page(connection, TaskFilter("app_admin", states, user="customer-17", metadata=("order:7",)), 3)
    endpoint = endpoints.newest(connection, limit=1, before=None, state=None, owner=None)[0]
    deliveries.due(connection, endpoint.id, now, 4)
    deliveries.next_due(connection, endpoint.id)
    deliveries.end_waiting(connection, endpoint.id, "gone", now)
    failed_between(connection, now - timedelta(minutes=1), now, DeliveryFilter(), 10)
    deliveries.restart(connection, ["dlv_none"], now)
    for data in DataClass:
        group = Group(data, now + timedelta(days=1), (), excluded=True)
        retention.due(connection, group)
        retention.due(connection, replace(group, application_ids=("app_admin",), excluded=False))
        end(connection, group, "app_admin", now, 2)
    end_late(connection, {}, now, 100)
    next_endpoints(connection, 10)
    end_endpoint(connection, endpoint.id, now - timedelta(days=3650), now + timedelta(days=2))


@contextmanager
def captured_statements(database: Database) -> Iterator[Sent]:
    """Collect the statements that are sent to the database within the block."""
    sent: Sent = {}

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        sent.setdefault(statement, parameters[0] if many else parameters)

    with listening_for(database, "before_cursor_execute", note):
        yield sent


async def full_scans(database: Database, sent: Sent) -> list[tuple[str, str]]:
    """Return the statements that read a growing table from end to end, each with the node of its plan."""
    judge = _judge_sqlite if database.dialect.name == "sqlite" else _judge_postgres
    explainable = {
        statement: parameters
        for statement, parameters in sent.items()
        if re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)", statement)
    }

    def explain(connection: Connection) -> list[tuple[str, str]]:
        return [
            (statement, node)
            for statement, parameters in explainable.items()
            for node in judge(connection, statement, parameters)
        ]

    return await database.write(explain)


def _judge_sqlite(connection: Connection, statement: str, parameters: Any) -> list[str]:
    rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
    scanned = [match for row in rows if (match := re.match(r"SCAN (\w+)( USING)?", row[3])) and match[1] in GROWING]
    if "LIMIT" in statement and re.search(r"WHERE(?! 1 = 1| events\.kind != \?)", statement) is None:
        # The first rows in the order of an index, of the whole table or of all events but the feed's floor.
        scanned = [match for match in scanned if match[2] is None]
    return [match.string for match in scanned]


def _judge_postgres(connection: Connection, statement: str, parameters: Any) -> list[str]:
    plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
    (whole,) = json.loads(plan) if isinstance(plan, str) else plan
    return [
        f"{node['Node Type']} of {node['Relation Name']}"
        for node, cost in _nodes(whole["Plan"], whole["Plan"]["Total Cost"])
        if node.get("Relation Name") in GROWING and _reads_all(node, cost)
    ]


def _nodes(node: dict[str, Any], cost: float) -> Iterator[tuple[dict[str, Any], float]]:
    """Yield the nodes of a plan, each with its maximum expected cost: a LIMIT above it may end it early."""
    cost = node["Total Cost"] if node["Node Type"] == "Limit" else cost
    yield node, cost
    for inner in node.get("Plans", ()):
        yield from _nodes(inner, cost)


def _reads_all(node: dict[str, Any], cost: float) -> bool:
    """Return whether a node reads its table, or an index of it, from end to end.

    Following an index until enough rows match is accepted if PostgreSQL expects that soon, because most rows match.
    """
    follows_index = "Index" in node["Node Type"] and "Index Cond" not in node and "Filter" in node
    return node["Node Type"].endswith("Seq Scan") or (follows_index and cost > _SOON)


def rows_passed(connection: Connection, statement: str, parameters: Any) -> int:
    """Run a statement on PostgreSQL, and return how many rows it read and did not use."""
    plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).scalar_one()
    (whole,) = json.loads(plan) if isinstance(plan, str) else plan
    nodes = [node for node, _ in _nodes(whole["Plan"], 0)]
    return sum(node.get("Rows Removed by Filter", 0) * node["Actual Loops"] for node in nodes)
