"""Commit hooks: functions that run after a transaction has committed, and not after a rollback.

A unit of work registers them on its connection, as with `transaction.on_commit` of Django. The engine takes them when
the unit ends, and runs them after the commit.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from sqlalchemy import Connection

# The topics that listeners subscribe to.
JOBS, EVENTS = "jobs", "events"

_KEY = "commit_hooks"

Hook = Callable[[], object]


@dataclass(slots=True)
class CommitHooks:
    """What units of work have registered: functions to call, and topics whose listeners to call once."""

    functions: list[Hook] = field(default_factory=list)
    topics: set[str] = field(default_factory=set)

    def add(self, others: "CommitHooks") -> None:
        self.functions += others.functions
        self.topics |= others.topics

    def run(self) -> None:
        """Call the functions. The engine notifies the topics, once for all units of a transaction."""
        for function in self.functions:
            function()


def after_commit(connection: Connection, hook: Hook) -> None:
    """Call `hook` once this unit of work is durable, and never if it is rolled back. It must not fail or block."""
    _registered(connection).functions.append(hook)


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


class Listeners:
    """The listeners of one database, by topic."""

    def __init__(self) -> None:
        self._listeners: list[tuple[str, Callable[[], None]]] = []

    def add(self, listener: Callable[[], None], topic: str = JOBS) -> None:
        self._listeners.append((topic, listener))

    def notify(self, topics: Collection[str]) -> None:
        """Call the listeners of these topics."""
        for topic, listener in self._listeners:
            if topic in topics:
                listener()
