"""Ids in paths. An id that Fluxhook cannot have created is answered with 404 before the database is queried."""

from typing import Annotated

from fastapi import Depends, Path

from app import ids
from app.db.tables import api_keys, applications
from app.errors import NotFound


def require_task_id(task_id: Annotated[str, Path(description="The id of the task.")]) -> str:
    """Return a valid task id. Raises NotFound."""
    return _require("task", task_id, "task")


def _require_delivery_id(delivery_id: Annotated[str, Path(description="The id of the delivery.")]) -> str:
    return _require("dlv", delivery_id, "delivery")


def _require_endpoint_id(endpoint_id: Annotated[str, Path(description="The id of the endpoint.")]) -> str:
    return _require("ep", endpoint_id, "endpoint")


def _require_key_id(key_id: Annotated[str, Path(description="The id of the API key.")]) -> str:
    return key_id if key_id == api_keys.ADMIN_ID else _require("key", key_id, "key")


def _require_application_id(application_id: Annotated[str, Path(description="The id of the application.")]) -> str:
    if application_id == applications.ADMIN_ID:
        return application_id
    return _require("app", application_id, "application")


def _require_erasure_id(erasure_id: Annotated[str, Path(description="The id of the erasure.")]) -> str:
    return _require("ers", erasure_id, "erasure")


def _require(prefix: str, text: str, noun: str) -> str:
    # PostgreSQL does not accept every text, such as one with NUL.
    if not ids.is_id(prefix, text):
        raise NotFound(f"there is no such {noun}")
    return text


# Dependencies and not validators: they run in the order of a route's parameters, before its body is read.
TaskId = Annotated[str, Depends(require_task_id)]
DeliveryId = Annotated[str, Depends(_require_delivery_id)]
EndpointId = Annotated[str, Depends(_require_endpoint_id)]
ErasureId = Annotated[str, Depends(_require_erasure_id)]
KeyId = Annotated[str, Depends(_require_key_id)]
ApplicationId = Annotated[str, Depends(_require_application_id)]
