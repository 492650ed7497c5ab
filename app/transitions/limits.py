"""The limits of an application, checked in the transaction that records what they count.

Limits of stored things are exact, also with several processes: a transaction that may reach one locks a row first.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from app.db import Connection
from app.db.queries import submitters
from app.db.tables import applications, request_rates
from app.errors import InvalidRequest, LimitExceeded
from app.rules import limits as rules
from app.rules.limits import UNLIMITED, Limits, Rate, Refused
from app.rules.shares import Share

# Tasks that may be posted while the queue is counted without a lock: by as many transactions as can be open at once.
_MARGIN = 500
_QUEUE_RETRY = timedelta(seconds=10)


def effective(defaults: Limits, application_id: str, own: Mapping[str, int | None] | None) -> Limits:
    """Return the limits of an application: its own, else the defaults. The operator's own application has none."""
    base = UNLIMITED if application_id == applications.ADMIN_ID else defaults
    return base.followed_by(own or {})


class Allowed(NamedTuple):
    """The limits of one application."""

    application_id: str
    limits: Limits


def of_key(connection: Connection, defaults: Limits, key_id: str) -> Allowed:
    """Return the application of a key, and its limits."""
    submitter = submitters.get(connection, key_id, 0)
    application_id = applications.id_of_key(key_id) if submitter is None else submitter.key.application_id
    own = None if submitter is None else submitter.limits
    return Allowed(application_id, effective(defaults, application_id, own))


def upload_share(connection: Connection, defaults: Limits, key_id: str) -> Share:
    """Return the share of the application of a key in bodies that are received, and in images that are fetched."""
    allowed = of_key(connection, defaults, key_id)
    return Share(allowed.application_id, allowed.limits.uploads)


def image_share(connection: Connection, defaults: Limits, key_id: str, count: int) -> Share:
    """Return the share of the application of a key in images that are fetched.

    Raises LimitExceeded if it cannot queue `count` more tasks now, so that no image is decoded in vain.
    """
    counted_to = count_to(defaults)
    submitter = submitters.get(connection, key_id, counted_to)
    if submitter is None:
        return upload_share(connection, defaults, key_id)
    application_id = submitter.key.application_id
    allowed = effective(defaults, application_id, submitter.limits)
    if allowed.queued is not None and submitter.queued + count > allowed.queued:
        raise _queue_is_full(allowed.queued)
    return Share(application_id, allowed.uploads)


def of_application(connection: Connection, defaults: Limits, application_id: str) -> Allowed:
    """Return an application with its limits."""
    application = applications.get(connection, application_id)
    own = None if application is None else application.limits
    return Allowed(application_id, effective(defaults, application_id, own))


def count_to(defaults: Limits) -> int:
    """Return up to which number queued tasks must be counted for `check_queued`."""
    return max(defaults.queued or 0, _MARGIN) + 1


def check_priority(limits: Limits, priority: int) -> None:
    """Raise InvalidRequest if a task may not have this priority."""
    if priority > limits.priority:
        reason = f"must be at most {limits.priority} for this application"
        raise InvalidRequest(f"priority: {reason}", {"priority": reason})


def check_queued(
    connection: Connection, limits: Limits, application_id: str, counted: int, counted_to: int, count: int
) -> None:
    """Raise LimitExceeded if the application may not queue `count` more tasks.

    `counted`: its queued tasks, counted without a lock up to `counted_to`. Near the limit they are counted again, under
    a lock of the application.
    """
    limit = limits.queued
    if limit is None or (counted < counted_to and counted + count + _MARGIN <= limit):
        return
    applications.lock(connection, application_id)
    if submitters.count_queued(connection, application_id) + count > limit:
        raise _queue_is_full(limit)


def _queue_is_full(limit: int) -> LimitExceeded:
    return LimitExceeded(f"the application may have {limit:,} queued tasks", "queued", _QUEUE_RETRY)


def count_request(
    connection: Connection, limits: Limits, application_id: str, rate: Rate, now: datetime, count: int = 1
) -> None:
    """Count requests, all or none, against a rate of the application. Raises LimitExceeded.

    Without such a limit it does nothing.
    """
    per_minute: int | None = getattr(limits, rate)
    if per_minute is None:
        return
    taken = rules.take(request_rates.lock(connection, application_id, rate, now), now, per_minute, count)
    if isinstance(taken, Refused):
        what = "posts" if rate is Rate.POSTS else "test deliveries"
        raise LimitExceeded(f"the application may make {per_minute:,} {what} a minute", rate, taken.wait)
    request_rates.put(connection, application_id, rate, taken.busy_until)
