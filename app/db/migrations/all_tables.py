"""Imports all tables, so that their metadata is complete for migrations and their tests."""

from app.db.engine.columns import metadata
from app.db.tables import (
    api_keys,
    attempts,
    deliveries,
    delivery_attempts,
    downloads,
    endpoints,
    erased_tasks,
    events,
    evidence,
    idempotency_keys,
    provider_accounts,
    results,
    spooled_results,
    tasks,
)

__all__ = [
    "api_keys",
    "attempts",
    "deliveries",
    "delivery_attempts",
    "downloads",
    "endpoints",
    "erased_tasks",
    "events",
    "evidence",
    "idempotency_keys",
    "metadata",
    "provider_accounts",
    "results",
    "spooled_results",
    "tasks",
]
