"""The OpenAPI document is true: its examples match its schemas, and the service gives no other answers."""

import asyncio
import json
import threading
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import httpx
import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.catalog import shipped_catalog
from app.main import create_app
from app.params import OPTIONS
from tests.services import services_running
from tests.world import ADMIN_KEY

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
DOCUMENT: dict[str, Any] = create_app(nullcontext(cast("Any", None)), with_worker=False).openapi()
# With the full length, each pattern for a prompt takes a second to compile.
_TAMED = json.loads(json.dumps(DOCUMENT).replace('"maxLength": 65536', '"maxLength": 500'))
# Of the paths that select a model, one for each kind of row: the others differ in their parameters alone.
_MODELS = {"flux-kontext-pro", "flux-2-pro", "flux-3-image", "flux-tools/erase-v1"}
_LEFT_OUT = {f"{mount}/v1/{model}" for mount in ("", "/flux") for model in {*shipped_catalog().served} - _MODELS}
Operations = dict[str, APIOperation[Any, Any, Any, Any]]


def _operations(document: dict[str, Any]) -> Operations:
    """Return the operations of a document that are tested, by their labels."""
    found = (each.ok() for each in schemathesis.openapi.from_dict(document).get_all_operations())  # type: ignore[union-attr]
    return {operation.label: operation for operation in found if operation.path not in _LEFT_OUT}


def _without_forms(document: dict[str, Any]) -> dict[str, Any]:
    """Return a copy in which no body that can be JSON can also be a form.

    Of an invalid form with files, the generator sometimes raises "Unsupported type: 'Binary'".
    """
    copy: dict[str, Any] = json.loads(json.dumps(document))
    for operation in (operation for path in copy["paths"].values() for operation in path.values()):
        content = operation.get("requestBody", {}).get("content", {})
        if "application/json" in content:
            content.pop("multipart/form-data", None)
    return copy


OPERATIONS = _operations(_TAMED)
_WITHOUT_FORMS = _operations(_without_forms(_TAMED))
ECHO = "POST /callbacks/reachability/check/{token}"  # takes any token, and reads nothing
KEYLESS = ("/results/", "/callbacks/", "/healthz", "/readyz")
# The service in the other thread uses `random` for its jitter, which hypothesis attributes to a strategy.
pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")
each_operation = pytest.mark.parametrize("label", OPERATIONS)


@dataclass
class Service:
    """Fluxhook with its worker and its twin, and the ids of its tasks."""

    address: str
    task_ids: list[str]
    sample: httpx.URL


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Generator[Service]:
    """Run the service in a thread, because the checks block."""
    folder = tmp_path_factory.mktemp("openapi")
    database = folder / "fluxhook.db"
    database.write_bytes(sqlite_template.read_bytes())
    started: list[Service] = []
    begun, ended = threading.Event(), threading.Event()

    async def run() -> None:
        env = {"FLUXHOOK_OPENAI_WAIT_SECONDS": "5"}
        async with services_running(folder, f"sqlite:///{database}", ready_after_s=0.05, env=env) as (ours, theirs):
            async with httpx.AsyncClient(base_url=theirs, timeout=60) as twin:
                await twin.put("/twin/rules", json={"megapixels": 0.01})
            async with httpx.AsyncClient(base_url=ours, headers={"x-key": ADMIN_KEY}, timeout=60) as api:
                started.append(await _with_tasks(ours, api))
            begun.set()
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert begun.wait(120)
    yield started[0]
    ended.set()
    thread.join()


async def _with_tasks(address: str, api: httpx.AsyncClient) -> Service:
    """Post three tasks: one is stored, one fails and one never finishes."""
    posted = [await api.post("/v1/flux-kontext-pro", json={"prompt": p}) for p in ("fox", "fail", "never finishes")]
    task_ids = [answer.json()["id"] for answer in posted]
    for task_id in task_ids[:2]:
        await api.get(f"/v1/tasks/{task_id}", headers={"prefer": "wait=60"})
    polled = await api.get(posted[0].json()["polling_url"])
    return Service(address, task_ids, httpx.URL(polled.json()["result"]["sample"]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    st.lists,
    max_leaves=3,
)
FIELDS = [
    *OPTIONS,
    *shipped_catalog().model("flux-kontext-pro").properties,
    "image_prompt",
    "input_image_5",
    "no such field",
]


@cache
def cases(label: str, *modes: GenerationMode) -> st.SearchStrategy[Case[Any]]:
    """Return a strategy for requests of this operation."""
    operations = {GenerationMode.POSITIVE: OPERATIONS, GenerationMode.NEGATIVE: _WITHOUT_FORMS}
    return st.one_of(*(operations[mode][label].as_strategy(mode) for mode in modes))


def search(label: str, service: Service, examples: int, *modes: GenerationMode) -> None:
    """Send this many requests of an operation, some of them for existing tasks or with unexpected fields."""

    @settings(max_examples=examples, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(
        case=cases(label, *modes),
        known=st.sampled_from([*service.task_ids, None, None, None]),
        odd=st.none() | st.dictionaries(st.sampled_from(FIELDS), JSON),
    )
    def send(case: Case[Any], known: str | None, odd: dict[str, Any] | None) -> None:
        aim(case, known, service)
        if odd is not None and isinstance(case.body, dict) and case.media_type == "application/json":
            case.body = {**case.body, **odd}
        headers = {} if case.operation.path.startswith(KEYLESS) else {"x-key": ADMIN_KEY}
        answer = case.call(base_url=service.address, headers=headers, timeout=120)
        case.validate_response(answer, checks=CHECKS)

    send()


def aim(case: Case[Any], known: str | None, service: Service) -> None:
    """Replace the generated task id of the case by a known one, and add the signature of a link."""
    if known is None:
        return
    if case.operation.path == "/v1/tasks/{task_id}/events" and known == service.task_ids[-1]:
        known = service.task_ids[0]  # the stream of a task that never finishes stays open for minutes
    if "task_id" in (case.path_parameters or {}):
        case.path_parameters["task_id"] = known
    if case.operation.path.endswith("/get_result"):
        case.query = {"id": known}
    if case.operation.path.startswith("/results/"):
        case.query = dict(service.sample.params)
        case.path_parameters["suffix"] = "png"


def modes(label: str) -> list[GenerationMode]:
    """Valid and invalid requests; only valid ones if there is a body, because invalid bodies take long to generate."""
    return [GenerationMode.POSITIVE] if OPERATIONS[label].body else list(GenerationMode)


@each_operation
def test_no_request_gets_an_answer_that_is_not_in_the_document(service: Service, label: str) -> None:
    search(label, service, 4, *modes(label))


@pytest.mark.proof
@each_operation
def test_no_request_of_a_long_search_gets_an_answer_that_is_not_in_the_document(
    service: Service, label: str, pytestconfig: pytest.Config
) -> None:
    """`make prove ARGS='tests/web/test_openapi.py --examples 200'` takes some minutes."""
    search(label, service, pytestconfig.getoption("examples"), *modes(label))
    if OPERATIONS[label].body:
        search(label, service, 20, GenerationMode.NEGATIVE)


def examples(node: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Yield every example of the document, with its location and its schema."""
    if isinstance(node, list):
        for number, each in enumerate(node):
            yield from examples(each, f"{place}/{number}")
    if not isinstance(node, dict):
        return
    found = node.get("examples", [])
    if isinstance(found, dict) and "schema" in node:
        yield from ((f"{place}/{name}", node["schema"], each["value"]) for name, each in found.items())
    elif isinstance(found, list):
        yield from ((f"{place}/{number}", node, each) for number, each in enumerate(found))
    for name, each in node.items():
        if name not in {"examples", "value"}:
            yield from examples(each, f"{place}/{name}")


EXAMPLES = {place: (schema, example) for place, schema, example in examples(DOCUMENT)}


def test_every_example_fits_its_schema() -> None:
    for place, (schema, example) in EXAMPLES.items():
        whole = {**schema, "components": DOCUMENT["components"]}
        assert jsonschema_rs.validator_for(whole).is_valid(example), place


def test_the_main_requests_and_responses_have_examples() -> None:
    told = "\n".join(EXAMPLES)

    for name in ("Submitted", "Polled", "Credits", "Problem", "ErrorMembers"):
        assert f"/components/schemas/{name}/" in told
    for path in ("/v1/tasks", "/v1/flux-kontext-pro", "/flux/v1/flux-3-image"):
        assert f"/paths/{path}/post/requestBody/" in told


@each_operation
def test_an_operation_has_a_description_and_all_its_responses(label: str) -> None:
    operation = DOCUMENT["paths"][OPERATIONS[label].path][OPERATIONS[label].method]
    statuses = set(operation["responses"])

    assert operation["description"]
    assert all(answer["description"] for answer in operation["responses"].values())
    assert any(status < "300" for status in statuses)
    guarded = not OPERATIONS[label].path.startswith(KEYLESS)
    assert ("security" in operation) == guarded
    assert not guarded or statuses & {"401", "403"}
    assert label in {"GET /healthz", "GET /metrics", ECHO} or "503" in statuses
    assert "{" not in label or label == ECHO or "404" in statuses
    if operation.get("requestBody", {}).get("required"):
        # OpenAI's clients know no 422.
        assert statuses >= {"400", "413", "415", *(() if label.startswith("POST /openai/") else ("422",))}


def test_a_form_describes_both_ways_to_send_a_list() -> None:
    forms = DOCUMENT["paths"]["/v1/tasks"]["post"]["requestBody"]["content"]["multipart/form-data"]
    told = forms["schema"]["properties"]["webhook_events"]

    assert told["anyOf"][0]["type"] == "array"
    assert told["description"] == "One part for each name, or one part with commas between names."
    assert "encoding" not in forms  # without one a list is a part for each of its elements


def test_no_two_operations_share_an_id() -> None:
    ids = [operation["operationId"] for path in DOCUMENT["paths"].values() for operation in path.values()]

    assert len(ids) == len(set(ids))
