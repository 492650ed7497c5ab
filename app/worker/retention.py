"""Retention: delete the evidence, downloads and deliveries of tasks that ended long ago, in part at each sweep.

Tasks, attempts, results and images stay. Each batch is a short transaction of its own, so that others hardly wait. If
the process stops between two batches, the next sweep continues.
"""

from collections import Counter

from app.db.queries import retention
from app.resources import Resources
from app.telemetry import logs

_BATCH = 1000  # rows to examine in one transaction
_MAX_DELETED = 10_000  # rows of one kind in one sweep; a backlog of millions takes hours, but does not disturb others

_KINDS = {
    "evidence": retention.prune_evidence,
    "downloads": retention.prune_downloads,
    "deliveries": retention.prune_deliveries,
}

log = logs.get("retention")


async def prune(use: Resources, batch: int = _BATCH, at_once: int = _MAX_DELETED) -> None:
    """Delete expired rows, up to about `at_once` of each kind. Does nothing if evidence is kept without limit."""
    if use.evidence_retention is None:
        return
    ended_before, deleted = use.now() - use.evidence_retention, Counter[str]()
    for kind, delete in _KINDS.items():
        start: str | None = ""
        while start is not None and deleted[kind] < at_once and not use.stopping.is_set():
            step = await use.db.write(delete, ended_before, start, batch)
            deleted[kind] += step.deleted
            start = step.next_after
    if deleted.total():
        log.info("pruned", **deleted)
