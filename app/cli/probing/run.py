"""The course of a probe: submit a task, watch it by polls and callbacks, look at its link until it has expired."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import httpx

from app import clock, ids
from app.catalog import Model
from app.cli.probing import shape
from app.cli.probing.exchange import Exchange, Received, download
from app.cli.probing.listener import Delivery, Listener, listening
from app.cli.probing.report import AfterExpiry, CallbackSeen, Link, Report
from app.provider import ProviderSpec, messages
from app.rules.task import Said
from app.security import callback_proofs
from app.security.http_clients import provider_client, results_client
from app.security.outbound import Outbound
from app.security.verify import SigningProfile, verify

PROMPT = "a plain grey square"
_SIDE = 256  # pixels: small, where the model lets the size be chosen
_FINAL = frozenset({"Ready", "Error", "Failed", "Request Moderated", "Content Moderated", "Task not found"})
_ENDS = (Said.READY, Said.FAILED)
_AFTER_EXPIRY_S = 3  # a clock may differ a little

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a probe does. Times are in seconds."""

    spec: ProviderSpec
    base_url: str
    key: str
    model: Model
    outbound: Outbound
    listen: tuple[str, int] | None = None  # None: no callbacks
    public_url: str | None = None
    refuse: int = 1
    poll_every_s: float = 1.0
    callback_wait_s: float = 90.0  # for a callback, and for its repetition
    until_expiry: bool = True


class CannotStart(Exception):
    """Nothing was sent and nothing was spent; the message says why."""


async def run(plan: Plan, report: Report, say: Say) -> None:
    """Do the probe and record it in `report` step by step. Raises CannotStart before anything is spent."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(provider_client(outbound=plan.outbound))
        images = await stack.enter_async_context(results_client(origins=[plan.base_url], outbound=plan.outbound))
        exchange = Exchange(http, plan.spec, plan.base_url, plan.key)
        secret, token = ids.new_key(), ids.new_key()
        watching = Watching(exchange, report, secret, say)
        body = request_of(plan.model)
        if plan.listen is not None and plan.public_url is not None:
            listener = Listener(token, plan.refuse, watching.record)
            try:
                await stack.enter_async_context(listening(listener, *plan.listen))
            except OSError as error:
                host, port = plan.listen
                raise CannotStart(f"cannot listen on {host}:{port}: {error.strerror}: name another --listen") from error
            await _check_address(plan, token)
            body |= {"webhook_url": f"{plan.public_url}/{token}/callback", "webhook_secret": secret}
        balance = await exchange.credits()
        say("The task is sent.")
        submitted = await watching.submit(plan.model.path, body)
        if submitted is None:
            report.complete = True
            return
        await watching.until_final(submitted, plan)
        await _look_at_link(watching, images, submitted, plan)
        after = await exchange.credits()
        if balance is not None and after is not None:
            report.spent_credits = round(balance - after, 4)
        report.complete = True


def request_of(model: Model) -> dict[str, Any]:
    """Return the request of a small image."""
    sides = {name: _SIDE for name in ("width", "height") if name in model.properties}
    return {"prompt": PROMPT, **sides}


async def _check_address(plan: Plan, token: str) -> None:
    """Require that the public address leads to the listener. Raises CannotStart."""
    challenge = ids.new_key()
    url = f"{plan.public_url}/{token}/hello?{challenge}"
    try:
        async with httpx.AsyncClient(trust_env=False, verify=plan.outbound.tls, timeout=10) as http:
            answer = await http.get(url)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        text = f"{plan.public_url} cannot be reached: {type(error).__name__}"
        raise CannotStart(f"{text}: let it lead to the address of --listen") from error
    if answer.text != challenge:
        raise CannotStart(f"{plan.public_url} does not lead to this probe: let it lead to the address of --listen")


@dataclass(frozen=True, slots=True)
class _Submitted:
    provider_id: str
    polling_url: str | None


class Watching:
    """Records answers and callbacks as they come."""

    def __init__(self, exchange: Exchange, report: Report, secret: str, say: Say) -> None:
        self.exchange = exchange
        self.report = report
        self.link: str | None = None
        self.accepted = asyncio.Event()  # a final callback was answered with 200
        self._secret = secret
        self.say = say
        self._bodies: set[bytes] = set()

    async def submit(self, path: str, body: Mapping[str, Any]) -> _Submitted | None:
        """Submit the task. Return None if the provider did not accept it."""
        self.exchange.start()
        received = await self.exchange.submit(path, body)
        self.report.submit = received.answer
        accepted = messages.read_acceptance(received.body)
        status = received.answer.status
        if accepted.provider_id is None or status is None or status not in range(200, 300):
            self.report.stopped = "the provider did not accept the task"
            return None
        return _Submitted(accepted.provider_id, accepted.polling_url)

    def record(self, delivery: Delivery) -> None:
        """Record a request to the listener; it may come before the answer to the submission."""
        proofs = callback_proofs.find(delivery.body, delivery.headers, self._secret)
        says = shape.word(delivery.body)
        headers = {name: value.decode("latin-1") for name, value in delivery.headers}
        self.report.callbacks.append(
            CallbackSeen(
                after_s=self.exchange.elapsed,
                answered=delivery.answered,
                method=delivery.method,
                headers=[name.decode("latin-1") for name, _ in delivery.headers],
                content_type=headers.get(b"content-type", "")[:100] or None,
                user_agent=headers.get(b"user-agent", "")[:100] or None,
                verdict=verify(delivery.body, delivery.headers, self._secret, SigningProfile()).value,
                proofs=[f"{proof.header}: {proof.form}" for proof in proofs],
                secret_in_body=self._secret.encode() in delivery.body,
                says=says,
                members=shape.of_body(delivery.body),
                same_body_as_before=delivery.body in self._bodies,
            )
        )
        self._bodies.add(delivery.body)
        self.say(f"A callback says {says}; answered with {delivery.answered}.")
        if delivery.answered == HTTPStatus.OK and messages.read_callback(delivery.body).said in _ENDS:
            self.accepted.set()

    async def poll(self, submitted: _Submitted) -> Received:
        received = await self.exchange.poll(submitted.provider_id, submitted.polling_url)
        answer, last = received.answer, self.report.polls[-1] if self.report.polls else None
        if last is not None and (last.status, last.says, last.members) == (answer.status, answer.says, answer.members):
            last.times += 1
        else:
            self.report.polls.append(answer)
            self.say(f"A poll says {answer.says or answer.status or answer.problem}.")
        return received

    async def until_final(self, submitted: _Submitted, plan: Plan) -> None:
        """Poll until the task is final, then wait for its callback."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + plan.model.longest_s
        while loop.time() < ends_at:
            received = await self.poll(submitted)
            if received.answer.says in _FINAL:
                self.link = messages.read_status(received.body).sample_url
                break
            await asyncio.sleep(plan.poll_every_s)
        else:
            self.report.stopped = f"the task was not final after {plan.model.longest_s:g} s"
        if plan.listen is not None:
            self.say("Waiting for the callback, and for its repetition.")
            try:
                await asyncio.wait_for(self.accepted.wait(), plan.callback_wait_s)
            except TimeoutError:
                self.say("No callback was left to be answered with 200.")


async def _look_at_link(watching: Watching, images: httpx.AsyncClient, submitted: _Submitted, plan: Plan) -> None:
    url = watching.link
    if url is None:
        return
    parts = urlsplit(url)
    expires_at = messages.link_expiry(url)
    life = None if expires_at is None else (expires_at - clock.utc_now()).total_seconds()
    query = sorted({pair.partition("=")[0] for pair in parts.query.split("&") if pair})
    link = Link(parts.scheme, shape.host_of(url), query, None if life is None else round(life))
    watching.report.link = link
    found = await download(images, url)
    link.status, link.headers, link.media_type = found.status, found.headers, found.media_type
    link.bytes, link.redirects, link.problem = found.bytes, found.redirects, found.problem
    if not plan.until_expiry:
        return
    wait = (plan.model.link_life_s if life is None else life) + _AFTER_EXPIRY_S
    waiting = timedelta(seconds=round(wait))
    watching.say(f"Waiting {waiting} until the link has expired. Ctrl-C leaves the report so far.")
    await asyncio.sleep(max(0.0, wait))
    dead = await download(images, url)
    poll = await watching.poll(submitted)
    again = messages.read_status(poll.body).sample_url
    watching.report.after_expiry = AfterExpiry(
        round(wait, 1), dead.status, replace(poll.answer), again is not None and again != url
    )
