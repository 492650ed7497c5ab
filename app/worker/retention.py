"""Retention: what was said of tasks that ended long ago is deleted, a little at each sweep.

Tasks, attempts, results and images stay. Each batch is a transaction of its own, short enough that nobody waits for
it; whoever dies between two of them leaves the rest to the next sweep.
"""

from collections import Counter

from app.db.queries import retention
from app.resources import Resources
from app.telemetry import logs

_BATCH = 1000  # rows that are looked at in one transaction
_AT_ONCE = (
    10_000  # rows of a kind that one sweep deletes at most: a backlog of millions takes hours, and disturbs nobody
)

_KINDS = {
    "evidence": retention.forget_evidence,
    "downloads": retention.forget_downloads,
    "deliveries": retention.forget_deliveries,
}

log = logs.get("prune")


async def prune(use: Resources, batch: int = _BATCH, at_once: int = _AT_ONCE) -> None:
    """Delete some of what need not be kept any more; nothing where everything is."""
    if use.evidence_kept is None:
        return
    ended_before, deleted = use.now() - use.evidence_kept, Counter[str]()
    for kind, forget in _KINDS.items():
        on: str | None = ""
        while on is not None and deleted[kind] < at_once and not use.stopping.is_set():
            looked = await use.db.write(
                lambda connection, forget=forget, on=on: forget(connection, ended_before, on, batch)  # type: ignore[misc]
            )
            deleted[kind] += looked.deleted
            on = looked.on
    if deleted.total():
        log.info("pruned", **deleted)
