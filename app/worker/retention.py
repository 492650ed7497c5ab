"""Retention: delete what is kept no longer of tasks that ended long ago, in part at each sweep.

Each class of data has a retention of its own, that of the settings or that of the task's application. Each batch is a
short transaction, so that others hardly wait. If the process stops between two batches, the next sweep continues.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import datetime

from app.db.queries import retention
from app.db.queries.retention import Group
from app.resources import Resources
from app.rules.retention import DataClass
from app.telemetry import logs
from app.transitions.retention import end, end_endpoint, end_late, next_endpoints

_BATCH = 100  # tasks to examine in one transaction
# Tasks of one class in one sweep; a backlog of millions takes hours, but does not disturb others.
_MAX_EXAMINED = 10_000
_ENDPOINTS = 50  # endpoints to look at in one sweep
_LATE = 200  # rows of evidence to look at in one sweep

Own = Mapping[str, Mapping[str, int | None]]  # the `retention_days` of applications, by id

log = logs.get("retention")


async def prune(use: Resources, batch: int = _BATCH, at_once: int = _MAX_EXAMINED) -> None:
    """Delete what is kept no longer, of about `at_once` tasks for each class. Does nothing if all is kept."""
    own = await use.db.read(retention.own_retentions)
    deleted = Counter[str]()
    for data in DataClass:
        left = at_once
        for group in groups(use, data, own):
            for application_id in await use.db.read(retention.due, group):
                is_last = False
                while not is_last and left > 0 and not use.stopping.is_set():
                    done = await use.db.write(end, group, application_id, use.now(), batch)
                    deleted[data] += done.deleted
                    left, is_last = left - done.examined, done.is_last
    deleted[DataClass.EVIDENCE] += await _prune_late(use, own)
    deleted["deliveries"] += await _visit_endpoints(use, own)
    if deleted.total():
        log.info("pruned", **{name: count for name, count in deleted.items() if count})


def groups(use: Resources, data: DataClass, own: Own) -> list[Group]:
    """Return the applications that keep this class of data for a limited time, those with the same time together."""
    now, bounds = use.now(), bounds_of(use, data, own)
    by_bound = defaultdict(list)
    for application_id, bound in bounds.items():
        by_bound[bound].append(application_id)
    found = [
        Group(data, bound, tuple(sorted(of_bound)), excluded=False)
        for bound, of_bound in by_bound.items()
        if bound is not None
    ]
    default = use.retention.of(data)
    if default is not None:
        found.append(Group(data, now - default, tuple(sorted(bounds)), excluded=True))
    return found


def bounds_of(use: Resources, data: DataClass, own: Own) -> dict[str, datetime | None]:
    """Return for each application with a retention of its own before when a task must have ended to be due."""
    now = use.now()
    periods = {application_id: use.retention.of(data, days) for application_id, days in own.items() if data in days}
    return {application_id: None if period is None else now - period for application_id, period in periods.items()}


async def _visit_endpoints(use: Resources, own: Own) -> int:
    """Delete old deliveries of the next endpoints, and endpoints that nothing names. Return how many rows."""
    default = use.retention.of(DataClass.EVIDENCE)
    usual, bounds = None if default is None else use.now() - default, bounds_of(use, DataClass.EVIDENCE, own)
    deleted = 0
    for endpoint in await use.db.write(next_endpoints, _ENDPOINTS):
        ended_before = bounds.get(endpoint.application_id, usual)
        has_old = ended_before is not None and (
            (endpoint.paused_since_due is not None and endpoint.paused_since_due < ended_before)
            or await use.db.read(retention.has_old, endpoint.endpoint_id, ended_before)
        )
        if endpoint.is_empty or has_old:
            deleted += await use.db.write(end_endpoint, endpoint.endpoint_id, ended_before, use.now())
    return deleted


async def _prune_late(use: Resources, own: Own) -> int:
    """Delete evidence that arrived after its retention had ended, as a very late callback does."""
    default = use.retention.of(DataClass.EVIDENCE)
    bounds = bounds_of(use, DataClass.EVIDENCE, own)
    if default is None and not any(bounds.values()):
        return 0
    return await use.db.write(end_late, bounds, None if default is None else use.now() - default, _LATE)
