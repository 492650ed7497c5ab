"""The routes of the providers, once for each dialect: submit, result, credits."""

from typing import ClassVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.twin import messages
from app.twin.accounts import account_of
from app.twin.admission import Caller
from app.twin.engine import Twin
from app.twin.faults import fraction
from app.twin.messages import Dialect
from app.twin.models import known_models
from app.twin.submit_request import Refusal, read_submit_request
from app.twin.task import Task
from app.twin.wire import TruncatedResponse, gateway_page, redirect

BAD_KEY = "bad"
NOT_AUTHENTICATED = Refusal(403, "invalid_api_key", "Not authenticated - Invalid Authentication")
UNKNOWN_MODEL = Refusal(404, "not_found", "Not Found")
FULL = Refusal(429, "rate_limit_exceeded", "Too many active tasks")


class Api:
    PREFIXES: ClassVar[dict[Dialect, str]] = {"bfl": "/v1", "gptproto": "/flux/v1"}

    def __init__(self, twin: Twin, dialect: Dialect) -> None:
        self._twin = twin
        self._dialect = dialect
        self._prefix = self.PREFIXES[dialect]

    def routes(self) -> list[Route]:
        return [
            Route(f"{self._prefix}/get_result", self.get_result, methods=["GET"]),
            Route(f"{self._prefix}/credits", self.credits, methods=["GET"]),
            Route(f"{self._prefix}/{{model:path}}", self.submit, methods=["POST"]),
        ]

    async def submit(self, request: Request) -> Response:
        failure = self._failure(self._twin.count("submit"))
        if failure is not None:
            await request.body()  # read it all: an interrupted request is not the same as a lost answer
            return failure
        task = await self._accept(request)
        if isinstance(task, Refusal):
            return self._refused(task)
        if "lose_answer_after" in task.faults:
            task.answer_lost = True
            return TruncatedResponse()
        polling_url = f"{origin_of(request)}{self._prefix}/get_result?id={task.id}"
        return JSONResponse(messages.submit_answer(task, polling_url, self._twin.rules))

    async def _accept(self, request: Request) -> Task | Refusal:
        key = self._key(request)
        if key is None:
            return NOT_AUTHENTICATED
        model = request.path_params["model"]
        if model not in known_models() and model not in self._twin.rules.slots:
            return UNKNOWN_MODEL
        submit_request = read_submit_request(model, await request.body())
        if isinstance(submit_request, Refusal):
            return submit_request
        # GPTProto answers 503 for a moderated input; BFL accepts it and reports the moderation in the result.
        caller = Caller(account_of(key), origin_of(request), moderated_at_submit=self._dialect == "gptproto")
        return await self._twin.accept(submit_request, model, caller)

    async def get_result(self, request: Request) -> Response:
        number = self._twin.count("status")
        if self._twin.faults.strikes("status_5xx", number):
            return self._outage(self._outage_status("status_5xx", number))
        redirected = redirect(request, self._twin.rules.status_redirects, self._twin.rules.redirect_origin)
        if redirected is not None:
            return redirected
        if self._twin.faults.strikes("status_gateway", number):
            return gateway_page(self._twin.faults.gateway_status)
        if self._key(request) is None:
            return self._answer(NOT_AUTHENTICATED)
        task_id = request.query_params.get("id", "")
        task = self._twin.find(task_id)
        if task is None:
            return JSONResponse(messages.not_found(task_id), 404)
        sample = self._twin.link(origin_of(request), task)
        status, body = messages.status_answer(task, self._twin.now(), sample, self._twin.rules, self._dialect)
        return JSONResponse(body, status)

    async def credits(self, request: Request) -> Response:
        key = self._key(request)
        if key is None:
            return self._answer(NOT_AUTHENTICATED)
        return JSONResponse({"credits": self._twin.accounts.balance(account_of(key), self._twin.rules)})

    def _key(self, request: Request) -> str | None:
        """Read `x-key` for BFL and `Authorization` for GPTProto, whose own examples often omit "Bearer"."""
        if self._dialect == "bfl":
            key = request.headers.get("x-key", "")
        else:
            key = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        return None if key in {"", BAD_KEY} or self._twin.rules.keys_revoked else key

    def _failure(self, number: int) -> Response | None:
        """Return the fault of this submit request that occurs before acceptance, and record it in the ledger."""
        faults = self._twin.faults
        if faults.strikes("lose_answer_before", number):
            self._twin.refuse(None, "lose_answer_before")
            return TruncatedResponse()
        if faults.strikes("submit_5xx", number):
            status = self._outage_status("submit_5xx", number)
            self._twin.refuse(status, "submit_5xx")
            return self._outage(status)
        if faults.strikes("submit_gateway", number):
            self._twin.refuse(faults.gateway_status, "submit_gateway")
            return gateway_page(faults.gateway_status)
        return self._refused(FULL, reason="submit_429") if faults.strikes("submit_429", number) else None

    def _outage_status(self, fault: str, number: int) -> int:
        # GPTProto uses 503 for moderation, and 502 comes from a gateway.
        statuses = (500, 502, 503) if self._dialect == "bfl" else (500,)
        return statuses[int(fraction(self._twin.faults.seed, fault, "status", number) * len(statuses))]

    def _outage(self, status: int) -> Response:
        media_type = "text/html" if status == 502 else "application/json"  # noqa: PLR2004 - the error page of a gateway
        return Response(messages.outage(status, self._dialect), status, media_type=media_type)

    def _refused(self, refusal: Refusal, *, reason: str | None = None) -> Response:
        answer = self._answer(refusal)
        self._twin.refuse(answer.status_code, reason or refusal.code)
        return answer

    def _answer(self, refusal: Refusal) -> Response:
        status, body = messages.refusal_body(refusal, self._twin.rules, self._dialect)
        limited = status == FULL.status and self._twin.rules.rate_limit_headers
        limit = str(self._twin.rules.account_slots)
        headers = {"Retry-After": "1", "X-RateLimit-Limit": limit, "X-RateLimit-Remaining": "0"}
        return JSONResponse(body, status, headers=headers if limited else None)


def origin_of(request: Request) -> str:
    """Return the scheme and host that the caller used, without a trailing slash."""
    return str(request.base_url).rstrip("/")
