"""Whether a key may submit a task now: the limits of its application, and the budgets that pay for it.

The first step of a transaction that queues a task. Locks are taken in this order: the application, its rates, the task,
the periods of budgets, the account of the provider.
"""

from dataclasses import dataclass
from datetime import datetime

from app.catalog import Model
from app.db import Connection
from app.db.queries import submitters
from app.db.tables import applications
from app.db.tables.api_keys import Key
from app.errors import Unauthorized
from app.resources import Policy
from app.rules.limits import Rate
from app.transitions import budgets, limits
from app.transitions.budgets import Price


@dataclass(frozen=True, slots=True)
class Permit:
    """The right to queue tasks: for which application, and who pays for it."""

    key: Key | None  # None: it no longer exists
    application_id: str
    price: Price


def permit(
    connection: Connection,
    use: Policy,
    key_id: str,
    model: Model,
    now: datetime,
    *,
    count: int = 1,
    priority: int = 0,
) -> Permit:
    """Return the right to queue `count` tasks of this model.

    Raises Unauthorized if the key has been revoked since it was checked, InvalidRequest for a priority that the
    application may not use, and LimitExceeded.
    """
    count_to = limits.count_to(use.limits)
    submitter = submitters.get(connection, key_id, count_to)
    if submitter is None:
        application_id = applications.id_of_key(key_id)
        return Permit(None, application_id, budgets.price(use, application_id, None, model))
    if not submitter.key.is_valid(now):
        raise Unauthorized("the API key was revoked, or has expired")
    application_id = submitter.key.application_id
    allowed = limits.effective(use.limits, application_id, submitter.limits)
    limits.check_priority(allowed, priority)
    limits.check_queued(connection, allowed, application_id, submitter.queued, count_to, count)
    limits.count_request(connection, allowed, application_id, Rate.POSTS, now, count)
    return Permit(submitter.key, application_id, budgets.price(use, application_id, submitter.budget, model))
