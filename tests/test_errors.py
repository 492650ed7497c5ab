import inspect
import re

import pytest

from app import errors
from app.errors import FluxhookError

ERRORS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, FluxhookError) and "code" in vars(kind)
]
each_error = pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)


def test_every_code_means_one_error() -> None:
    codes = [kind.code for kind in ERRORS]

    assert sorted(codes) == sorted(set(codes))


@each_error
def test_a_code_is_a_snake_case_word(kind: type[FluxhookError]) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)


@each_error
def test_an_error_has_an_http_status(kind: type[FluxhookError]) -> None:
    assert 400 <= kind.status < 600


@each_error
def test_an_error_has_a_title_of_its_own(kind: type[FluxhookError]) -> None:
    assert vars(kind)["title"]


@each_error
def test_an_error_is_retryable_only_if_the_request_need_not_change(kind: type[FluxhookError]) -> None:
    is_temporary = kind.status >= 500 or kind.status == 429 or kind is errors.RequestInFlight

    assert is_temporary or not kind.retryable


def test_the_docstring_lists_every_error() -> None:
    drawn = set(re.findall(r"\b[A-Z][A-Za-z]+\b", errors.__doc__ or ""))

    assert {kind.__name__ for kind in ERRORS} <= drawn


def test_an_error_reads_as_its_detail() -> None:
    assert str(errors.NotFound("there is no such task")) == "there is no such task"


def test_the_fields_of_an_error_are_a_copy() -> None:
    fields = {"prompt": "is missing"}
    error = errors.InvalidRequest("the request breaks a rule", fields)
    fields.clear()

    assert error.fields == {"prompt": "is missing"}


@pytest.mark.parametrize(
    "kind",
    [errors.DatabaseUnavailable, errors.StoreUnavailable, errors.ProviderUnavailable, errors.DiskUnavailable],
)
def test_clients_see_the_same_error_whichever_resource_is_unavailable(kind: type[errors.Unavailable]) -> None:
    assert (kind.code, kind.status, kind.title) == ("unavailable", 503, errors.Unavailable.title)
    assert kind.retryable
    assert kind.resource
