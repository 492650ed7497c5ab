"""Every error that a user of Fluxhook can meet: a stable code, an HTTP status, a title, one detail.

    FluxhookError
      ConfigurationError     the settings cannot work; the detail names the setting and the mend
      RequestError           the caller can mend it (4xx)
        MalformedRequest  Unauthorized  Forbidden  NotFound  Conflict  EventsGone  TooLarge  UnsupportedMediaType
        RangeNotSatisfiable  InvalidRequest  KeyReused  LinkExpired
          KeyRefused           Unauthorized, in the provider's way: 403
          RequestInFlight      a Conflict that passes
      Unavailable            ours, and it passes: try again (503)
        Overloaded           more is coming in than can be written
      ResultRefused          what the provider's link gave is not a result that may be kept

A detail never holds a secret, a prompt or image bytes: it says what was wrong, not what was sent.
"""

from collections.abc import Mapping


class FluxhookError(Exception):
    code = "internal_error"
    status = 500
    title = "Something went wrong in Fluxhook"
    retryable = False

    def __init__(self, detail: str, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = dict(fields or {})


class ConfigurationError(FluxhookError):
    code = "configuration"
    title = "The configuration cannot work"


class RequestError(FluxhookError):
    status = 400


class MalformedRequest(RequestError):
    code = "malformed_request"
    title = "The request could not be read"


class Unauthorized(RequestError):
    code = "unauthorized"
    status = 401
    title = "A valid API key is needed"


class Forbidden(RequestError):
    code = "forbidden"
    status = 403
    title = "This API key may not do that"


class KeyRefused(Unauthorized):
    status = 403


class NotFound(RequestError):
    code = "not_found"
    status = 404
    title = "There is nothing here"


class Conflict(RequestError):
    code = "conflict"
    status = 409
    title = "That is not possible as things stand"


class RequestInFlight(Conflict):
    code = "request_in_flight"
    title = "The first request with this Idempotency-Key is still being worked on"
    retryable = True


class EventsGone(RequestError):
    code = "events_gone"
    status = 410
    title = "The feed does not go back that far"


class TooLarge(RequestError):
    code = "too_large"
    status = 413
    title = "That is more than Fluxhook takes"


class UnsupportedMediaType(RequestError):
    code = "unsupported_media_type"
    status = 415
    title = "Send JSON or multipart/form-data"


class RangeNotSatisfiable(RequestError):
    code = "range_not_satisfiable"
    status = 416
    title = "That range lies outside of the image"


class InvalidRequest(RequestError):
    code = "invalid_request"
    status = 422
    title = "The request breaks a rule"


class KeyReused(RequestError):
    code = "idempotency_key_reused"
    status = 422
    title = "This Idempotency-Key stands for another request"


class LinkExpired(RequestError):
    code = "link_expired"
    status = 410
    title = "This link has expired"


class Unavailable(FluxhookError):
    code = "unavailable"
    status = 503
    title = "Not possible at the moment"
    retryable = True


class Overloaded(Unavailable):
    code = "overloaded"
    title = "More is coming in than can be written"


class ResultRefused(FluxhookError):
    code = "result_refused"
    status = 502
    title = "What the provider's link gave is not an image"
    retryable = True
