"""What an API key may do within its application, and which keys see across applications. Pure."""

from collections.abc import Collection
from enum import StrEnum


class Scope(StrEnum):
    SUBMIT = "submit"  # post tasks, and resubmit them
    READ = "read"  # see tasks, images, events, callbacks, deliveries, endpoints and usage
    MANAGE = "manage"  # cancel and erase tasks, webhooks and their secret
    METRICS = "metrics"  # the metrics of the service and the credits of its provider, which belong to no application
    ADMIN = "admin"  # everything, in all applications; applications, keys and held jobs


_ALL = "*"  # what keys of earlier versions have for `admin`
DEFAULT = (Scope.SUBMIT, Scope.READ, Scope.MANAGE)
_OF_EARLIER_VERSIONS = frozenset({*DEFAULT, Scope.METRICS})


def granted(stored: Collection[str]) -> frozenset[Scope]:
    """Return what a key with these stored scopes may do. `admin` includes the others.

    A key of an earlier version has no scopes, and keeps what it could do: its application's tasks, and metrics.
    """
    if not stored:
        return _OF_EARLIER_VERSIONS
    if _ALL in stored or Scope.ADMIN in stored:
        return frozenset(Scope)
    return frozenset(Scope(name) for name in stored if name in set(Scope))
