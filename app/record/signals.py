"""How a unit of work says "tell the listeners once this is committed", and how an engine keeps that promise."""

from collections.abc import Callable

from sqlalchemy import Connection

_ASKED = "signal_after_commit"


class Signals:
    """The listeners of one database."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[], None]] = []

    def add(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def send(self) -> None:
        for listener in self._listeners:
            listener()


def signal_after_commit(connection: Connection) -> None:
    connection.info[_ASKED] = True


def was_asked(connection: Connection) -> bool:
    """Whether a unit on this connection asked for a signal since the last look."""
    return bool(connection.info.pop(_ASKED, False))
