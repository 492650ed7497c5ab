"""Any interleaving of answers, callbacks, polls, downloads, API requests and crashes keeps all invariants.

This provider is worse than any real one: it sends any report, in any order, any number of times.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import select
from structlog.testing import capture_logs

from app import callback
from app.db.tables.tasks import Task, task_of, tasks
from app.jobs import Step
from app.provider import ProviderResponse
from app.rules.task import MOVES, Effect, Failure, Report, Said, Status, Witness
from app.security.sign import bfl_signature
from app.security.verify import Verdict
from app.transitions.moves import cancel, resubmit
from tests.interleaving import LIMITS, Call, Process
from tests.pictures import picture
from tests.snapshot import EvidenceKey, Job, Snapshot, take_snapshot

pytestmark = pytest.mark.proof

IMAGE = picture(8, 8)
REFUSALS = (Said.BUSY, Said.UNPAID, Said.KEY_REFUSED, Said.BLOCKED, Said.DOWN, Said.REFUSED)
SAYINGS = (Said.PENDING, Said.READY, Said.FAILED, Said.NOT_FOUND, Said.UNCLEAR)
WORDS = {
    Said.PENDING: "processing",
    Said.READY: "Ready",
    Said.FAILED: "Error",
    Said.NOT_FOUND: "Task not found",
    Said.UNCLEAR: "?",
}
PROOFS = ("signed", "signed", "signed", "secret", "nothing", "forged")
LINKS = ("works", "works", "refused", "torn")
LANES = tuple((step,) for step in Step) + (tuple(Step),) * 3
# Crash at this write, counted from 0, and whether that write is committed; None, the most frequent choice: no crash.
DEATHS = (None,) * 6 + tuple((write, committed) for write in range(3) for committed in (False, True))

IN_FLIGHT = {Status.SUBMITTING, Status.SUBMITTED}
NEEDS = {
    Status.QUEUED: Step.DISPATCH,
    Status.SUBMITTING: Step.RECONCILE,
    Status.SUBMITTED: Step.RECONCILE,
    Status.READY: Step.COLLECT,
}
deaths = st.sampled_from(DEATHS)
index = st.integers(0, 50)


class Record(RuleBasedStateMachine):
    """Plays the clients and the provider, remembers their actions, and compares them with the database."""

    @initialize(callback_requested=st.booleans(), trusted=st.booleans())
    def start(self, callback_requested: bool, trusted: bool) -> None:
        self.logs = capture_logs()
        self.lines = self.logs.__enter__()
        self.callback_requested, self.trusted = callback_requested, trusted
        self.posted = 0
        self.attempts: list[tuple[str, str]] = []  # (task id, attempt id) of every attempt sent
        self.delivered: list[tuple[str, bytes, str]] = []
        self.may_send: set[str] = set()
        self.came: Counter[EvidenceKey] = Counter()
        self.refusing = self.resubmitting = False
        self.final: dict[str, Task] = {}
        self.slotless: set[str] = set()
        self.unwanted: set[str] = set()
        self.process = Process(self.sent, callback_requested=callback_requested, trust_shared_secret=trusted)
        for is_max in (False, False, True):  # initial tasks
            self.post("a", is_max, 0, None)
        self.work((Step.DISPATCH,), 3, None)

    def teardown(self) -> None:
        if hasattr(self, "process"):
            try:
                self.finish_all_tasks()
            finally:
                self.process.close()
                self.logs.__exit__(None, None, None)

    # Actions of clients.

    @rule(
        key=st.sampled_from("ab"), is_max=st.booleans(), priority=st.integers(0, 1), hurry=st.sampled_from([None, 20])
    )
    def post(self, key: str, is_max: bool, priority: int, hurry: int | None) -> None:
        self.posted += 1
        self.process.clock.advance(1e-6)  # makes ids sort in the order of creation, so a run is reproducible
        self.process.post(
            f"picture {self.posted}",
            key_id=key,
            model="flux-kontext-max" if is_max else "flux-kontext-pro",
            priority=priority,
            deadline_at=hurry and self.process.clock() + timedelta(seconds=hurry),
        )

    @rule(which=index)
    def cancel(self, which: int) -> None:
        known = [task for task in self.tasks() if not task.status.final]
        if known:
            task_id = known[which % len(known)].id
            self.unwanted.add(task_id)
            self.process.db.now(lambda connection: cancel(connection, task_id, self.process.clock()))

    @precondition(lambda self: any(task.status is Status.FAILED for task in self.final.values()))
    @rule(which=index)
    def resubmit(self, which: int) -> None:
        failed = sorted(task_id for task_id, task in self.final.items() if task.status is Status.FAILED)
        task_id, self.resubmitting = failed[which % len(failed)], True
        self.unwanted.discard(task_id)
        self.process.db.now(lambda connection: resubmit(connection, task_id, self.process.clock()))

    # Time, workers and crashes.

    @rule(seconds=st.sampled_from([0.01, 0.5, 1, 2, 6, 31, 70, 700, 4000]))
    def wait(self, seconds: float) -> None:
        self.process.clock.advance(seconds)

    @rule(steps=st.sampled_from(LANES), jobs=st.integers(1, 4), death=deaths)
    def work(self, steps: tuple[Step, ...], jobs: int, death: tuple[int, bool] | None) -> None:
        self.process.db.dies_at = death
        while jobs and self.process.work(steps):
            jobs -= 1
        self.restart_if_dead()

    @rule()
    def lose_the_next_commit_before_a_submit(self) -> None:
        """Commit the next record of an attempt that is about to be sent, and lose the answer of the database."""
        self.process.db.loses_answer_to = "_begin"

    @rule(chance=st.integers(0, 3))
    def restart(self, chance: int) -> None:
        if chance == 0:
            self.process.restart()

    # Actions of the provider.

    @precondition(lambda self: self.choose("submit", 0) is not None)
    @rule(
        which=index,
        said=st.sampled_from([*REFUSALS, Said.LOST, *[Said.PENDING] * 4]),
        death=deaths,
        after=st.sampled_from([None, 3, 40]),
    )
    def answer_submit(self, which: int, said: Said, death: tuple[int, bool] | None, after: int | None) -> None:
        call = self.choose("submit", which)
        assert call is not None
        report = Report(
            said, cost=4.0 if said is Said.PENDING else None, retry_after=timedelta(seconds=after) if after else None
        )
        if said is Said.PENDING:
            report = report._replace(provider_id=self.provider_id(call.task_id, call.attempt_id))
        self.refusing = said in REFUSALS
        self.answer_with_report(call, Witness.SUBMIT, report, death)

    @precondition(lambda self: self.choose("fetch", 0) is not None)
    @rule(
        which=index, said=st.sampled_from([*SAYINGS, Said.LOST]), cost=st.sampled_from([None, 0.0, 4.0]), death=deaths
    )
    def answer_poll(self, which: int, said: Said, cost: float | None, death: tuple[int, bool] | None) -> None:
        call = self.choose("fetch", which)
        assert call is not None
        said = Said.LOST if said is Said.UNCLEAR else said
        self.answer_with_report(call, Witness.POLL, self.report(call, said, which, cost), death)

    @precondition(lambda self: self.choose("download", 0) is not None)
    @rule(which=index, how=st.sampled_from(LINKS), death=deaths)
    def answer_download(self, which: int, how: str, death: tuple[int, bool] | None) -> None:
        call = self.choose("download", which)
        if call is not None:
            self.process.db.dies_at = death
            self.process.answer(call, download(how))
            self.restart_if_dead()

    @precondition(lambda self: self.attempts)
    @rule(
        which=index,
        said=st.sampled_from(SAYINGS),
        proof=st.sampled_from(PROOFS),
        other_id=st.sampled_from([False, False, False, True]),
        link=st.integers(0, 1),
        copies=st.integers(1, 2),
        death=deaths,
    )
    def call_back(
        self,
        which: int,
        said: Said,
        proof: str,
        other_id: bool,
        link: int,
        copies: int,
        death: tuple[int, bool] | None,
    ) -> None:
        task_id, attempt_id = self.attempts[which % len(self.attempts)]
        provider_id = self.provider_id(task_id, attempt_id) + ("-another" if other_id else "")
        body: dict[str, Any] = {"id": provider_id, "status": WORDS[said]}
        if said is Said.READY:
            body["result"] = {"sample": self.link(task_id, attempt_id, link)}
        for _ in range(copies):
            self.deliver(attempt_id, json.dumps(body).encode(), proof, death)
            death = None
        self.delivered.append((attempt_id, json.dumps(body).encode(), proof))

    @precondition(lambda self: self.delivered)
    @rule(which=index, death=deaths)
    def call_back_again(self, which: int, death: tuple[int, bool] | None) -> None:
        self.deliver(*self.delivered[-1 - which % min(4, len(self.delivered))], death)

    def deliver(self, attempt_id: str, body: bytes, proof: str, death: tuple[int, bool] | None) -> None:
        use = self.process.use
        self.every_move_is_allowed()
        known = use.keys.prove_token(attempt_id, self.token(attempt_id))
        assert known is not None
        headers, verdict = {
            "signed": ([(b"X-BFL-Signature", bfl_signature(known.secret, body).encode())], Verdict.SIGNED),
            "secret": ([(b"X-Webhook-Secret", known.secret.encode())], Verdict.SHARED_SECRET),
            "forged": ([(b"X-BFL-Signature", bfl_signature("a guess", body).encode())], Verdict.FORGED),
            "nothing": ([], Verdict.UNPROVEN),
        }[proof]
        key = (attempt_id, Witness.CALLBACK, verdict, hashlib.sha256(body).hexdigest())
        had_its_effect = self.process.db.now(take_snapshot).effects.get(key) is Effect.MOVED
        self.process.db.dies_at = death and (0, death[1])
        reply = self.process.play(callback.receive(use, attempt_id, known.token, headers, whole(body)))
        if reply is not None:
            assert reply is (callback.Reply.FORGED if proof == "forged" else callback.Reply.ACCEPTED)
        if reply is not None or (death and death[1]):
            self.count(attempt_id, Witness.CALLBACK, verdict, body)
        assert not (had_its_effect and self.process.has_moved()), "the same callback had a second effect"
        self.restart_if_dead()

    def answer_with_report(self, call: Call, witness: Witness, report: Report, death: tuple[int, bool] | None) -> None:
        body = repr(report).encode()
        self.process.db.dies_at = death
        self.process.answer(call, ProviderResponse(report, 200, {}, body))
        if death != (0, False):
            self.count(call.attempt_id, witness, Verdict.FETCHED, body)
        self.restart_if_dead()

    # Invariants.

    @invariant()
    def every_promise_is_kept(self) -> None:
        self.every_move_is_allowed()
        found = self.process.db.now(take_snapshot)
        self.what_is_final_stays(found)
        assert found.evidence == self.came
        self.what_is_not_final_goes_on(found)
        self.slots_are_taken_only_by_tasks_that_need_them(found)
        for task in found.tasks:
            assert (task.cost or 0) == found.costs[task.id]
        assert found.stored == {task.id for task in found.tasks if task.status is Status.STORED}
        assert not [line for line in self.lines if line["event"] == "unscheduled"], (
            "the sweep recovered a task without a job"
        )
        assert not [line for line in self.lines if line.get("code") == "internal_error"]

    def every_move_is_allowed(self) -> None:
        for task_id, was, became in self.process.moves():
            if (was, became) == (Status.FAILED, Status.QUEUED):
                assert self.resubmitting
                del self.final[task_id]
            else:
                assert Status(became) in MOVES[Status(was)], (task_id, was, became)
            if became == Status.QUEUED and (self.refusing or self.resubmitting):
                self.may_send.add(task_id)
            elif became == Status.QUEUED:
                assert (task_id, self.current_attempt(task_id)) not in self.attempts, "requeued without a refusal"
            if (was, became) == (Status.QUEUED, Status.SUBMITTED):
                self.slotless.add(task_id)  # a callback proved an attempt whose slot was already free
        self.refusing = self.resubmitting = False

    def what_is_final_stays(self, found: Snapshot) -> None:
        for task in found.tasks:
            known = self.final.get(task.id)
            # The cost may become known later.
            assert known is None or replace(task, cost=known.cost) == known
            if task.status.final:
                self.final[task.id] = task

    def what_is_not_final_goes_on(self, found: Snapshot) -> None:
        now = self.process.clock()
        scheduled = {(step, task_id) for step, task_id, _, _ in found.jobs}
        wakes = [run_at for step, _, _, run_at in found.jobs if step is Step.ADMIT]
        assert not any(state == "held" for _, _, state, _ in found.jobs), "a job became a dead letter"
        for task in found.tasks:
            late = task.deadline_at is not None and task.deadline_at <= now  # the sweep ends a queued one
            if (
                task.status.final
                or (NEEDS[task.status], task.id) in scheduled
                or (late and task.status is Status.QUEUED)
            ):
                continue
            assert task.status is Status.QUEUED, f"{task.status} without a job"
            assert task.id not in found.slots, "admitted without a job"
            if found.account.paused(now) or task.dispatch_after_at > now:
                assert wakes, "waits for a time without an admit job"
            elif found.is_probing:
                assert wakes, "waits for a probe without an admit job"
            elif found.has_room(task.model, now):
                assert any(run_at <= now for run_at in wakes), "a slot is free, and no admit job is due"
            elif found.account.next_rise(now) is not None:
                assert wakes, "waits for a lowered limit to rise without an admit job"

    def slots_are_taken_only_by_tasks_that_need_them(self, found: Snapshot) -> None:
        known = {task.id: task.status for task in found.tasks}
        in_flight = {task_id for task_id, status in known.items() if status in IN_FLIGHT}
        assert {known[task_id] for task_id in found.slots} <= {Status.QUEUED, *IN_FLIGHT}
        assert in_flight - found.slots.keys() <= self.slotless
        assert len(found.slots) <= LIMITS["account"]
        assert list(found.slots.values()).count("flux-kontext-max") <= LIMITS["flux-kontext-max"]

    # With a cooperative provider every task ends.

    def finish_all_tasks(self) -> None:
        self.process.restart()
        for _ in range(2000):
            if all(task.status.final for task in self.tasks()):
                return
            for call in list(self.process.outside.calls):
                self.answer_successfully(call)
            if not self.process.work():
                self.process.clock.at = max(self.process.clock(), self.next_due())
            self.every_promise_is_kept()
        raise AssertionError(f"tasks never end: {[(task.id, task.status) for task in self.tasks()]} {self.jobs()}")

    def answer_successfully(self, call: Call) -> None:
        if call.kind == "download":
            self.process.answer(call, download("works"))
        elif call.kind == "fetch":
            self.answer_with_report(call, Witness.POLL, self.report(call, Said.READY, 0, None), None)
        else:
            provider_id = self.provider_id(call.task_id, call.attempt_id)
            self.answer_with_report(call, Witness.SUBMIT, Report(Said.PENDING, provider_id, cost=4.0), None)

    def next_due(self) -> Any:
        """Return the time of the next job or deadline, and only without these that of a sweep."""
        due = [run_at for step, _, state, run_at in self.jobs() if state == "waiting" and step is not Step.SWEEP]
        ends = [task.deadline_at + timedelta(seconds=11) for task in self.tasks() if task.deadline_at]
        ahead = [instant for instant in due + ends if instant > self.process.clock()]
        return min(ahead, default=self.process.clock() + timedelta(days=1))

    # Helpers of the rules.

    def sent(self, task_id: str, attempt_id: str) -> None:
        """Check an attempt sent to the provider: the first, or one after a refusal or a resubmit."""
        is_repeated = any(known == task_id for known, _ in self.attempts)
        self.every_move_is_allowed()
        assert not is_repeated or task_id in self.may_send, "sent again without a refusal or a resubmit"
        assert task_id not in self.unwanted, "sent after it was cancelled"
        self.may_send.discard(task_id)
        assert (task_id, attempt_id) not in self.attempts
        self.attempts.append((task_id, attempt_id))

    def restart_if_dead(self) -> None:
        if self.process.db.dead:
            self.process.restart()
        self.process.db.dies_at = None

    def count(self, attempt_id: str, witness: Witness, verdict: Verdict, body: bytes) -> None:
        self.came[attempt_id, witness, verdict, hashlib.sha256(body).hexdigest()] += 1

    def choose(self, kind: str, which: int) -> Call | None:
        waiting = [call for call in self.process.outside.calls if call.kind == kind]
        return waiting[which % len(waiting)] if waiting else None

    def report(self, call: Call, said: Said, which: int, cost: float | None) -> Report:
        report = Report(said, call.about, cost=cost)
        if said is Said.READY:
            return report._replace(sample_url=self.link(call.task_id, call.attempt_id, which % 2))
        if said is Said.FAILED:
            return report._replace(failure=Failure.PROVIDER_ERROR)
        return report if said is Said.PENDING else Report(said)

    def provider_id(self, task_id: str, attempt_id: str) -> str:
        return f"{task_id}.{attempt_id[-4:]}"

    def link(self, task_id: str, attempt_id: str, number: int) -> str:
        return f"https://delivery.eu1.bfl.ai/{self.provider_id(task_id, attempt_id)}/{number}.png"

    def token(self, attempt_id: str) -> str:
        keys = self.process.use.keys
        return keys.callback_proof(attempt_id, keys.newest).token

    def current_attempt(self, task_id: str) -> str:
        return next(task.attempt_id for task in self.tasks() if task.id == task_id)

    def tasks(self) -> list[Task]:
        query = select(tasks).order_by(tasks.c.id)
        return self.process.db.now(lambda connection: [task_of(row) for row in connection.execute(query)])

    def jobs(self) -> list[Job]:
        return self.process.db.now(take_snapshot).jobs


def download(how: str) -> httpx.Response | httpx.HTTPError:
    if how == "torn":
        return httpx.ReadError("the connection was lost")
    return httpx.Response(200, stream=httpx.ByteStream(IMAGE)) if how == "works" else httpx.Response(403)


def whole(body: bytes) -> Callable[[int], Awaitable[bytes | None]]:
    async def read(max_bytes: int) -> bytes | None:
        return body if len(body) <= max_bytes else None

    return read


TestRecord = Record.TestCase
TestRecord.settings = settings(max_examples=25, stateful_step_count=30)


def test_tasks_end_while_a_refusal_keeps_the_limit_below_the_configured_one() -> None:
    record = Record()
    record.start(callback_requested=True, trusted=False)
    record.cancel(which=0)
    for _ in range(2):
        record.post(key="a", is_max=False, priority=0, hurry=None)
    record.answer_submit(which=0, said=Said.BUSY, death=None, after=None)
    assert record.process.db.now(take_snapshot).account.lowered is not None
    record.teardown()
