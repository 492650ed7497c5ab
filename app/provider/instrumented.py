"""Metrics and traces of requests to the provider: their duration and the meaning of the response."""

import time
from collections.abc import Awaitable
from typing import Literal

from opentelemetry.trace import SpanKind

from app.provider.contract import ProviderResponse
from app.rules.task import Said
from app.telemetry import metrics, tracing

# Problems of the provider, the account or the network. A refused or failed task is a normal response.
_PROBLEMS = frozenset({Said.BUSY, Said.UNPAID, Said.KEY_REFUSED, Said.BLOCKED, Said.DOWN, Said.LOST})


async def observed(request: Literal["submit", "poll"], pending: Awaitable[ProviderResponse]) -> ProviderResponse:
    """Await a response, count it by its meaning, and record a span if tracing is on."""
    started = time.monotonic()
    with tracing.span(f"provider {request}", SpanKind.CLIENT) as span:
        response = await pending
        said = response.report.said
        metrics.provider_requests.labels(request, said).observe(time.monotonic() - started)
        span.set_attribute("fluxhook.said", said)
        if response.http_status is not None:
            span.set_attribute("http.response.status_code", response.http_status)
        if said in _PROBLEMS:
            tracing.fail(span, said)
    return response
