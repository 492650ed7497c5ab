"""Submitted tasks in large numbers, and the callbacks that finish them."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from app import clock, ids, jobs
from app.db import Connection
from app.db.engine.database import Database
from app.db.tables.attempts import attempts
from app.db.tables.tasks import tasks
from app.errors import DatabaseUnavailable
from app.jobs import NewJob, Step, sqlite
from app.rules.task import Outcome, Status
from app.security.keyring import KeyRing
from app.security.sign import bfl_signature
from benchmarks.hmac_only import SECRET
from benchmarks.wire import request

_AT_ONCE = 1000  # rows per statement
# The account is not in the database, so a callback frees no slot and admits no task.
_ACCOUNT = "bfl:bench"
_INTERVAL = timedelta(milliseconds=1)
_TOOK = timedelta(seconds=6)  # the time that the provider took for the image
_POLL_AFTER = timedelta(hours=1)  # until the reconcile job of each task, which never runs here
_LOCKED_S = 60.0  # for one transaction, while the service writes to the same file
_FORGED = "sha256=" + "0" * 64


@dataclass(frozen=True, slots=True, repr=False)
class Callback:
    """The callback of one attempt: its path and body."""

    task_id: str
    attempt_id: str
    path: str
    body: bytes
    secret: str
    is_moderated: bool = False  # it reports a moderated result, so no image follows

    def signed(self) -> bytes:
        return _request(self.path, self.body, bfl_signature(self.secret, self.body))

    def forged(self) -> bytes:
        """Return a request with the valid address and a wrong signature."""
        return _request(self.path, self.body, _FORGED)

    def for_reference(self) -> bytes:
        """Return the request signed with the one secret of the reference servers."""
        return _request(self.path, self.body, bfl_signature(SECRET, self.body))

    def misaddressed(self) -> bytes:
        """Return a request with an invented token, as from a sender that does not know the address."""
        path = f"/callbacks/{self.attempt_id}/{ids.new_key()}"
        return _request(path, self.body, _FORGED)


async def seed(database: Database, keys: KeyRing, count: int, *, moderated: bool = False) -> list[Callback]:
    """Add this many accepted tasks to the database; return their callbacks in the order of their ids."""
    callbacks = imagine(keys, count, moderated=moderated)
    for begin in range(0, count, _AT_ONCE):
        record = _recorder(callbacks[begin : begin + _AT_ONCE], keys.newest)
        async with asyncio.timeout(_LOCKED_S):
            while not await _written(database, record):
                pass  # the service has the file locked; each try waits for 5 s
    return callbacks


async def _written(database: Database, record: Callable[[Connection], None]) -> bool:
    try:
        await database.write(record)
    except DatabaseUnavailable:
        return False
    return True


def imagine(keys: KeyRing, count: int, *, moderated: bool = False) -> list[Callback]:
    """Make callbacks of tasks that are not in the database, submitted 1 ms apart, the last one now.

    They are ordered by time, as a provider delivers them after an outage.
    """
    now = clock.utc_now()
    return [_callback(keys, now - _INTERVAL * before, moderated=moderated) for before in reversed(range(count))]


def _recorder(batch: list[Callback], signing_key_id: str) -> Callable[[Connection], None]:
    def record(connection: Connection) -> None:
        now = clock.utc_now()
        connection.execute(tasks.insert(), [_task(callback, now) for callback in batch])
        connection.execute(attempts.insert(), [_submission(callback, signing_key_id, now) for callback in batch])
        _leave_jobs(connection, batch, now + _POLL_AFTER)

    return record


def _leave_jobs(connection: Connection, batch: list[Callback], run_at: datetime) -> None:
    if connection.dialect.name == "postgresql":
        jobs.enqueue(connection, [NewJob(Step.RECONCILE, callback.task_id, run_at) for callback in batch])
        return
    # Equivalent to `jobs.enqueue` if the jobs do not exist yet; that would take most of the time of seeding.
    row = {"step": Step.RECONCILE, "state": "waiting", "run_at": run_at, "failures": 0}
    connection.execute(sqlite.jobs.insert(), [{**row, "task_id": callback.task_id} for callback in batch])


def _callback(keys: KeyRing, now: datetime, *, moderated: bool) -> Callback:
    attempt_id = ids.new_id("sub", now)
    proof = keys.callback_proof(attempt_id, keys.newest)
    return Callback(
        task_id=ids.new_id("task", now),
        attempt_id=attempt_id,
        path=f"/callbacks/{attempt_id}/{proof.token}",
        body=_moderated_body(now) if moderated else _body(now),
        secret=proof.secret,
        is_moderated=moderated,
    )


def _body(now: datetime) -> bytes:
    """Return about 600 bytes in the form that the provider's webhook guide documents."""
    digits = ids.new_worker_id()
    began, ended = (now - _TOOK).timestamp(), now.timestamp()
    expiry = quote((now + timedelta(minutes=10)).strftime("%Y-%m-%dT%H:%M:%SZ"))
    link = f"https://delivery-eu1.bfl.ai/results/{digits[:2]}/{digits}/sample.png?se={expiry}&sp=r&sv=2024-11-04&sr=b"
    message = {
        "id": _provider_id(digits),
        "status": "Ready",
        "result": {
            "sample": f"{link}&rsct=image/png&sig={ids.new_key()}%3D",
            "prompt": "the same square at dusk, wet cobblestones, warm light in the windows, an empty street",
            "seed": int(digits[:8], 16),
            "start_time": began,
            "end_time": ended,
            "duration": ended - began,
        },
    }
    return json.dumps(message).encode()


def _moderated_body(now: datetime) -> bytes:
    message = {
        "id": _provider_id(ids.new_worker_id()),
        "status": "Error",
        "error": "content_policy_violation",
        "message": "Content Moderated",
        "timestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return json.dumps(message).encode()


def _provider_id(digits: str) -> str:
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _request(path: str, body: bytes, signature: str) -> bytes:
    headers = {
        "user-agent": "python-httpx/0.28.1",
        "accept": "*/*",
        "accept-encoding": "gzip, deflate",
        "content-type": "application/json",
        "x-bfl-signature": signature,
    }
    return request("POST", path, headers, body)


def _task(callback: Callback, now: datetime) -> dict[str, Any]:
    return {
        "id": callback.task_id,
        "key_id": "key_admin",
        "application_id": "app_admin",
        "provider": "bfl",
        "account_id": _ACCOUNT,
        "model": "flux-kontext-pro",
        "status": Status.SUBMITTED,
        "request": {"prompt": "the same square at dusk", "images": []},
        "warnings": [],
        "priority": 0,
        "dispatch_after_at": now - _TOOK,
        "attempt_id": callback.attempt_id,
        "tries": 0,
        "cost": 4.0,
        "created_at": now - _TOOK,
        "submitting_at": now - _TOOK,
        "submitted_at": now - _TOOK,
    }


def _submission(callback: Callback, signing_key_id: str, now: datetime) -> dict[str, Any]:
    provider_id = json.loads(callback.body)["id"]
    return {
        "id": callback.attempt_id,
        "task_id": callback.task_id,
        "number": 1,
        "provider": "bfl",
        "signing_key_id": signing_key_id,
        "outcome": Outcome.ACCEPTED,
        "callback_requested": True,
        "provider_id": provider_id,
        "polling_url": f"https://api.eu1.bfl.ai/v1/get_result?id={provider_id}",
        "cost": 4.0,
        "planned_at": now - _TOOK,
        "sent_at": now - _TOOK,
        "answered_at": now - _TOOK,
    }
