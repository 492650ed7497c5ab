"""Commit hooks: functions that run after a transaction has committed, and not after a rollback.

A unit of work registers them on its connection; the engine takes them and runs them after the commit.
"""

from collections.abc import Callable, Collection

from sqlalchemy import Connection

# The topics that listeners subscribe to.
JOBS, EVENTS = "jobs", "events"

_TOPICS = "notify_after_commit"
_HOOKS = "after_commit"

Hook = Callable[[], object]


class CommitHooks:
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


def notify_after_commit(connection: Connection, topic: str = JOBS) -> None:
    """Call the listeners of `topic` once this unit of work is durable, and never if it is rolled back."""
    connection.info.setdefault(_TOPICS, set()).add(topic)


def take_topics(connection: Connection) -> set[str]:
    """Remove and return the topics that units on this connection have registered since the last call."""
    topics: set[str] = connection.info.pop(_TOPICS, set())
    return topics


def after_commit(connection: Connection, hook: Hook) -> None:
    """Call `hook` once this unit of work is durable, and never if it is rolled back. It must not fail or block."""
    connection.info.setdefault(_HOOKS, []).append(hook)


def take_hooks(connection: Connection) -> list[Hook]:
    """Remove and return the hooks that units on this connection have registered since the last call."""
    hooks: list[Hook] = connection.info.pop(_HOOKS, [])
    return hooks
