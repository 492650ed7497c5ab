"""The free slots of the accounts while tasks are admitted: which tasks fit into them, and which account takes one."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from app.db.queries.admission import Candidate, Opening
from app.db.tables.provider_accounts import IN_ALL, Account
from app.db.tables.slots import Slot


@dataclass(frozen=True, slots=True)
class Room:
    """The free slots of one account, by number, and its tasks in flight by model. Changes while slots are given out."""

    account: Account
    free: list[int]
    in_flight: Counter[str]

    @classmethod
    def of(cls, account: Account, taken: Iterable[Slot], now: datetime) -> "Room":
        own = [slot for slot in taken if slot.account_id == account.id]
        numbers = {slot.number for slot in own}
        limit = account.limits[IN_ALL]
        free = [number for number in range(1, limit + 1) if number not in numbers]
        left = 1 if account.probes else max(0, account.allowed(now) - len(own))
        return cls(account, free[:left], Counter(slot.model for slot in own))

    def has_room_for(self, model: str) -> bool:
        """Whether the account serves the model and has a slot for it."""
        limit = self.account.limits.get(model)
        is_full = limit is not None and self.in_flight[model] >= limit
        return bool(self.free) and self.account.serves(model) and not is_full

    def accepts(self, task: Candidate) -> bool:
        return self.account.may_take(task.model, task.region) and self.has_room_for(task.model)

    def take(self, task: Candidate) -> int:
        """Return the number of the slot that the task takes."""
        self.in_flight[task.model] += 1
        return self.free.pop(0)


def room_for(task: Candidate, rooms: Sequence[Room]) -> Room | None:
    """Return the first account that can take the task. A task that has failed to be sent tries another one first."""
    accepting = [room for room in rooms if room.accepts(task)]
    if task.tries:
        accepting.sort(key=lambda room: room.account.id == task.account_id)
    return accepting[0] if accepting else None


def openings(rooms: Sequence[Room]) -> list[Opening]:
    """Return which tasks at least one account can take: by the region that they are limited to, and by model."""
    regions: dict[tuple[frozenset[str], bool], list[str | None]] = {}
    for region in (None, *sorted({room.account.region for room in rooms if room.account.region is not None})):
        here = [room for room in rooms if region in {None, room.account.region} and room.free]
        if any(room.account.models is None for room in here):
            named = {model for room in here for model in room.account.named_models}
            models, excluded = frozenset(model for model in named if not _is_open(model, here)), True
        else:
            named = {model for room in here for model in room.account.models or ()}
            models, excluded = frozenset(model for model in named if _is_open(model, here)), False
        if models or excluded:
            regions.setdefault((models, excluded), []).append(region)
    return [Opening(tuple(where), models, excluded) for (models, excluded), where in regions.items()]


def _is_open(model: str, rooms: Sequence[Room]) -> bool:
    return any(room.has_room_for(model) for room in rooms)
