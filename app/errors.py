"""All errors of Fluxhook. Each has a stable code, an HTTP status, a title and a detail.

    FluxhookError
      ConfigurationError     a setting is invalid; the detail names the setting and the fix
      RequestError           the caller can correct the request (4xx)
        MalformedRequest  Unauthorized  Forbidden  NotFound  Conflict  EventsGone  TooLarge  UnsupportedMediaType
        RangeNotSatisfiable  InvalidRequest  KeyReused  LinkExpired  ImageRemoved  ClientGone
          KeyRefused           Unauthorized with the provider's status, 403
          RequestInFlight      a temporary Conflict
          ModelNotFound        a NotFound
        BudgetExceeded  LimitExceeded  TooManyWrongKeys
      Unavailable            a temporary failure of the service; the caller can retry (503)
        Overloaded           requests arrive faster than they can be written
        DatabaseUnavailable  StoreUnavailable  ProviderUnavailable  DiskUnavailable
                             the resource that failed, with the code of Unavailable
        TaskMayExist         the database went away while a task was being recorded
        DiskFull             only the reserve for tasks in progress is left on a disk
      TaskUnfinished         a client waited for tasks that go on (504)
      TaskEnded              a client waited for a task that ended without an image
      ResultRefused          the provider's link did not deliver a usable image

A detail states what was wrong, not what was sent: it never contains a secret, a prompt or image bytes.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType


class FluxhookError(Exception):
    """Base class. `detail` describes this occurrence; `fields` maps the name of an invalid field to the reason.

    `retryable` errors may succeed if the same request is sent again. `task_id` names the task that the error is about.
    """

    code = "internal_error"
    status = 500
    title = "Internal error"
    retryable = False
    task_id: str | None = None
    task_ids: Sequence[str] = ()  # if the error is about several
    retry_after: timedelta | None = None  # how long a client should wait; None: the usual time, if it is retryable

    @property
    def members(self) -> Mapping[str, str | float]:
        """What the error document states beside the members of every error."""
        return {} if self.task_id is None else {"task_id": self.task_id}

    def __init__(self, detail: str, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = dict(fields or {})


class ConfigurationError(FluxhookError):
    code = "configuration"
    title = "Invalid configuration"


class RequestError(FluxhookError):
    status = 400


class MalformedRequest(RequestError):
    code = "malformed_request"
    title = "Malformed request"


class ClientGone(RequestError):
    """The client has hung up while it waited. Only the log shows this, with the status that nginx gave it."""

    code = "client_gone"
    status = 499
    title = "The client has hung up"


class Unauthorized(RequestError):
    code = "unauthorized"
    status = 401
    title = "A valid API key is required"


class Forbidden(RequestError):
    code = "forbidden"
    status = 403
    title = "This API key has no permission for the request"


class KeyRefused(Unauthorized):
    status = 403


class NotFound(RequestError):
    code = "not_found"
    status = 404
    title = "Not found"


class ModelNotFound(NotFound):
    code = "model_not_found"
    title = "There is no such model"


class Conflict(RequestError):
    code = "conflict"
    status = 409
    title = "The request conflicts with the current state"


class RequestInFlight(Conflict):
    code = "request_in_flight"
    title = "The first request with this Idempotency-Key is still in progress"
    retryable = True


class EventsGone(RequestError):
    code = "events_gone"
    status = 410
    title = "The requested events are no longer available"


class TooLarge(RequestError):
    code = "too_large"
    status = 413
    title = "The request is too large"


class UnsupportedMediaType(RequestError):
    code = "unsupported_media_type"
    status = 415
    title = "Unsupported media type"


class RangeNotSatisfiable(RequestError):
    code = "range_not_satisfiable"
    status = 416
    title = "Range not satisfiable"


class InvalidRequest(RequestError):
    """`types` maps the name of an invalid field to the type of the error, as pydantic names it, if it is known."""

    code = "invalid_request"
    status = 422
    title = "Invalid request"
    types: Mapping[str, str] = MappingProxyType({})


class KeyReused(RequestError):
    code = "idempotency_key_reused"
    status = 422
    title = "This Idempotency-Key was used for a different request"


class BudgetExceeded(RequestError):
    """`remaining`: the credits that are left. `resets_at`: when the next period of the budget begins."""

    code = "budget_exceeded"
    status = 402
    title = "The budget does not allow this task"

    def __init__(self, detail: str, remaining: float, resets_at: datetime) -> None:
        super().__init__(detail)
        self.remaining = remaining
        self.resets_at = resets_at

    @property
    def members(self) -> Mapping[str, str | float]:
        return {"remaining": self.remaining, "resets_at": self.resets_at.isoformat().replace("+00:00", "Z")}


class TooManyWrongKeys(RequestError):
    code = "too_many_wrong_keys"
    status = 429
    title = "Too many different wrong API keys"
    retryable = True


class LimitExceeded(RequestError):
    """`limit`: the name of the application's limit, see `rules.limits.Limits`."""

    code = "limit_exceeded"
    status = 429
    title = "A limit of this application is reached"
    retryable = True

    def __init__(self, detail: str, limit: str, retry_after: timedelta | None = None) -> None:
        super().__init__(detail)
        self.limit = limit
        self.retry_after = retry_after

    @property
    def members(self) -> Mapping[str, str | float]:
        return {"limit": self.limit}


class LinkExpired(RequestError):
    code = "link_expired"
    status = 410
    title = "This link has expired"


class ImageRemoved(RequestError):
    code = "image_removed"
    status = 410
    title = "The retention of this image has ended"


class Unavailable(FluxhookError):
    """`resource` names what is unavailable, for the log. Clients see the same error for each."""

    code = "unavailable"
    status = 503
    title = "Temporarily unavailable"
    retryable = True
    resource: str | None = None


class Overloaded(Unavailable):
    code = "overloaded"
    title = "Temporarily overloaded"


class DatabaseUnavailable(Unavailable):
    resource = "database"


class StoreUnavailable(Unavailable):
    resource = "store"


class ProviderUnavailable(Unavailable):
    resource = "provider"


class DiskUnavailable(Unavailable):
    """The local disk, which holds DATA_DIR."""

    resource = "disk"


class TaskMayExist(DatabaseUnavailable):
    """Not retryable: a request without an Idempotency-Key could make a second task."""

    code = "task_may_exist"
    title = "The task may have been recorded"
    retryable = False

    def __init__(self, task_id: str) -> None:
        super().__init__(
            "the database went away while the task was being recorded: look for the task with this task_id before you "
            "send the request again. A request with an Idempotency-Key can be sent again safely"
        )
        self.task_id = task_id


class DiskFull(DiskUnavailable):
    code = "disk_full"
    title = "Not enough disk space"


class TaskUnfinished(FluxhookError):
    """The time to wait for tasks is over, and they go on."""

    code = "task_in_progress"
    status = 504
    title = "The task is not finished yet"

    def __init__(self, detail: str, task_ids: Sequence[str]) -> None:
        super().__init__(detail)
        self.task_id, self.task_ids = task_ids[0], tuple(task_ids)


class TaskEnded(FluxhookError):
    """A task ended without an image. `code` is the failure, and `status` says who can do something about it."""

    code = "task_failed"
    status = 502
    title = "The task ended without an image"

    def __init__(self, code: str, status: int, detail: str, task_ids: Sequence[str]) -> None:
        super().__init__(detail)
        self.code, self.status = code, status
        self.task_id, self.task_ids = task_ids[0], tuple(task_ids)


class ResultRefused(FluxhookError):
    code = "result_refused"
    status = 502
    title = "The provider's result is not usable"
    retryable = True
