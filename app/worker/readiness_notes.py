"""Conditions that an operator should know and that do not make the service unready, for `/readyz` and `doctor`."""

from datetime import datetime, timedelta
from typing import NamedTuple

from app.collect import downloads_failing
from app.db import Connection
from app.db.engine.server_clock import describe, is_wrong
from app.db.queries import budget_use
from app.db.queries.feed_delay import oldest_writer
from app.db.tables import events, provider_accounts, spooled_results
from app.reconcile import CALLBACKS_MISSING, callbacks_are_missing
from app.rules.budget import WARN_AT, Budget

_MAX_SHOWN = 10  # budgets
_MAX_OPEN_S = 30  # Fluxhook's own transactions end long before


class Note(NamedTuple):
    """One condition. `unhealthy`: it does not pass by itself, so `doctor` reports it as unhealthy.

    `details` are for `doctor` only, because anyone may read `/readyz`.
    """

    subject: str
    text: str
    unhealthy: bool
    details: str = ""


def read(
    connection: Connection,
    now: datetime,
    *,
    callbacks_expected: bool,
    clock_ahead: timedelta = timedelta(),
    budget: Budget | None = None,
) -> list[Note]:
    """Return the conditions that hold now.

    `callbacks_expected`: a public URL is configured. `clock_ahead`: of this machine, relative to the database.
    `budget`: of all applications together.
    """
    notes = []
    if is_wrong(clock_ahead):
        text = f"{describe(clock_ahead)}, which is used instead: synchronise the clocks, as with NTP"
        notes.append(Note("clock", text, unhealthy=True))
    if callbacks_expected and callbacks_are_missing(connection):
        notes.append(Note("callbacks", CALLBACKS_MISSING, unhealthy=True))
    notes += _feed(connection, now)
    failing = downloads_failing(connection)
    if failing is not None:
        notes.append(Note("downloads", failing, unhealthy=True))
    configured = len(provider_accounts.list_configured(connection))
    for account in provider_accounts.paused(connection, now):
        which = f"account {account.name}: " if configured > 1 else ""
        text = f"{which}no tasks are submitted until {account.paused_until_at}: {account.pause_reason}"
        # A full account is normal. For any other reason the provider refuses every task, and an operator has to act.
        refuses_all = account.pause_reason != provider_accounts.NO_FREE_SLOT
        notes.append(Note("account", text, unhealthy=refuses_all))
    notes += _budgets(connection, budget, now)
    for holder in spooled_results.spool_holders(connection):
        text = (
            f"the machine with instance_id {holder.instance} spools images until the store accepts them: "
            f"{holder.images}, the oldest since {holder.since}"
        )
        notes.append(Note("spool", text, unhealthy=True))
    return notes


def _budgets(connection: Connection, of_service: Budget | None, now: datetime) -> list[Note]:
    """Return a note if budgets are nearly used. A budget that is used up stops tasks, so an operator should act."""
    used = [use for use in budget_use.current(connection, of_service, now) if use.budget.nearly_used(use.spent)]
    if not used:
        return []
    text = f"of {len(used)} {'budget' if len(used) == 1 else 'budgets'}, {WARN_AT:.0%} or more is used"
    shown = [f"{use.name or 'the service'}: {use.spent:g} of {use.budget}" for use in used[:_MAX_SHOWN]]
    more = ["..."] if len(used) > _MAX_SHOWN else []
    return [Note("budget", text, unhealthy=used[0].ratio >= 1, details=", ".join(shown + more))]


def _feed(connection: Connection, now: datetime) -> list[Note]:
    """Return a note if readers of the feed wait, or would wait for a new event."""
    waiting_since, writer = events.pending_since(connection), oldest_writer(connection)
    waited = now - waiting_since if waiting_since is not None else timedelta()
    age = writer.age if writer is not None and writer.age is not None else timedelta()
    seconds = max(waited, age) // timedelta(seconds=1)
    if seconds <= _MAX_OPEN_S:
        return []
    text = f"events of the feed are late: they wait for a transaction on the database's server, open for {seconds} s"
    return [Note("feed", text, unhealthy=True, details="" if writer is None else str(writer))]
