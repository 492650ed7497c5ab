"""A queue in which several owners take turns, so that none waits behind all that another one has added."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Coroutine
from contextvars import ContextVar, copy_context
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
T = TypeVar("T")

# Whose work the current task does: the application of a request, or one of these. SERVICE: what serves all of them,
# such as the claims of jobs and the reader of the feed. JOBS: the steps of tasks. OTHERS: requests with an unknown key.
OTHERS, SERVICE, JOBS = "", "service", "jobs"
owner: ContextVar[str] = ContextVar("owner", default=OTHERS)
# The service's own work has each third turn at least, however many applications wait: it ends what they have begun.
_OWN_WORK, _BEFORE_OWN_WORK = (SERVICE, JOBS), 2


def service_task(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task whose owner is SERVICE, also if a request starts it."""
    context = copy_context()
    context.run(owner.set, SERVICE)
    return asyncio.create_task(work, context=context)


class FairQueue(Generic[Item]):
    """Items by owner. Each owner in turn gives one; an owner that had none in the last round is first."""

    def __init__(self) -> None:
        self._first: OrderedDict[str, deque[Item]] = OrderedDict()  # in the order of their turns
        self._others: OrderedDict[str, deque[Item]] = OrderedDict()  # had a turn in this round; some have no item now
        self._count = 0
        self._since_own_work = 0  # turns of applications
        self._own_work = deque(_OWN_WORK)  # in the order of such turns

    def __len__(self) -> int:
        return self._count

    def add(self, item: Item, owner: str) -> None:
        owners = self._others if owner in self._others else self._first
        owners.setdefault(owner, deque()).append(item)
        self._count += 1

    def take(self) -> tuple[Item, str]:
        """Remove and return the next item and its owner. There must be one."""
        while True:
            owner, items = self._next()
            if items:
                self._others[owner] = items
                self._count -= 1
                self._since_own_work = 0 if owner in _OWN_WORK else self._since_own_work + 1
                return items.popleft(), owner

    def _next(self) -> tuple[str, deque[Item]]:
        """Remove and return the owner whose turn it is, and its items; there may be none."""
        if self._since_own_work >= _BEFORE_OWN_WORK:
            for owner in tuple(self._own_work):
                if items := self._first.pop(owner, None) or self._others.pop(owner, None):
                    self._own_work.remove(owner)
                    self._own_work.append(owner)
                    return owner, items
        return (self._first or self._others).popitem(last=False)

    def put_back(self, item: Item, owner: str) -> None:
        """Return the item that was taken last, so that it is the next one after those of owners that are first."""
        owners = self._first if owner in self._first else self._others
        owners.setdefault(owner, deque()).appendleft(item)
        owners.move_to_end(owner, last=False)
        self._count += 1

    def remove(self, item: Item, owner: str) -> None:
        """Remove an item that waits, if it still does. Its owner's turn is not used."""
        for owners in (self._first, self._others):
            items = owners.get(owner, deque())
            if item in items:
                items.remove(item)
                self._count -= 1
