"""All tables of `record` in one place, for whoever needs the whole: migrations and their test."""

from app.record import (
    accounts,
    attempts,
    deliveries,
    downloads,
    endpoints,
    erased,
    events,
    evidence,
    idempotency,
    kept_aside,
    keys,
    results,
    submissions,
    tasks,
)
from app.record.columns import metadata

__all__ = [
    "accounts",
    "attempts",
    "deliveries",
    "downloads",
    "endpoints",
    "erased",
    "events",
    "evidence",
    "idempotency",
    "kept_aside",
    "keys",
    "metadata",
    "results",
    "submissions",
    "tasks",
]
