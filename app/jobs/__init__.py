"""Jobs: "do step S of task T, not before time X". The task's row is the truth; any job may run twice.

A job is enqueued in the transaction that needs it, so it is there exactly when its reason is.
"""

from app.jobs.embedded import (
    Job,
    Step,
    claim,
    enqueue,
    finish,
    held,
    hold,
    next_due,
    overdue,
    release_all,
    retry,
    scheduled,
)

__all__ = [
    "Job",
    "Step",
    "claim",
    "enqueue",
    "finish",
    "held",
    "hold",
    "next_due",
    "overdue",
    "release_all",
    "retry",
    "scheduled",
]
