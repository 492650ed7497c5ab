"""Traces: one from the submitting request to the last job of a task, exported as OTLP, without private data."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Sent

from app.db.engine.database import open_database
from app.db.tables import tasks
from app.errors import ConfigurationError
from app.telemetry import tracing
from app.twin import Faults
from app.worker import loop
from tests.calling import caller_of, small
from tests.pictures import in_base64, picture
from tests.postgres import keep_time
from tests.receivers import URL, receiver
from tests.world import ADMIN_KEY, World

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
VARIABLES = (
    "OTEL_SDK_DISABLED",
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_SERVICE_NAME",
    "OTEL_RESOURCE_ATTRIBUTES",
)


@dataclass
class Collector:
    """A stand-in for an OpenTelemetry collector: it accepts OTLP over HTTP and records it."""

    address: str
    bodies: list[bytes] = field(default_factory=list)

    @property
    def resources(self) -> list[dict[str, str]]:
        return [
            {each.key: each.value.string_value for each in group.resource.attributes}
            for body in self.bodies
            for group in ExportTraceServiceRequest.FromString(body).resource_spans
        ]

    @property
    def spans(self) -> list[Sent]:
        groups = (g for body in self.bodies for g in ExportTraceServiceRequest.FromString(body).resource_spans)
        return [span for group in groups for scope in group.scope_spans for span in scope.spans]

    def named(self, name: str) -> list[Sent]:
        return [span for span in self.spans if span.name == name]


@pytest.fixture
def collector() -> Generator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            kept.bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield kept
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@asynccontextmanager
async def another_process(world: World, database_url: str) -> AsyncGenerator[World]:
    """A worker that shares nothing with the API but the database and the images."""
    async with open_database(database_url) as db:
        keep_time(db, world.clock)
        yield replace(world, use=replace(world.use, db=db))


async def without_context(doing: Coroutine[Any, Any, Any]) -> None:
    """Run this in a context of its own: no span of ours is current there."""
    await asyncio.create_task(doing, context=Context())


async def test_a_task_is_one_trace_from_its_request_to_its_last_job_across_processes(
    each_world: World, database_url: str, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
    small(each_world)
    receiver(each_world)
    with tracing.sending():
        posted = await each_world.api.post(
            "/v1/tasks",
            json={"prompt": "Rumpelstiltskin spins", "input_image": in_base64(picture()), "webhook_url": URL},
            headers={"traceparent": f"00-{TRACE}-{PARENT}-01"},
        )
        async with another_process(each_world, database_url) as elsewhere:
            await without_context(elsewhere.work())
            await without_context(elsewhere.go_on(5))
        caller = await caller_of(each_world, posted.json()["id"])

    ours = {span.name for span in collector.spans if span.trace_id.hex() == TRACE}
    (request,) = collector.named("POST /v1/tasks")
    (dispatch,) = collector.named("job dispatch")
    (submit,) = collector.named("provider submit")
    (callback,) = collector.named("callback")
    assert ours >= {
        "POST /v1/tasks",
        "job dispatch",
        "provider submit",
        "callback",
        "job collect",
        "store put",
        "webhook",
    }
    assert request.parent_span_id.hex() == PARENT
    assert dispatch.parent_span_id == callback.parent_span_id == request.span_id
    assert submit.parent_span_id == dispatch.span_id
    (route,) = collector.named("POST /callbacks/{submission_id}/{token}")
    assert [link.span_id for link in callback.links] == [route.span_id]
    sent = b"".join(collector.bodies)
    assert caller.task_id.encode() in sent
    for private in (caller.proof.token, caller.proof.secret, "Rumpelstiltskin", ADMIN_KEY, "a-provider-key", "sig="):
        assert private.encode() not in sent


async def test_a_failed_span_has_an_error_type_and_no_message(
    world: World, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.address}/v1/traces")
    with tracing.sending():
        world.twin.faults = Faults(lose_answer_after=1)
        await world.post()
        await world.work()
        with pytest.raises(ValueError, match="sig=secret"), tracing.span("anything"):
            raise ValueError("https://delivery.example/image?sig=secret")

    (submit,) = collector.named("provider submit")
    (anything,) = collector.named("anything")
    assert [span.status.code for span in (submit, anything)] == [2, 2]
    assert [each.value.string_value for each in anything.attributes if each.key == "error.type"] == ["ValueError"]
    assert not anything.events
    assert b"sig=secret" not in b"".join(collector.bodies)


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "fluxhook"),
        ({"OTEL_SERVICE_NAME": "images"}, "images"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=pictures,team=a"}, "pictures"),
    ],
    ids=["default", "named", "attributes"],
)
def test_the_service_has_a_name(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], name: str
) -> None:
    for each, value in {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.address, **variables}.items():
        monkeypatch.setenv(each, value)
    with tracing.sending(), tracing.span("anything"):
        pass

    (resource,) = collector.resources
    assert resource["service.name"] == name


@pytest.mark.parametrize(
    "off",
    [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_SDK_DISABLED": "True"},
    ],
    ids=["empty", "none", "disabled"],
)
async def test_tracing_is_off_unless_it_is_configured(
    world: World, collector: Collector, monkeypatch: pytest.MonkeyPatch, off: dict[str, str]
) -> None:
    for each, value in {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.address, **off}.items():
        monkeypatch.setenv(each, value)
    with tracing.sending():
        task_id = await world.post()
        await loop.run_once(world.use)
        on = tracing.is_on()

    assert (on, collector.bodies) == (False, [])
    task = await world.use.db.read(lambda connection: tasks.get(connection, task_id))
    assert task is not None
    assert task.traceparent is None


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL"),
    ],
)
def test_an_unsupported_setting_is_an_error_at_the_start(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], named: str
) -> None:
    for each, value in variables.items():
        monkeypatch.setenv(each, value)

    with pytest.raises(ConfigurationError, match=named), tracing.sending():
        pass


@pytest.mark.parametrize("given", ["nonsense", f"00-{'0' * 32}-{PARENT}-01", "00-" + "a" * 900])
async def test_an_invalid_traceparent_starts_a_new_trace(
    world: World, collector: Collector, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
    with tracing.sending():
        await world.api.get("/v1/tasks", headers={"traceparent": given})

    (span,) = collector.named("GET /v1/tasks")
    assert span.parent_span_id == b""


async def test_the_sampling_decision_of_the_caller_applies_to_the_last_job(
    world: World, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
    with tracing.sending():
        await world.api.post(
            "/v1/tasks", json={"prompt": "a red fox"}, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"}
        )
        await world.work()

    assert collector.spans == []


async def test_health_checks_and_scrapes_are_not_traced(
    world: World, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
    with tracing.sending():
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await world.api.get(path)).status_code == 200

    assert collector.spans == []


def test_the_sdk_is_not_imported_while_tracing_is_off() -> None:
    asks = (
        "import sys; from app.telemetry import tracing\n"
        "with tracing.sending(), tracing.span('anything'): pass\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    found = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True)  # noqa: S603

    assert found.stdout == "[]\n"
