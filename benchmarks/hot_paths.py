"""The measured units of work: the statements that requests, workers and scrapers run most often."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import cycle
from typing import Any

from app import ids, jobs
from app.db import Connection
from app.db.engine.feed_order import START
from app.db.queries import admission, callbacks, newest_tasks, task_list, usage
from app.db.queries.admission import Opening
from app.db.queries.deliveries import DeliveryFilter, newest
from app.db.queries.task_list import TaskFilter
from app.db.tables import (
    api_keys,
    applications,
    attempts,
    deliveries,
    delivery_attempts,
    downloads,
    events,
    evidence,
    provider_accounts,
    results,
    spooled_results,
    task_updates,
    tasks,
)
from app.db.tables.attempts import NewAttempt
from app.db.tables.evidence import Evidence
from app.db.tables.provider_accounts import ConfiguredAccount
from app.db.tables.tasks import NewTask
from app.jobs import NewJob, Step
from app.reconcile import callbacks_are_missing
from app.rules.request import TaskRequest
from app.rules.task import Report, Said, Status, Witness
from app.security.verify import Verdict
from app.settle import settle
from app.web.pages.overview import read_overview
from app.web.task_response import read_task_view, task_views
from app.worker import metrics_snapshot, sweep

ACCOUNT, KEY = "bfl:0123456789ab", "key_0000000000000000000000000000000000000"
APPLICATION = applications.id_of_key(KEY)
PRO, MAX = "flux-kontext-pro", "flux-kontext-max"
GROUP = 16  # callbacks settled in one batch
_QUEUED, _DUE, _WORKER = 300, 64, "1" * 32
_SHOWN, _PAGE = 24, 20
_ANY = Opening((None,), frozenset(), excluded=True)
_DEEP, _MINUTE = timedelta(days=90), timedelta(minutes=1)

Path = Callable[[Connection], Any]


class Undone(Exception):
    """Rolls back a measured unit of work."""


def reads(known: Sequence[str], now: datetime) -> Mapping[str, Path]:
    """Return the units that only read; `known` has ids of tasks of all ages, which are used in turn."""
    task_ids = cycle(known)
    middle = known[len(known) // 2]
    return {
        "task by id": lambda connection: read_task_view(connection, next(task_ids), None),
        "timeline": lambda connection: _timeline(connection, next(task_ids)),
        "list": _page,
        "list, deep": lambda connection: _page(connection, before=middle),
        "list stored": lambda connection: _page(connection, statuses=(Status.STORED,)),
        "list failed": lambda connection: _page(connection, statuses=(Status.FAILED,)),
        "list queued": lambda connection: _page(connection, statuses=(Status.QUEUED,)),
        "list of two states": lambda connection: _page(connection, statuses=(Status.STORED, Status.FAILED)),
        "list of a period": lambda connection: _page(connection, since=middle, before=middle),
        "list of a model": lambda connection: _page(connection, model=MAX),
        "list failed of a model": lambda connection: _page(connection, statuses=(Status.FAILED,), model=MAX),
        "list of an unknown model": lambda connection: _page(connection, model="unknown"),
        "dashboard": _dashboard,
        "overview of an hour": lambda connection: read_overview(connection, None, "hour", now),
        "overview of a day": lambda connection: read_overview(connection, None, "day", now),
        "overview of a week": lambda connection: read_overview(connection, None, "week", now),
        "overview of an application": lambda connection: read_overview(connection, APPLICATION, "day", now),
        "metrics": lambda connection: metrics_snapshot.families(connection, now),
        "readiness": lambda connection: _notes(connection, now),
        "how long tasks took": lambda connection: newest_tasks.latest_durations(connection, PRO, 20),
        "is a provider's id known": lambda connection: attempts.is_known(connection, "no such id"),
        "tasks by ring key": attempts.count_in_flight_by_signing_key,
        "key by digest": lambda connection: api_keys.by_digest(connection, "no such digest"),
        "next due job": jobs.next_due,
        "the next tasks": lambda connection: admission.next_tasks(connection, now, [_ANY], 24),
        "what has no job": sweep.orphaned,
        "deliveries": lambda connection: newest(connection, DeliveryFilter(), limit=_PAGE),
        "deliveries of a key": lambda connection: _deliveries(connection, owner=APPLICATION),
        "deliveries that wait": lambda connection: _deliveries(connection, state=deliveries.DeliveryState.WAITING),
        "deliveries that failed": lambda connection: _deliveries(connection, state=deliveries.DeliveryState.FAILED),
        "deliveries of a task": lambda connection: _deliveries(connection, task_id=next(task_ids)),
        "callbacks": _callbacks,
        "callbacks, deep": lambda connection: _callbacks(connection, before=ids.first_at("ev", now - _DEEP)),
        "callbacks that are signed": lambda connection: _callbacks(connection, verdict=Verdict.SIGNED),
        "callbacks that are forged": lambda connection: _callbacks(connection, verdict=Verdict.FORGED),
        "callbacks of a task": lambda connection: _callbacks(connection, task_id=next(task_ids)),
        "usage of a minute": lambda connection: usage.between(connection, now - timedelta(minutes=2), now - _MINUTE),
        "events, first page": lambda connection: events.following(connection, START, 100),
        "events, the end": events.head,
        "events, the start": events.beginning,
    }


def writes(now: datetime) -> Mapping[str, Path]:
    """Return the units that write; each is rolled back."""
    return {
        "claim of jobs": lambda connection: _undo(jobs.claim(connection, _WORKER, now, 24)),
        "upkeep": lambda connection: _undo(sweep.maintain(connection, now, [])),
    }


def prepare(connection: Connection, now: datetime, groups: int) -> Iterator[list[Evidence]]:
    """Add queued tasks, due jobs and submitted tasks; return the callbacks of the latter in batches of `GROUP`."""
    provider_accounts.put(connection, ConfiguredAccount(ACCOUNT, "bfl", {"account": 24, MAX: 6}))
    for _ in range(_QUEUED):
        _task(connection, now)
    due = [NewJob(Step.COLLECT, _submitted(connection, now)[0], now - timedelta(minutes=1)) for _ in range(_DUE)]
    jobs.enqueue(connection, due)
    arrived = [_callback(_submitted(connection, now)[1], now) for _ in range(groups * GROUP)]
    return iter([arrived[first : first + GROUP] for first in range(0, len(arrived), GROUP)])


def take(connection: Connection, batch: Sequence[Evidence]) -> None:
    settle(connection, batch, poll_after=timedelta(minutes=1))


def clean(connection: Connection, since: datetime) -> None:
    """Delete the prepared rows and all later ones: everything since this time, and all jobs."""
    for table, prefix in (("tasks", "task"), ("submissions", "sub"), ("evidence", "ev")):
        connection.exec_driver_sql(f"DELETE FROM {table} WHERE id >= '{ids.first_at(prefix, since)}'")  # noqa: S608
    for table in ("jobs", *(["pgqueuer"] if connection.dialect.name == "postgresql" else [])):
        connection.exec_driver_sql(f"DELETE FROM {table}")  # noqa: S608


def _undo(_result: object) -> None:
    raise Undone


def _page(connection: Connection, **filters: Any) -> object:
    return task_views(connection, task_list.page(connection, TaskFilter(**filters), _PAGE).tasks)


def _dashboard(connection: Connection) -> object:
    return results.of_tasks(connection, [task.id for task in task_list.page(connection, TaskFilter(), _SHOWN).tasks])


def _timeline(connection: Connection, task_id: str) -> object:
    return (
        tasks.get(connection, task_id),
        attempts.of_task(connection, task_id),
        evidence.of_task(connection, task_id),
        downloads.of_task(connection, task_id),
        delivery_attempts.summaries_of_task(connection, task_id),
    )


def _notes(connection: Connection, now: datetime) -> object:
    return (
        callbacks_are_missing(connection),
        provider_accounts.paused(connection, now),
        spooled_results.spool_holders(connection),
    )


def _deliveries(connection: Connection, **filters: Any) -> object:
    return newest(connection, DeliveryFilter(**filters), limit=_PAGE)


def _callbacks(connection: Connection, before: str | None = None, **filters: Any) -> object:
    return callbacks.newest(connection, callbacks.CallbackFilter(**filters), limit=_PAGE, before=before)


def _task(connection: Connection, now: datetime) -> tuple[str, str]:
    """Insert a queued task and its unsent attempt; return their ids."""
    task_id, attempt_id = ids.new_id("task", now), ids.new_id("sub", now)
    task = NewTask(
        id=task_id,
        key_id=KEY,
        application_id=APPLICATION,
        provider="bfl",
        account_id=ACCOUNT,
        model=PRO,
        request=_REQUEST,
        warnings=(),
        priority=0,
        deadline_at=None,
        dispatch_after_at=now,
        attempt_id=attempt_id,
        created_at=now,
    )
    tasks.insert(connection, task)
    attempts.plan(connection, NewAttempt(attempt_id, task_id, 1, "bfl", "ring", now))
    return task_id, attempt_id


_REQUEST = TaskRequest(
    {
        "prompt": "a red fox",
        "seed": None,
        "aspect_ratio": "1:1",
        "output_format": "png",
        "prompt_upsampling": False,
        "safety_tolerance": 2,
    }
)


def _submitted(connection: Connection, now: datetime) -> tuple[str, str]:
    """Insert a submitted task and its attempt; return their ids."""
    task_id, attempt_id = _task(connection, now)
    for status in (Status.SUBMITTING, Status.SUBMITTED):
        task_updates.move(connection, task_id, status, now)
    attempts.mark_sent(connection, attempt_id, now, callback_requested=True)
    return task_id, attempt_id


def _callback(attempt_id: str, now: datetime) -> Evidence:
    link = f"https://delivery-eu1.bfl.ai/results/{attempt_id}/sample.png?se=2026-01-01T12%3A10%3A02Z"
    report = Report(Said.READY, f"provider-{attempt_id}", sample_url=link, sample_expires_at=now, seed=1)
    body = f'{{"id": "{attempt_id}", "status": "Ready", "result": {{"sample": "{link}"}}}}'.encode()
    return Evidence(attempt_id, Witness.CALLBACK, Verdict.SIGNED, True, report, body, now)
