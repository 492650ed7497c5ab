"""Turn evidence into moves and jobs. The one place that changes a task's state because of what a witness said.

A batch of any size takes a fixed number of statements in one transaction: lock and read, store the evidence, write
tasks and attempts, enqueue the jobs. Settling the same evidence twice changes nothing more.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from app import ids, jobs
from app.db import Connection
from app.db.engine.bulk import DeferredWrites
from app.db.queries import attempt_contexts
from app.db.queries.apply_changes import TaskChange, apply_changes
from app.db.queries.attempt_contexts import AttemptContext
from app.db.tables import attempts as attempts_table
from app.db.tables import evidence as evidence_table
from app.db.tables.attempts import AttemptChange
from app.db.tables.evidence import Evidence, EvidenceKey, NewEvidence
from app.jobs import NewJob, Step
from app.provider.contract import LINK_LIFE
from app.rules.task import AttemptState, Decision, Effect, Said, Status, Witness, decide
from app.security.verify import Verdict
from app.transitions import budgets
from app.transitions.admit import apply_answer, release_slots
from app.transitions.announce import Announcement, append_events, plan_webhooks
from app.transitions.changes import attempt_change, cost_change, next_jobs, task_change

T = TypeVar("T")
# How long links live that do not state their expiry, by model; ten minutes for models that are not in it.
LinkLives = Mapping[str, timedelta]

# Evidence with these effects is stored, and changes neither task nor attempt. Evidence about an earlier attempt is not
# among it (`SUPERSEDED`): that attempt records its outcome.
_NOT_APPLIED = frozenset({Effect.HINTED, Effect.REJECTED, Effect.CONTRADICTED})
# In these states a task has no slot of the provider.
_SLOTLESS = frozenset({Status.QUEUED, Status.READY, Status.FAILED})
# In these states what a task counts with in its budget is its cost, if that is known.
_PRICED = frozenset({Status.READY, Status.FAILED})
# A callback that moves a task to one of these states makes the poll needless that would look for it. A poll that this
# evidence itself asks for is enqueued afterwards.
_ANSWERED = frozenset({Status.READY, Status.FAILED})
_NO_ATTEMPT_CHANGE, _NO_TASK_CHANGE = AttemptChange(), TaskChange()


def settle(
    connection: Connection,
    batch: Sequence[Evidence],
    *,
    poll_after: timedelta,
    link_lives: LinkLives | None = None,
) -> list[Effect | None]:
    """Store each piece of evidence and apply what follows from it. Return the effects, in the order of the batch.

    The effect of evidence about an unknown attempt is None. `poll_after` is how long a task that is accepted now may be
    silent before the provider is polled.
    """
    if not batch:
        return []
    pieces = Counter(evidence.attempt_id for evidence in batch)
    attempts = attempt_contexts.lock_attempts(connection, pieces.keys())
    batch = [_with_link_expiry(attempts.get(piece.attempt_id), piece, link_lives or {}) for piece in batch]
    news = {_key(piece) for piece in batch if _may_bring_news(attempts.get(piece.attempt_id), piece, pieces)}
    changes = _Changes(attempts, pieces, poll_after, evidence_table.known(connection, news))
    effects = [changes.take(evidence) for evidence in batch]
    changes.write(connection)
    return effects


def enqueue_polls(connection: Connection, attempt_ids: Collection[str], now: datetime) -> Collection[str]:
    """Enqueue a poll about each of these attempts that exists, for hints that are not stored. Return their ids."""
    if not attempt_ids:
        return ()
    found = attempts_table.task_ids(connection, attempt_ids)
    jobs.enqueue(connection, [NewJob(Step.RECONCILE, task_id, now) for task_id in sorted(set(found.values()))])
    return found.keys()


class _Changes:
    """The changes of one batch, collected in memory and then written together."""

    def __init__(
        self,
        attempts: dict[str, AttemptContext],
        pieces: Mapping[str, int],
        poll_after: timedelta,
        copies: Collection[EvidenceKey],
    ) -> None:
        self._attempts = attempts
        self._poll_after = poll_after
        self._copies = copies  # keys of stored callbacks that look as if they brought a better link or a new cost
        # A queued task may have been given a slot while this transaction waited for its row.
        self._with_slot = {
            attempt.task_id
            for attempt in attempts.values()
            if attempt.has_slot or attempt.state.status is Status.QUEUED
        }
        self._of_task: dict[str, list[str]] = defaultdict(list)  # attempt ids, one entry for each piece of evidence
        for attempt in attempts.values():
            self._of_task[attempt.task_id] += [attempt.attempt_id] * pieces[attempt.attempt_id]
        self._evidence: dict[EvidenceKey, NewEvidence] = {}
        self._task_changes: dict[str, TaskChange] = {}
        self._attempt_changes: dict[str, AttemptChange] = {}
        self._jobs: list[NewJob] = []
        self._answers: list[tuple[AttemptContext, Evidence]] = []
        self._moves: list[Announcement] = []
        self._reserved: set[str] = set()  # tasks whose reservations must be settled
        self._answered: set[str] = set()  # tasks whose polls are no longer needed
        self._now: datetime | None = None

    def take(self, evidence: Evidence) -> Effect | None:
        """Judge one piece of evidence, and collect what it changes."""
        attempt = self._attempts.get(evidence.attempt_id)
        if attempt is None:
            return None
        self._now = evidence.received_at
        key = _key(evidence)
        decision = _judge(attempt, evidence)
        if evidence.witness is Witness.CALLBACK and (key in self._copies or key in self._evidence):
            # A copy looks fresh, but its link and its cost are as old as the original.
            evidence = evidence._replace(report=evidence.report._replace(cost=None))
            decision = Decision(Effect.CONFIRMED) if _brings_a_link(evidence, decision) else decision
        self._store(key, evidence, decision.effect)
        if evidence.proven and decision.effect not in _NOT_APPLIED:
            self._apply(attempt, evidence, decision)
        if evidence.witness is Witness.SUBMIT:
            self._answers.append((attempt, evidence))
        self._jobs += next_jobs(attempt, evidence, decision, self._poll_after)
        return decision.effect

    def write(self, connection: Connection) -> None:
        """Write everything that was collected."""
        if self._now is None:
            return  # no evidence is about a known attempt
        writes = DeferredWrites(connection)
        evidence_table.upsert(writes, list(self._evidence.values()))
        if self._attempt_changes:
            attempts_table.apply_changes(writes, self._attempt_changes)
        if self._task_changes:
            apply_changes(writes, self._task_changes)
        append_events(writes, self._moves, self._now)
        writes.send()
        plan_webhooks(connection, self._moves, self._now)
        jobs.drop(connection, Step.RECONCILE, self._answered)
        jobs.enqueue(connection, self._jobs)
        budgets.settle(connection, self._reserved)
        self._hand_on_slots(connection, self._now)

    def _hand_on_slots(self, connection: Connection, now: datetime) -> None:
        """Pause or resume accounts as the provider answered, free slots that are no longer used, and admit tasks."""
        may_start = [apply_answer(connection, attempt, evidence) for attempt, evidence in self._answers]
        left = {task_id: change for task_id, change in self._task_changes.items() if change.status in _SLOTLESS}
        waits = {task_id: change.dispatch_after_at for task_id, change in left.items()}
        jobs.enqueue(connection, [NewJob(Step.ADMIT, task_id, at) for task_id, at in waits.items() if at and at > now])
        had_slot = [task_id for task_id in left if task_id in self._with_slot]
        release_slots(connection, had_slot, now, with_room=any(may_start))

    def _store(self, key: EvidenceKey, evidence: Evidence, effect: Effect) -> None:
        known = self._evidence.get(key)
        if known is not None:
            self._evidence[key] = known._replace(copies=known.copies + 1, last_received_at=evidence.received_at)
            return
        self._evidence[key] = NewEvidence(
            id=ids.new_id("ev", evidence.received_at),
            attempt_id=evidence.attempt_id,
            witness=str(evidence.witness),
            verdict=str(evidence.verdict),
            digest=key.digest,
            said=str(evidence.report.said),
            effect=str(effect),
            detail=evidence.report.detail,
            http_status=evidence.http_status,
            headers=evidence.headers,
            copies=1,
            received_at=evidence.received_at,
            last_received_at=evidence.received_at,
            body=evidence.body,
        )

    def _apply(self, attempt: AttemptContext, evidence: Evidence, decision: Decision) -> None:
        """Collect what this evidence changes about its attempt and task."""
        of_attempt = attempt_change(attempt, evidence)
        of_task = replace(task_change(attempt, evidence, decision), cost=cost_change(attempt, of_attempt))
        if of_attempt != _NO_ATTEMPT_CHANGE:
            known = self._attempt_changes.get(attempt.attempt_id, _NO_ATTEMPT_CHANGE)
            self._attempt_changes[attempt.attempt_id] = known.followed_by(of_attempt)
        if of_task != _NO_TASK_CHANGE:
            before = self._task_changes.get(attempt.task_id, _NO_TASK_CHANGE)
            self._task_changes[attempt.task_id] = before.followed_by(of_task)
        if decision.to is not None:
            move = Announcement(attempt.task_id, decision.to, of_task.failure, has_webhook=attempt.has_webhook)
            self._moves.append(move)
            if evidence.witness is Witness.CALLBACK and decision.to in _ANSWERED:
                self._answered.add(attempt.task_id)
        if attempt.has_reservation and (of_task.status in _PRICED or of_task.cost is not None):
            self._reserved.add(attempt.task_id)
        self._advance(attempt, of_attempt, of_task)

    def _advance(self, attempt: AttemptContext, of_attempt: AttemptChange, of_task: TaskChange) -> None:
        """Apply the changes to the states in memory, by which the rest of the batch is judged."""
        pieces = self._of_task[attempt.task_id]
        if len(pieces) == 1:
            return  # nothing else in this batch is about the task
        for attempt_id in set(pieces):
            other = self._attempts[attempt_id]
            own = of_attempt if attempt_id == attempt.attempt_id else _NO_ATTEMPT_CHANGE
            self._attempts[attempt_id] = other._replace(state=_changed(other.state, of_task, own))


def _changed(state: AttemptState, of_task: TaskChange, of_attempt: AttemptChange) -> AttemptState:
    """Return what is known about an attempt after these changes to its task and to itself."""
    return state._replace(
        status=_latest(of_task.status, state.status),
        sample_url=_latest(of_task.sample_url, state.sample_url),
        sample_expires_at=_latest(of_task.sample_expires_at, state.sample_expires_at),
        outcome=_latest(of_attempt.outcome, state.outcome),
        provider_id=_latest(of_attempt.provider_id, state.provider_id),
        cost=_latest(of_attempt.cost, state.cost),
    )


def _latest(change: T | None, known: T) -> T:
    return known if change is None else change


def _judge(attempt: AttemptContext, evidence: Evidence) -> Decision:
    if evidence.verdict is Verdict.FORGED:
        return Decision(Effect.REJECTED)
    return decide(attempt.state, evidence.report, evidence.witness, evidence.received_at, proven=evidence.proven)


def _with_link_expiry(attempt: AttemptContext | None, evidence: Evidence, link_lives: LinkLives) -> Evidence:
    """Return the evidence with the time at which its link expires: as the link says, else as is usual for the model."""
    report = evidence.report
    if attempt is None or report.said is not Said.READY or report.sample_expires_at is not None:
        return evidence
    expires_at = evidence.received_at + link_lives.get(attempt.model, LINK_LIFE)
    return evidence._replace(report=report._replace(sample_expires_at=expires_at))


def _may_bring_news(attempt: AttemptContext | None, evidence: Evidence, pieces: Mapping[str, int]) -> bool:
    """Return whether this callback looks as if it brought a better link or another cost than the known one.

    Only then must the database be asked whether it is a copy. `pieces` counts the evidence of the batch by attempt:
    earlier evidence may change the cost that is known.
    """
    if attempt is None or evidence.witness is not Witness.CALLBACK:
        return False
    cost, known = evidence.report.cost, attempt.state.cost
    if cost is not None and known is not None and (cost != known or pieces[evidence.attempt_id] > 1):
        return True
    return attempt.state.status is Status.READY and _brings_a_link(evidence, _judge(attempt, evidence))


def _brings_a_link(evidence: Evidence, decision: Decision) -> bool:
    """Return whether a callback gives a ready task another link."""
    adopted = decision.effect is Effect.ADOPTED
    return adopted and evidence.witness is Witness.CALLBACK and evidence.report.said is Said.READY


def _key(evidence: Evidence) -> EvidenceKey:
    digest = hashlib.sha256(evidence.body).hexdigest()
    return EvidenceKey(evidence.attempt_id, evidence.witness, evidence.verdict, digest)
