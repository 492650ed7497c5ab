"""What it takes to ask a provider, for whoever watches: how long, and what the answer said."""

import time
from collections.abc import Awaitable
from typing import Literal

from opentelemetry.trace import SpanKind

from app.provider.contract import ProviderResponse
from app.rules.task import Said
from app.telemetry import metrics, tracing

# What is amiss with the provider or the way to it; a task that it refuses or fails is no trouble of that kind.
_TROUBLE = frozenset({Said.BUSY, Said.UNPAID, Said.DOWN, Said.LOST})


async def observed(request: Literal["submit", "poll"], asking: Awaitable[ProviderResponse]) -> ProviderResponse:
    """Wait for an answer, count it by what it says, and show it as a span where tracing is on."""
    started = time.monotonic()
    with tracing.span(f"provider {request}", SpanKind.CLIENT) as span:
        answer = await asking
        said = answer.report.said
        metrics.provider_requests.labels(request, said).observe(time.monotonic() - started)
        span.set_attribute("fluxhook.said", said)
        if answer.http_status is not None:
            span.set_attribute("http.response.status_code", answer.http_status)
        if said in _TROUBLE:
            tracing.fail(span, said)
    return answer
