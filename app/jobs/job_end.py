"""The end of a job, recorded in the last transaction of its step: one transaction less than to record it afterwards.

A step that records nothing at its end leaves it to the worker.
"""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection

from app.db.engine.commit_hooks import after_commit
from app.jobs.contract import Engine, Job

T = TypeVar("T")
P = ParamSpec("P")


class JobEnd(Protocol):
    """What a step is given to record that its job has ended."""

    def after(self, work: Callable[Concatenate[Connection, P], T]) -> Callable[Concatenate[Connection, P], T]:
        """Return `work`, followed by the end of the job as the last statement of the transaction.

        For the last transaction of a step: what fails after it is not repeated.
        """
        ...


class EndOf:
    """The end of a claimed job. `is_recorded`: a transaction that is durable has ended it."""

    def __init__(self, job: Job, engine: Callable[[Connection], Engine]) -> None:
        self.is_recorded = False
        self._job = job
        self._engine = engine

    def after(self, work: Callable[Concatenate[Connection, P], T]) -> Callable[Concatenate[Connection, P], T]:
        @wraps(work)
        def work_and_end(connection: Connection, /, *args: P.args, **kwargs: P.kwargs) -> T:
            result = work(connection, *args, **kwargs)
            # Last, so that nothing else is waited for while the row of the job is locked.
            self._engine(connection).finish(connection, self._job)
            after_commit(connection, self._note)
            return result

        return work_and_end

    def _note(self) -> None:
        self.is_recorded = True


class _NoJob:
    def after(self, work: Callable[Concatenate[Connection, P], T]) -> Callable[Concatenate[Connection, P], T]:
        return work


NO_JOB: JobEnd = _NoJob()  # for a step that is called without a job
