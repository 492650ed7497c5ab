"""How a unit of work says what is to happen once it is committed, and how an engine keeps that promise."""

from collections.abc import Callable, Collection

from sqlalchemy import Connection

# What a signal may be about.
JOBS, EVENTS = "jobs", "events"

_ASKED = "signal_after_commit"
_LEFT = "after_commit"

Effect = Callable[[], object]


class CommitHooks:
    """The listeners of one database."""

    def __init__(self) -> None:
        self._listeners: list[tuple[str, Callable[[], None]]] = []

    def add(self, listener: Callable[[], None], about: str = JOBS) -> None:
        self._listeners.append((about, listener))

    def send(self, asked: Collection[str]) -> None:
        for about, listener in self._listeners:
            if about in asked:
                listener()


def notify_after_commit(connection: Connection, about: str = JOBS) -> None:
    connection.info.setdefault(_ASKED, set()).add(about)


def take_notified(connection: Connection) -> set[str]:
    """What units on this connection asked a signal about since the last look."""
    asked: set[str] = connection.info.pop(_ASKED, set())
    return asked


def after_commit(connection: Connection, effect: Effect) -> None:
    """Have `effect` called once this unit is durable; never for one that was undone. It must not fail or wait."""
    connection.info.setdefault(_LEFT, []).append(effect)


def take_hooks(connection: Connection) -> list[Effect]:
    """What a unit on this connection left for the time after its commit, since the last look."""
    left: list[Effect] = connection.info.pop(_LEFT, [])
    return left
