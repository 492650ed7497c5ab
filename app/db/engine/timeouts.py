"""How long a process waits for a PostgreSQL server."""

from dataclasses import dataclass
from typing import Self

# A migration may rewrite a table, or wait for another process that migrates.
_MIGRATION_FACTOR = 10
# The server ends a statement that takes too long, and says so. If it says nothing for so much longer, it is gone.
_MARGIN_S = 5.0
# A busy process may take as long between two statements of a transaction.
_MIN_IDLE_S = 5.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits in seconds.

    `statement_s` is that of one statement or commit, `connect_s` that of opening a connection or of waiting for a free
    one.
    """

    statement_s: float = 30.0
    connect_s: float = 10.0

    @property
    def answer_s(self) -> float:
        """How long to wait for the answer to a statement or a commit."""
        return self.statement_s + min(_MARGIN_S, self.statement_s)

    @property
    def begin_s(self) -> float:
        """How long to wait for what a working server does at once, as the begin of a transaction.

        It is shorter than the wait for a free connection: the units that wait then get the places of silent ones.
        """
        return self.connect_s / 2

    @property
    def idle_s(self) -> float:
        """How long a transaction may wait for its next statement.

        It is shorter than the time of a statement, so that those that wait for the locks of a lost transaction succeed.
        """
        return max(_MIN_IDLE_S, self.statement_s / 2)

    def for_migrations(self) -> Self:
        return type(self)(self.statement_s * _MIGRATION_FACTOR, self.connect_s)


TIMEOUTS = Timeouts()
