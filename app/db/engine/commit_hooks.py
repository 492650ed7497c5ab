"""Commit hooks: functions that run after a transaction has committed, or after it has not.

A unit of work registers them on its connection, as with `transaction.on_commit` of Django. The engine takes them when
the unit ends, and runs them after the commit, or discards them after a rollback.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

# The topics that listeners subscribe to.
JOBS, EVENTS = "jobs", "events"

_KEY, _CLAIMER = "commit_hooks", "claimer"

Hook = Callable[[], object]


@dataclass(slots=True)
class CommitHooks:
    """What units of work have registered: functions to call, and topics whose listeners to call once."""

    functions: list[Hook] = field(default_factory=list)
    rollbacks: list[Hook] = field(default_factory=list)
    topics: set[str] = field(default_factory=set)

    def add(self, others: "CommitHooks") -> None:
        self.functions += others.functions
        self.rollbacks += others.rollbacks
        self.topics |= others.topics

    def run(self) -> None:
        """Call the functions. The engine notifies the topics, once for all units of a transaction."""
        self.rollbacks.clear()
        for function in self.functions:
            function()

    def discard(self) -> None:
        """Call what takes back the effects of a unit outside the database: its transaction may not be durable."""
        rollbacks, self.rollbacks = self.rollbacks, []
        for function in rollbacks:
            function()


def after_commit(connection: Connection, hook: Hook) -> None:
    """Call `hook` once this unit of work is durable, and never if it is rolled back. It must not fail or block."""
    _registered(connection).functions.append(hook)


def after_rollback(connection: Connection, hook: Hook) -> None:
    """Call `hook` if this unit of work is rolled back, or if its commit gets no answer. It must not fail or block."""
    _registered(connection).rollbacks.append(hook)


def notify_after_commit(connection: Connection, topic: str = JOBS) -> None:
    """Call the listeners of `topic` once this unit of work is durable, and never if it is rolled back."""
    _registered(connection).topics.add(topic)


def take_hooks(connection: Connection) -> CommitHooks:
    """Remove and return what units on this connection have registered since the last call."""
    hooks: CommitHooks = connection.info.pop(_KEY, None) or CommitHooks()
    return hooks


def _registered(connection: Connection) -> CommitHooks:
    hooks: CommitHooks = connection.info.setdefault(_KEY, CommitHooks())
    return hooks


def claimer_of(connection: Connection) -> Any:
    """Return what claims jobs of this process in the transactions that enqueue them; None without a worker."""
    return connection.info.get(_CLAIMER)


class Listeners:
    """The listeners of one database, by topic."""

    def __init__(self) -> None:
        self.claimer: object | None = None  # see `claimer_of`
        self._listeners: list[tuple[str, Callable[[], None]]] = []

    def begin(self, connection: Connection) -> CommitHooks:
        """Prepare a connection for a unit of work. Return what it will have registered."""
        hooks = CommitHooks()
        connection.info.update({_KEY: hooks, _CLAIMER: self.claimer})
        return hooks

    def add(self, listener: Callable[[], None], topic: str = JOBS) -> None:
        self._listeners.append((topic, listener))

    def notify(self, topics: Collection[str]) -> None:
        """Call the listeners of these topics."""
        for topic, listener in self._listeners:
            if topic in topics:
                listener()
