"""How a unit of work says "tell the listeners once this is committed", and how an engine keeps that promise."""

from collections.abc import Callable, Collection

from sqlalchemy import Connection

# What a signal may be about.
JOBS, EVENTS = "jobs", "events"

_ASKED = "signal_after_commit"


class Signals:
    """The listeners of one database."""

    def __init__(self) -> None:
        self._listeners: list[tuple[str, Callable[[], None]]] = []

    def add(self, listener: Callable[[], None], about: str = JOBS) -> None:
        self._listeners.append((about, listener))

    def send(self, asked: Collection[str]) -> None:
        for about, listener in self._listeners:
            if about in asked:
                listener()


def signal_after_commit(connection: Connection, about: str = JOBS) -> None:
    connection.info.setdefault(_ASKED, set()).add(about)


def was_asked(connection: Connection) -> set[str]:
    """What units on this connection asked a signal about since the last look."""
    asked: set[str] = connection.info.pop(_ASKED, set())
    return asked
