"""The application as a whole: what its OpenAPI document promises."""

import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, cast

import pytest

from app import __version__
from app.catalog import DEFAULT_MODEL, shipped_catalog
from app.main import create_app
from tests.web.contract import KEPT, contract, kept
from tests.web.documents import problem
from tests.world import World

OPENAI_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/OpenAiError"}}}
PROBLEM = {"$ref": "#/components/schemas/Problem"}
# Not ours to shape: the provider's own envelopes, and what a load balancer's operator reads.
OTHERWISE = {
    ("/callbacks/{submission_id}/{token}", "401"),
    ("/v1/get_result", "404"),
    ("/flux/v1/get_result", "404"),
    ("/readyz", "503"),
    *(
        (f"{mount}/v1/{route}", "422")  # in the provider's form
        for mount in ("", "/flux")
        for route in (*shipped_catalog().served, "get_result")
    ),
}

Operation = tuple[str, str, dict[str, Any]]


@pytest.fixture(scope="module")
def openapi() -> dict[str, Any]:
    found: dict[str, Any] = create_app(nullcontext(cast("Any", None)), with_worker=False).openapi()
    return found


def operations(openapi: dict[str, Any]) -> Iterator[Operation]:
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def references(value: Any) -> Iterator[str]:
    """Every `$ref` in it."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def resolve(openapi: dict[str, Any], reference: str) -> Any:
    found: Any = openapi
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def test_paths_names_types_and_statuses_are_those_of_the_last_release(
    openapi: dict[str, Any], pytestconfig: pytest.Config
) -> None:
    """`pytest --regenerate` writes the kept copy anew: look at its difference before you commit it."""
    if pytestconfig.getoption("regenerate"):
        KEPT.write_text(json.dumps(contract(openapi), indent=1) + "\n")

    assert contract(openapi) == kept()


async def test_the_document_names_the_service_and_its_version(openapi: dict[str, Any]) -> None:
    assert (openapi["info"]["title"], openapi["info"]["version"]) == ("Fluxhook", __version__)


async def test_every_reference_has_a_target_and_every_schema_is_used(openapi: dict[str, Any]) -> None:
    found = set(references(openapi))

    assert all(resolve(openapi, reference) for reference in found)
    assert {f"#/components/schemas/{name}" for name in openapi["components"]["schemas"]} == found


def test_no_schema_is_named_after_a_python_module(openapi: dict[str, Any]) -> None:
    assert [name for name in openapi["components"]["schemas"] if "__" in name] == []


async def test_every_operation_of_the_api_needs_a_key_and_the_others_do_not(openapi: dict[str, Any]) -> None:
    guarded = {path for path, _, operation in operations(openapi) if operation.get("security")}

    api = ("/v1/", "/flux/v1/", "/openai/v1/", "/metrics")
    assert guarded == {path for path in openapi["paths"] if path.startswith(api)}
    assert set(openapi["components"]["securitySchemes"]) == {"bearer", "x-key"}


async def test_every_documented_error_is_the_error_document(openapi: dict[str, Any]) -> None:
    for path, method, operation in operations(openapi):
        for status, response in operation["responses"].items():
            if status < "400" or (path, status) in OTHERWISE:
                continue
            in_openais_form = path.startswith("/openai/v1/")
            expected = OPENAI_ERROR if in_openais_form else {"application/problem+json": {"schema": PROBLEM}}
            assert response["content"] == expected, (path, method, status)


async def test_every_answer_with_a_body_has_a_schema(openapi: dict[str, Any]) -> None:
    for path, method, operation in operations(openapi):
        for status, response in operation["responses"].items():
            schemas = [content["schema"] for content in response.get("content", {}).values()]
            assert all(schemas), (path, method, status)
            assert schemas or status in {"204", "302", "304"}, (path, method, status)


async def test_every_operation_has_a_name_of_its_own_and_says_what_it_does(openapi: dict[str, Any]) -> None:
    found = list(operations(openapi))

    assert len({operation["operationId"] for _, _, operation in found}) == len(found)
    assert all(operation["description"] for _, _, operation in found)


async def test_every_parameter_in_a_path_is_declared(openapi: dict[str, Any]) -> None:
    for path, _, operation in operations(openapi):
        declared = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
        assert declared == set(re.findall(r"{(\w+)}", path))


async def test_a_task_can_be_posted_in_the_documented_forms_with_only_a_prompt(openapi: dict[str, Any]) -> None:
    content = openapi["paths"]["/v1/tasks"]["post"]["requestBody"]["content"]

    assert set(content) == {"application/json", "multipart/form-data"}
    form, by_model = (content[name]["schema"] for name in ("multipart/form-data", "application/json"))
    default = resolve(openapi, by_model["discriminator"]["mapping"][DEFAULT_MODEL])
    assert default["required"] == ["prompt"]
    assert "required" not in form


def test_each_model_has_a_path_and_two_schemas(openapi: dict[str, Any]) -> None:
    body = openapi["paths"]["/v1/tasks"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    mapping = body["discriminator"]["mapping"]

    assert list(mapping) == shipped_catalog().served
    assert [option["$ref"] for option in body["oneOf"]] == list(mapping.values())
    assert all({f"/v1/{model}", f"/flux/v1/{model}"} <= openapi["paths"].keys() for model in mapping)
    assert all(
        resolve(openapi, reference)["properties"]["model"]["const"] == model for model, reference in mapping.items()
    )


def test_no_two_schemas_have_the_same_title(openapi: dict[str, Any]) -> None:
    titles = [schema["title"] for schema in openapi["components"]["schemas"].values()]

    assert sorted(titles) == sorted(set(titles))


async def test_an_error_that_happens_has_exactly_the_documented_members(world: World, openapi: dict[str, Any]) -> None:
    found = problem(await world.api.post("/v1/tasks", json={}), 422)

    schema = resolve(openapi, PROBLEM["$ref"])
    assert set(found) == set(schema["properties"]) - {"task_id", "remaining", "resets_at", "limit"}
    assert set(schema["required"]) == set(found) - {"fields"}


async def test_the_document_is_the_same_each_time(world: World, openapi: dict[str, Any]) -> None:
    assert (await world.outsider.get("/openapi.json")).json() == openapi


async def test_outgoing_webhooks_are_described_as_webhook_and_as_callback(openapi: dict[str, Any]) -> None:
    webhook = openapi["webhooks"]["task"]["post"]
    ((address, callback),) = openapi["paths"]["/v1/tasks"]["post"]["callbacks"]["told_of_task"].items()
    body = webhook["requestBody"]["content"]["application/json"]

    assert address == "{$request.body#/webhook_url}"
    assert callback["post"]["requestBody"]["content"]["application/json"] == body
    assert [each["$ref"].rpartition("/")[2] for each in body["schema"]["anyOf"]] == ["ProviderForm", "EventForm"]
    assert len(body["examples"]) == 5
    assert {each["name"] for each in webhook["parameters"]} == {
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
        "x-bfl-signature",
        "x-webhook-secret",
    }
    assert set(webhook["responses"]) == {"200", "410"}
