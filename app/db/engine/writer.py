"""The one thread that writes to SQLite: it commits what has its turn, and tells those who wait for it."""

import threading

from sqlalchemy import Connection, Engine

from app.db.engine.commit_hooks import CommitHooks, take_hooks, take_notified
from app.db.engine.turns import Turns
from app.db.engine.units import OUTAGE, Batch, CallerUnit, Undone, Unit, require_transaction
from app.errors import Unavailable


class Writer:
    """`add` hands it a unit, from any thread. What was added before `close` is written before that returns."""

    def __init__(self, engine: Engine, signals: CommitHooks) -> None:
        self._engine = engine
        self._signals = signals
        self._turns = Turns()
        self._kept: Connection | None = None  # to ask the pool for it takes as long as a statement
        self._thread = threading.Thread(target=self._write_until_closed, name="sqlite-writer", daemon=True)
        self._thread.start()

    def add(self, unit: Batch | CallerUnit) -> None:
        self._turns.add(unit)

    def close(self) -> None:
        self._turns.close()
        self._thread.join()

    def _write_until_closed(self) -> None:
        for units in self._turns:
            self._write(units)
        self._let_go()

    def _write(self, units: list[Unit]) -> None:
        alone = len(units) == 1
        failure = self._transact(units, alone=alone)
        if failure is not None and alone and not isinstance(failure.__cause__, OUTAGE):
            failure = self._transact(units, alone=False)  # so that whoever is at fault is found
        if failure is not None:
            for unit in units:
                unit.fail(failure)
            return
        for unit in units:
            unit.release()
        self._signals.send(set[str]().union(*[unit.asked for unit in units]))

    def _transact(self, units: list[Unit], *, alone: bool) -> Unavailable | None:
        """None when all of it is durable, or none of it because its only unit wants it so.

        Where a group comes meanwhile, the units after the one that runs are taken out of `units`, for the next turn.
        """
        try:
            connection = self._kept = self._kept or self._engine.connect()
            with connection.begin():
                for forget in (take_notified, take_hooks):  # what a group left that was undone
                    forget(connection)
                for done, unit in enumerate(units, 1):
                    unit.run(connection, alone=alone)
                    require_transaction(connection)  # else those before it are undone too, and must not be told else
                    if self._turns.has_group() and units[done:]:
                        self._turns.put_back(units[done:])
                        del units[done:]
        except Undone:
            return None
        except Exception as error:  # noqa: BLE001 - whatever it was, the callers must learn of it
            failure = Unavailable("the database could not commit")
            failure.__cause__ = error
            self._let_go()
            return failure
        return None

    def _let_go(self) -> None:
        """Give the connection back to the pool, which puts it in order."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None
