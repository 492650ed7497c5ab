"""The ledger as JSON: what the twin accepted, charged and sent. It contains no API keys and no prompts."""

import hashlib
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from app.twin.accounts import Accounts
from app.twin.task import CallbackAttempt, Outcome, Task


def snapshot(
    tasks: Iterable[Task], accounts: Accounts, refused: Iterable[dict[str, Any]], now: datetime
) -> dict[str, Any]:
    """Return the ledger. `charged` is in credits; instants are ISO 8601 in UTC."""
    entries = [_task(task, now) for task in tasks]
    models = ("flux-kontext-pro", "flux-kontext-max", "account")
    return {
        "accepted": len(entries),
        "charged": accounts.charged,
        "max_in_flight": dict.fromkeys(models, 0) | accounts.max_in_flight,
        "tasks": entries,
        "refused": list(refused),
    }


def _task(task: Task, now: datetime) -> dict[str, Any]:
    return {
        "id": task.id,
        "account": task.account,
        "model": task.model,
        "status": (task.outcome_at(now) or Outcome.NEVER).value,
        "cost": task.charged,
        "webhook_url": task.webhook_url,
        "prompt_digest": hashlib.sha256(task.prompt.encode()).hexdigest(),
        "inputs": list(task.input_digests),
        "accepted_at": task.accepted_at.isoformat(),
        "ready_at": _instant(task.ready_at),
        "link_ends_at": _instant(task.link_ends_at),
        "sha256": task.sha256,
        "faults": sorted(task.faults),
        "answer_lost": task.answer_lost,
        "callbacks_withheld": task.callbacks_withheld,
        "downloads": task.downloads,
        "callbacks": [_attempt(attempt) for attempt in task.callbacks],
    }


def _attempt(attempt: CallbackAttempt) -> dict[str, Any]:
    return {
        "at": attempt.at.isoformat(),
        "kind": attempt.kind,
        "attempt": attempt.attempt,
        "answered": attempt.answered,
        "error": attempt.error,
    }


def _instant(value: datetime | None) -> str | None:
    return value.isoformat() if value else None
