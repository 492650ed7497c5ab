"""One requested image, according to the service's database and to the provider's ledger. Pure."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tests.proof.network_faults import Played
from tests.proof.storm_run import Seen

_FINAL = frozenset({"stored", "failed", "cancelled"})
# An image that becomes known later than this before its link expires may be lost: a restart takes about as long.
_IN_TIME = timedelta(seconds=5)
_NOT_REPAIRED = frozenset({"unknown_outcome", "asset_lost"})
_BREAKS_THE_PATH = frozenset({"drop_callback", "unsigned_callback", "refused_link", "expired_link"})

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One requested image: its tasks in the service (exactly one, if correct) and the provider's ledger entries."""

    prompt: str
    tasks: Sequence[Json]
    taken: Sequence[Json]
    timeline: Sequence[Json]
    image: str | None
    kills: Sequence[datetime]
    asked_at: datetime | None = None  # when the client posted it first

    @property
    def task(self) -> Json | None:
        return self.tasks[0] if self.tasks else None

    @property
    def final(self) -> bool:
        return self.task is not None and self.task["status"] in _FINAL

    @property
    def stored(self) -> bool:
        return self.task is not None and self.task["status"] == "stored"

    @property
    def failure(self) -> str | None:
        return self.task["failure"]["code"] if self.task and self.task["failure"] else None

    @property
    def made(self) -> bool:
        """Whether the provider made an image."""
        return any(entry["status"] == "Ready" for entry in self.taken)

    @property
    def unknowable(self) -> bool:
        """Whether no evidence could exist: the answer was lost, and no callback was accepted."""
        answered = self._answered
        if not self.taken:
            return not answered  # a kill interrupted the submit, and the provider never accepted the task
        lost = any(entry["answer_lost"] for entry in self.taken) or not answered
        return lost and not any(_delivered(entry) for entry in self.taken)

    @property
    def _answered(self) -> bool:
        """Whether an answer to the last attempt is stored; an earlier attempt may have been refused."""
        attempts = [entry for entry in self.timeline if entry["event"] == "submission"]
        last = max(attempts, key=lambda entry: int(entry["number"]))["submission_id"] if attempts else None
        return any(entry.get("witness") == "submit" and entry.get("submission_id") == last for entry in self.timeline)

    @property
    def came_too_late(self) -> bool:
        """Whether the link had expired, or was about to, when the service learned of the image."""
        known_at = _instant(self.task["ready_at"]) if self.task else None
        ends = [_instant(entry["link_ends_at"]) for entry in self.taken]
        return known_at is not None and all(end is not None and known_at > end - _IN_TIME for end in ends)

    @property
    def repaired_in_s(self) -> float | None:
        """Seconds from the provider's result to the final state, if the usual path was broken and repaired."""
        ended = self._ended_at
        ready = _instant(self.taken[0]["ready_at"]) if self.taken else None
        if ended is None or ready is None or self.failure in _NOT_REPAIRED or not self._broken(ready, ended):
            return None
        return (ended - ready).total_seconds()

    def recovered_in_s(self, fault: Played) -> float | None:
        """Seconds from the end of a network fault to the final state, if the client waited for it at that moment."""
        ended = self._ended_at
        if self.failure in _NOT_REPAIRED or ended is None or self.asked_at is None:
            return None
        return (ended - fault.ended_at).total_seconds() if self.asked_at <= fault.ended_at <= ended else None

    @property
    def _ended_at(self) -> datetime | None:
        return _instant(self.task["stored_at"] or self.task["failed_at"]) if self.task else None

    def _broken(self, ready: datetime, ended: datetime) -> bool:
        entry = self.taken[0]
        struck = bool(_BREAKS_THE_PATH & set(entry["faults"])) or entry["answer_lost"]
        uncalled = any(attempt["answered"] is None for attempt in entry["callbacks"])
        return struck or uncalled or any(ready <= kill <= ended for kill in self.kills)


def cases(prompts: Iterable[str], seen: Seen) -> list[Case]:
    tasks_of: defaultdict[str, list[Json]] = defaultdict(list)
    taken_of: defaultdict[str, list[Json]] = defaultdict(list)
    for task in seen.tasks:
        tasks_of[task["params"]["prompt"]].append(task)
    for entry in seen.ledger["tasks"]:
        taken_of[entry["prompt_digest"]].append(entry)
    return [
        _case(prompt, tasks_of[prompt], taken_of[hashlib.sha256(prompt.encode()).hexdigest()], seen)
        for prompt in prompts
    ]


def _case(prompt: str, tasks: list[Json], taken: list[Json], seen: Seen) -> Case:
    first = tasks[0]["id"] if tasks else ""
    kills = [*seen.kills, *seen.database_kills]
    timeline, image = seen.timelines.get(first, ()), seen.images.get(first)
    return Case(prompt, tasks, taken, timeline, image, kills, seen.asked_at.get(prompt))


def _delivered(entry: Json) -> bool:
    """Whether the service accepted a genuine callback of the provider."""
    return any(attempt["kind"] != "forged" and attempt["answered"] == 200 for attempt in entry["callbacks"])


def _instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
