from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import pytest

from app import jobs
from app.db.engine.database import Database
from app.dispatch import dispatch
from app.errors import Unavailable
from app.provider import ProviderResponse, Reference
from app.reconcile import reconcile
from app.rules.task import Report, Said
from app.twin import Faults
from tests.calling import Caller, Scripted, answering, attempt_of, caller_of, small, submitted
from tests.databases import OneByOne
from tests.rows import claim
from tests.world import World, with_provider

T = TypeVar("T")
LOST = ProviderResponse(Report(Said.LOST))
OTHER = "https://elsewhere.example"
TAKEN = ProviderResponse(Report(Said.PENDING, "p1"), 200, {}, b"{}")


async def polls(world: World, task_id: str) -> list[dict[str, Any]]:
    return [entry for entry in await world.timeline(task_id, "evidence") if entry["witness"] == "poll"]


async def silent(world: World, *answers: ProviderResponse, fetched: ProviderResponse = LOST) -> tuple[str, Scripted]:
    """A task at a provider with these answers to submissions and this answer to every poll."""
    provider = answering(*answers)
    provider.fetched = fetched
    world.use = with_provider(world.use, provider)
    task_id = await world.post()
    await world.work()
    return task_id, provider


async def test_a_task_without_a_callback_is_finished_by_polling(each_world: World) -> None:
    caller = await submitted(each_world)
    await each_world.go_on(15)
    before = await each_world.task(caller.task_id)
    await each_world.go_on(15)

    assert before["status"] == "submitted"
    assert (await each_world.task(caller.task_id))["status"] == "stored"
    assert await caller.verdicts() == []
    assert [(poll["verdict"], poll["effect"]) for poll in await polls(each_world, caller.task_id)] == [
        ("fetched", "moved")
    ]


@pytest.mark.parametrize(("asked_s", "waited_s"), [(40, 40), (600, 120)])
async def test_a_poll_waits_as_long_as_the_provider_asks_up_to_two_minutes(
    world: World, asked_s: int, waited_s: int
) -> None:
    limited = ProviderResponse(Report(Said.LOST, retry_after=timedelta(seconds=asked_s)), 429)
    world.use = replace(world.use, public_url=None)
    _, provider = await silent(world, TAKEN, fetched=limited)
    await world.go_on(2)
    asked = len(provider.asked)
    await world.go_on(waited_s - 2)
    before = len(provider.asked)
    await world.go_on(waited_s / 4 + 2)

    assert (asked, before, len(provider.asked)) == (1, 1, 2)


async def test_a_gateway_that_blocks_all_requests_for_a_minute_ends_no_task(each_world: World) -> None:
    caller = await submitted(each_world, faults=Faults(drop_callback=1, status_gateway=1))
    await each_world.go_on(60, 5)
    during = await each_world.task(caller.task_id)
    each_world.twin.faults = Faults()
    await each_world.go_on(60, 5)

    assert during["status"] == "submitted"
    assert (await each_world.task(caller.task_id))["status"] == "stored"


async def test_without_a_public_url_the_provider_is_polled_from_the_start(world: World) -> None:
    world.use = replace(world.use, public_url=None)
    caller = await submitted(world)
    await world.go_on(5)

    assert (await world.task(caller.task_id))["status"] == "stored"
    assert world.ledger()["tasks"][0]["callbacks"] == []


@pytest.mark.parametrize(("redirects", "origin", "polled"), [(3, None, True), (4, None, False), (1, OTHER, False)])
async def test_a_poll_follows_up_to_three_redirects_of_the_provider(
    world: World, redirects: int, origin: str | None, *, polled: bool
) -> None:
    world.use = replace(world.use, public_url=None)
    rules = {"status_redirects": redirects, "redirect_origin": origin}
    world.twin.rules = world.twin.rules.model_copy(update=rules)
    caller = await submitted(world)
    await world.go_on(5)
    last = (await polls(world, caller.task_id))[-1]

    assert (await world.task(caller.task_id))["status"] == ("stored" if polled else "submitted")
    assert (last["said"], last["http_status"]) == (("ready", 200) if polled else ("lost", 307))


async def test_a_final_or_unknown_task_is_not_polled(world: World) -> None:
    caller = await submitted(world, faults=Faults())
    await world.go_on(5)
    known = len(await polls(world, caller.task_id))
    await reconcile(world.use, caller.task_id)
    await reconcile(world.use, "task_none")

    assert len(await polls(world, caller.task_id)) == known


async def test_polls_continue_with_growing_waits_while_the_task_is_pending(world: World) -> None:
    task_id, provider = await silent(world, TAKEN, fetched=TAKEN)
    counts = []
    for seconds in (60, 60, 600, 600):
        await world.go_on(seconds)
        counts.append(len(provider.asked))

    assert (await world.task(task_id))["status"] == "submitted"
    assert 1 <= counts[0] <= 12
    assert 600 / 37.5 - 1 <= counts[3] - counts[2] <= 600 / 30 + 1


async def test_a_day_without_a_usable_answer_ends_in_an_unknown_outcome(world: World) -> None:
    task_id, _ = await silent(world, TAKEN)
    await world.go_on(23 * 3600, 600)
    before = (await world.task(task_id))["status"]
    await world.go_on(2 * 3600, 600)
    task = await world.task(task_id)

    assert before == "submitted"
    assert (task["failure"]["code"], task["failure"]["money_spent"]) == ("unknown_outcome", "maybe")


async def test_an_id_unknown_to_the_provider_is_polled_again_before_the_task_is_given_up(world: World) -> None:
    missing = ProviderResponse(Report(Said.NOT_FOUND), 404, {}, b"{}")
    task_id, _ = await silent(world, TAKEN, fetched=missing)
    await world.go_on(540, 10)
    before = (await world.task(task_id))["status"]
    await world.go_on(180, 10)

    assert before == "submitted"
    assert (await world.task(task_id))["failure"]["code"] == "unknown_outcome"


@pytest.mark.parametrize("failed_http", [200, 422, 503])
@pytest.mark.parametrize(
    ("prompt", "code"),
    [("forbidden", "request_moderated"), ("unsafe result", "content_moderated"), ("fail", "provider_error")],
)
async def test_a_failure_is_read_from_the_body_whatever_the_http_status(
    world: World, prompt: str, code: str, failed_http: int
) -> None:
    world.twin.rules = world.twin.rules.model_copy(update={"failed_http": failed_http})
    caller = await submitted(world, prompt=prompt)
    await world.go_on(30)

    assert (await world.task(caller.task_id))["failure"]["code"] == code


async def test_a_status_route_that_fails_is_polled_again(world: World) -> None:
    caller = await submitted(world)
    world.twin.faults = Faults(status_5xx=1)
    await world.go_on(60)
    before = (await world.task(caller.task_id))["status"]
    world.twin.faults = Faults()
    await world.go_on(40)

    assert before == "submitted"
    assert (await world.task(caller.task_id))["status"] == "stored"


async def test_the_polling_url_of_the_provider_is_used(world: World) -> None:
    accepted = ProviderResponse(Report(Said.PENDING, "p1", polling_url="https://api.eu.bfl.ai/x"), 200, {}, b"{}")
    _, provider = await silent(world, accepted)
    await world.go_on(30)

    assert {(reference.provider_id, reference.polling_url) for reference in provider.asked} == {
        ("p1", "https://api.eu.bfl.ai/x")
    }


async def test_a_lost_answer_without_an_id_awaits_evidence_without_a_poll(world: World) -> None:
    task_id, provider = await silent(world, LOST)
    await world.go_on(600, 10)

    assert provider.asked == []
    assert (await world.task(task_id))["status"] == "submitting"


async def test_without_callbacks_nothing_can_prove_a_lost_answer_and_the_task_fails_at_once(world: World) -> None:
    world.use = replace(world.use, public_url=None, evidence_window=timedelta())
    task_id, provider = await silent(world, LOST)
    await world.go_on(70, 10)
    task = await world.task(task_id)

    assert (task["failure"]["code"], task["failure"]["money_spent"]) == ("unknown_outcome", "maybe")
    assert len(provider.orders) == 1


class Interrupted(OneByOne):
    """A database that runs a hook just before each write."""

    def __init__(self, inner: Database, meanwhile: Callable[[], Any]) -> None:
        self._inner = inner
        self._meanwhile = meanwhile
        self.dialect = inner.dialect
        self.read = inner.read
        self.on_jobs = inner.on_jobs
        self.on_events = inner.on_events

    async def write(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        await self._meanwhile()
        return await self._inner.write(work, *args, **kwargs)


async def test_a_callback_while_a_task_is_given_up_takes_precedence(each_world: World) -> None:
    small(each_world)
    each_world.twin.faults = Faults(lose_answer_after=1, drop_callback=1)
    task_id = await each_world.post()
    await each_world.work()
    caller: Caller = await caller_of(each_world, task_id)
    each_world.clock.advance(3600)

    async def call() -> None:
        await caller.call(caller.ready())

    await reconcile(replace(each_world.use, db=Interrupted(each_world.use.db, call)), task_id)

    assert (await each_world.task(task_id))["status"] == "ready"
    assert (await attempt_of(each_world, task_id)).provider_id is not None


async def test_an_answer_about_an_earlier_attempt_does_not_end_the_next_one(each_world: World) -> None:
    task_id, provider = await silent(each_world, TAKEN, ProviderResponse(Report(Said.PENDING, "p2"), 200, {}, b"{}"))
    caller = await caller_of(each_world, task_id)
    each_world.clock.advance(3600)

    async def fetch(reference: Reference) -> ProviderResponse:
        if not provider.asked:
            provider.asked.append(reference)
            await caller.call({"id": "p1", "status": "Error"})
            await each_world.api.post(f"/v1/tasks/{task_id}/resubmit")
            await dispatch(each_world.use, task_id)
        return ProviderResponse(Report(Said.NOT_FOUND), 404, {}, b"{}")

    provider.fetch = fetch  # type: ignore[method-assign]
    await reconcile(each_world.use, task_id)

    assert [reference.provider_id for reference in provider.asked] == ["p1"]
    assert (await each_world.task(task_id))["status"] == "submitted"
    assert (await attempt_of(each_world, task_id, 2)).provider_id == "p2"


async def test_without_a_provider_key_the_poll_is_postponed_and_not_lost(world: World) -> None:
    caller = await submitted(world)
    configured, keyless = world.use, with_provider(world.use, None)
    with pytest.raises(Unavailable):
        await reconcile(keyless, caller.task_id)
    world.use = keyless
    await world.go_on(7200, 600)
    world.use = configured
    await world.go_on(400, 100)
    world.twin.rules = world.twin.rules.model_copy(update={"link_life": world.twin.rules.link_life * 100})

    assert await world.use.db.read(jobs.dead_letters) == []
    assert (await world.task(caller.task_id))["status"] != "submitted"


@pytest.mark.parametrize("said", [Said.PENDING, Said.LOST, Said.BUSY, Said.UNPAID, Said.DOWN])
async def test_every_open_task_has_a_next_job_after_a_poll(each_world: World, said: Said) -> None:
    """Whatever the answer, an open task has a next job."""
    await silent(each_world, ProviderResponse(Report(said, "p1" if said is Said.PENDING else None)))
    due = await each_world.use.db.write(lambda connection: claim(connection, each_world.clock()))

    assert due == []
    assert await each_world.use.db.read(jobs.next_due) is not None
