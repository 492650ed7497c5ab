"""A queue in which several owners take turns, so that none waits behind all that another one has added."""

from collections import OrderedDict, deque
from contextvars import ContextVar
from typing import Generic, TypeVar

Item = TypeVar("Item")

# Whose work the current task does: the application of a request, or one of these.
OTHERS, WORKER, JOBS = "", "worker", "jobs"  # requests with an unknown key; the claims of jobs; the steps of tasks
owner: ContextVar[str] = ContextVar("owner", default=OTHERS)
# The service's own work has each third turn at least, however many applications wait: it ends what they have begun.
_OWN_WORK, _BEFORE_OWN_WORK = (WORKER, JOBS), 2


class FairQueue(Generic[Item]):
    """Items by owner. Each owner in turn gives one; an owner that had none in the last round is first."""

    def __init__(self) -> None:
        self._first: OrderedDict[str, deque[Item]] = OrderedDict()  # in the order of their turns
        self._others: OrderedDict[str, deque[Item]] = OrderedDict()  # had a turn in this round; some have no item now
        self._count = 0
        self._since_own_work = 0  # turns of applications

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
            for owner in _OWN_WORK:
                for owners in (self._first, self._others):
                    if owners.get(owner):
                        return owner, owners.pop(owner)
        return (self._first or self._others).popitem(last=False)

    def put_back(self, item: Item, owner: str) -> None:
        """Return the item that was taken last, so that it is the next one after those of owners that are first."""
        self._others.setdefault(owner, deque()).appendleft(item)
        self._others.move_to_end(owner, last=False)
        self._count += 1
