"""Evidence in, moves and next jobs out: the one place that changes a task's state by what a witness said.

A group of any size takes a fixed number of statements in one transaction: lock, read, keep the evidence,
write tasks and attempts, leave the jobs. Doing it twice does nothing more.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from app import ids, jobs
from app.db import Connection
from app.db.engine.bulk import deferred_writes
from app.db.queries import apply_changes
from app.db.tables import attempts as submissions
from app.db.tables import evidence, provider_accounts
from app.db.tables.attempts import AttemptContext
from app.db.tables.evidence import NewEvidence
from app.jobs import Step
from app.provider import ProviderResponse
from app.rules.task import Decision, Effect, Said, Status, Witness, decide
from app.security.keyring import CallbackProof
from app.security.verify import Verdict
from app.transitions.admit import admit, pause, resume
from app.transitions.announce import Announcement, announce
from app.transitions.changes import Evidence, link_dies_at, moved, next_jobs, told

# What these say is not known to be true, or not about this attempt: nothing is learned from it.
_NOT_LEARNED = frozenset({Effect.HINTED, Effect.REJECTED, Effect.CONTRADICTED})
# Where a task holds no slot of the provider any more.
_SLOTLESS = frozenset({Status.QUEUED, Status.READY, Status.FAILED})
_STANDING = frozenset({"outcome", "provider_id", "cost"})
_SUMMED = frozenset({"cost", "tries"})  # over all attempts of a task


def answered(
    submission_id: str, witness: Witness, answer: ProviderResponse, proof: CallbackProof | None, now: datetime
) -> Evidence:
    """What a request of ours brought, without the attempt's token and secret should the provider echo them."""
    report, body = answer.report, answer.body
    if proof is not None:
        detail = report.detail and proof.redact_text(report.detail)
        report, body = report._replace(detail=detail), proof.redact(body)
    return Evidence(
        submission_id=submission_id,
        witness=witness,
        verdict=Verdict.FETCHED,
        proven=True,
        report=report,
        body=body,
        received_at=now,
        headers=json.dumps(dict(answer.headers)),
        http_status=answer.http_status,
    )


def settle(connection: Connection, group: Sequence[Evidence], *, look_after: timedelta) -> list[Effect | None]:
    """Keep each piece of evidence and do what follows from it; None for one about an unknown attempt.

    `look_after` is how long a task that is accepted now may be silent before the provider is asked.
    """
    if not group:
        return []
    about = Counter(each.submission_id for each in group)
    attempts = submissions.lock_attempts(connection, about.keys())
    links = {_key_of(each) for each in group if _may_bring_a_link(attempts.get(each.submission_id), each)}
    ledger = _Ledger(attempts, about, look_after, evidence.known(connection, links))
    effects = [ledger.take(each) for each in group]
    ledger.write(connection)
    return effects


def hint(connection: Connection, submission_ids: Collection[str], now: datetime) -> Collection[str]:
    """Have the provider asked about these attempts, without keeping why; which of them are known."""
    if not submission_ids:
        return ()
    found = submissions.task_ids(connection, submission_ids)
    jobs.enqueue(connection, [(Step.RECONCILE, task_id, now) for task_id in sorted(set(found.values()))])
    return found.keys()


class _Ledger:
    """What a group changes, put together in memory before it is written at once."""

    def __init__(
        self,
        attempts: dict[str, AttemptContext],
        about: Mapping[str, int],
        look_after: timedelta,
        copies: Collection[tuple[str, ...]],
    ) -> None:
        self._attempts = attempts
        self._look_after = look_after
        self._copies = copies  # of callbacks kept before that look as if they brought a better link
        # A queued one may have been given a slot while its row was waited for.
        self._holders = {
            each.task_id for each in attempts.values() if each.has_slot or each.standing.status is Status.QUEUED
        }
        self._of_task: dict[str, list[str]] = defaultdict(list)  # one entry for each piece
        for attempt in attempts.values():
            self._of_task[attempt.task_id] += [attempt.submission_id] * about[attempt.submission_id]
        self._kept: dict[tuple[str, ...], NewEvidence] = {}
        self._tasks: dict[str, dict[str, Any]] = {}
        self._submissions: dict[str, dict[str, Any]] = {}
        self._jobs: list[tuple[Step, str, datetime]] = []
        self._answers: list[tuple[AttemptContext, Evidence]] = []
        self._moves: list[Announcement] = []
        self._now: datetime | None = None

    def take(self, each: Evidence) -> Effect | None:
        attempt = self._attempts.get(each.submission_id)
        if attempt is None:
            return None
        self._now = each.received_at
        key = _key_of(each)
        decision = _judge(attempt, each)
        if _brings_a_link(each, decision) and (key in self._copies or key in self._kept):
            decision = Decision(Effect.CONFIRMED)
        self._keep(key, each, decision.effect)
        if each.proven and decision.effect not in _NOT_LEARNED:
            self._learn(attempt, each, decision)
        if each.witness is Witness.SUBMIT:
            self._answers.append((attempt, each))
        self._jobs += next_jobs(attempt, each, decision, self._look_after)
        return decision.effect

    def write(self, connection: Connection) -> None:
        with deferred_writes(connection):
            if self._kept:
                evidence.keep(connection, list(self._kept.values()))
            if self._submissions:
                submissions.learn(connection, self._submissions)
            if self._tasks:
                apply_changes.learn(connection, self._tasks)
            if self._now is not None:
                announce(connection, self._moves, self._now)
        jobs.enqueue(connection, self._jobs)
        self._hand_on_slots(connection)

    def _hand_on_slots(self, connection: Connection) -> None:
        """Free the slots of tasks that left the provider, heed what it said of the account, admit who is next."""
        for attempt, each in self._answers:
            _heed(connection, attempt, each)
        left = [task_id for task_id, change in self._tasks.items() if change.get("status") in _SLOTLESS]
        if left and self._now is not None:
            self._release(connection, [task_id for task_id in left if task_id in self._holders], self._now)
            waits = {task_id: self._tasks[task_id].get("dispatch_after_at") for task_id in left}
            wakes = [(Step.ADMIT, task_id, at) for task_id, at in waits.items() if at and at > self._now]
            jobs.enqueue(connection, wakes)

    @staticmethod
    def _release(connection: Connection, task_ids: Sequence[str], now: datetime) -> None:
        if task_ids:
            for account_id in sorted(provider_accounts.release(connection, task_ids)):
                admit(connection, account_id, now)

    def _keep(self, key: tuple[str, ...], each: Evidence, effect: Effect) -> None:
        known = self._kept.get(key)
        if known is not None:
            self._kept[key] = known._replace(copies=known.copies + 1, last_received_at=each.received_at)
            return
        self._kept[key] = NewEvidence(
            id=ids.new_id("ev", each.received_at),
            submission_id=each.submission_id,
            witness=str(each.witness),
            verdict=str(each.verdict),
            digest=key[-1],
            said=str(each.report.said),
            effect=str(effect),
            detail=each.report.detail,
            http_status=each.http_status,
            headers=each.headers,
            copies=1,
            received_at=each.received_at,
            last_received_at=each.received_at,
            body=each.body,
        )

    def _learn(self, attempt: AttemptContext, each: Evidence, decision: Decision) -> None:
        """Note what this tells of the attempt and does to its task, for the rest of the group too."""
        news = told(attempt, each)
        if news:
            self._submissions.setdefault(attempt.submission_id, {}).update(news)
        change = moved(attempt, each, decision)
        if "cost" in news:
            change["cost"] = news["cost"]
        if change:
            known = self._tasks.setdefault(attempt.task_id, {})
            known |= change | {name: known[name] + change[name] for name in _SUMMED & known.keys() & change.keys()}
        if decision.to is not None:
            failure = change.get("failure")
            self._moves.append(Announcement(attempt.task_id, decision.to, failure, is_told=attempt.is_told))
        self._advance(attempt, news, change)

    def _advance(self, attempt: AttemptContext, news: Mapping[str, Any], change: Mapping[str, Any]) -> None:
        pieces = self._of_task[attempt.task_id]
        if len(pieces) == 1:
            return  # nothing else in this group is about the task
        learned = {name: news[name] for name in news if name in _STANDING}
        moved_to = {name: change[name] for name in ("status", "sample_url", "sample_expires_at") if change.get(name)}
        for each_id in set(pieces):
            each = self._attempts[each_id]
            now = moved_to | (learned if each_id == attempt.submission_id else {})
            self._attempts[each_id] = each._replace(standing=each.standing._replace(**now))


def _judge(attempt: AttemptContext, each: Evidence) -> Decision:
    if each.verdict is Verdict.FORGED:
        return Decision(Effect.REJECTED)
    report = each.report
    if report.said is Said.READY and report.sample_expires_at is None:
        report = report._replace(sample_expires_at=link_dies_at(each))
    return decide(attempt.standing, report, each.witness, each.received_at, proven=each.proven)


def _may_bring_a_link(attempt: AttemptContext | None, each: Evidence) -> bool:
    """Whether this looks like a better link for a task that has one; usually the first look says no."""
    if attempt is None or attempt.standing.status is not Status.READY:
        return False
    return _brings_a_link(each, _judge(attempt, each))


def _brings_a_link(each: Evidence, decision: Decision) -> bool:
    """Whether a callback gives a ready task another link: a copy must not, for it looks as fresh as it is late."""
    adopted = decision.effect is Effect.ADOPTED
    return adopted and each.witness is Witness.CALLBACK and each.report.said is Said.READY


def _key_of(each: Evidence) -> tuple[str, ...]:
    """What a copy has in common with its original."""
    return each.submission_id, each.witness, each.verdict, hashlib.sha256(each.body).hexdigest()


def _heed(connection: Connection, attempt: AttemptContext, each: Evidence) -> None:
    """What the answer to a submit means for all of its account."""
    match each.report.said:
        case Said.PENDING:
            resume(connection, attempt.account_id, each.received_at)
        case Said.BUSY:
            pause(connection, attempt, provider_accounts.NO_FREE_SLOT, each.report.retry_after, each.received_at)
        case Said.UNPAID:
            pause(connection, attempt, provider_accounts.OUT_OF_CREDITS, None, each.received_at)
