"""Read the messages of providers, in every form that is documented or was seen. Never raises, never guesses.

The forms are: two payloads of callbacks (`id` with `Ready`, `task_id` with `SUCCESS`), the status responses of BFL, and
four forms of error text.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from urllib.parse import unquote_plus, urlsplit

from app.rules.task import Failure, Report, Said

_MAX_ID = 200  # characters, as the next two
_MAX_URL = 4096
_MAX_PROSE = 2000
_MAX_AMOUNT = 10**12  # credits
_MAX_WAIT_S = 3 * 3600

# Every status that a source names, in lower case. An unknown status never ends a task.
_PENDING = frozenset({"pending", "queued", "processing", "reasoning", "generating", "in progress", "submitted"})
_READY = frozenset({"ready", "success", "completed", "succeeded"})
_FAILURES = {
    "error": Failure.PROVIDER_ERROR,
    "failed": Failure.PROVIDER_ERROR,
    "request moderated": Failure.REQUEST_MODERATED,
    "content moderated": Failure.CONTENT_MODERATED,
    "generated content moderated": Failure.CONTENT_MODERATED,
}
_REASONS = frozenset({"moderation reasons", "moderation reason"})  # a list or a text, in `details` or elsewhere
_IDS = ("id", "task_id")
_INVALID_COST = "the stated cost is not an amount of credits and is ignored"

Reasons: TypeAlias = list[str] | str
_NO_MESSAGE = Report(Said.UNCLEAR, detail="not a JSON object")


def parse(body: bytes) -> Mapping[str, Any] | None:
    """Parse a JSON object; None if the bytes hold anything else, or nest too deeply."""
    try:
        # Decoding here spares `json` the detection of the encoding. A NUL as second byte means UTF-16.
        value = json.loads(body.decode() if body[:1] == b"{" and body[1:2] != b"\0" else body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_status(body: bytes) -> Report:
    """Read the response to a poll. The id that it gives is reported but not compared: the poll was about one task."""
    message = parse(body)
    return _NO_MESSAGE if message is None else _status(message)


def read_callback(body: bytes) -> Report:
    """Read a callback. Its address names the task, so an id may be missing; an invalid one, or two, make it UNCLEAR."""
    message = parse(body)
    if message is None:
        return _NO_MESSAGE
    ids = {_text(value) for value in map(message.get, _IDS) if value not in (None, "")}
    if None in ids or len(ids) > 1:
        return Report(Said.UNCLEAR, detail="not the id of one task")
    return _status(message)


def _status(message: Mapping[str, Any]) -> Report:
    provider_id = _id_in(message)
    status = (_text(message.get("status")) or "").lower().replace("_", " ").strip()
    if status in _PENDING:
        return _with_cost(Report(Said.PENDING, provider_id=provider_id), message)
    if status in _READY:
        return _with_cost(_ready(message, provider_id), message)
    if status in _FAILURES:
        return _with_cost(_failed(message, provider_id, _FAILURES[status]), message)
    if status == "task not found":
        return Report(Said.NOT_FOUND, detail="Task not found")
    return Report(Said.UNCLEAR, provider_id=provider_id, detail="a status that is not known")


def read_acceptance(body: bytes) -> Report:
    """Read a 2xx response to a submission: the task's id, and `polling_url` and `cost` if present."""
    message = parse(body) or {}
    provider_id = _id_in(message)
    if provider_id is None:
        return Report(Said.UNCLEAR, detail="an acceptance without an id")
    polling_url = _text(message.get("polling_url"), _MAX_URL)
    return _with_cost(Report(Said.PENDING, provider_id=provider_id, polling_url=polling_url), message)


def read_credits(body: bytes) -> float | None:
    """Read the balance from a response to `GET /v1/credits`, in credits; None if it holds none."""
    return _number((parse(body) or {}).get("credits"))


def read_wait(body: bytes) -> timedelta | None:
    """Read the wait of a refusal that gives it in `retry_after`, in seconds; None without one, or above three hours."""
    seconds = _number((parse(body) or {}).get("retry_after"))
    return timedelta(seconds=seconds) if seconds is not None and 0 < seconds <= _MAX_WAIT_S else None


def read_error(body: bytes) -> str:
    """Read the text of an error response: `detail` (text or list), `message`, `error` (text or object), else ""."""
    return _error_text(parse(body) or {})


def _error_text(message: Mapping[str, Any]) -> str:
    nested = message.get("error")
    candidates = [message.get("detail"), message.get("message")]
    candidates += [nested.get("message"), nested.get("code")] if isinstance(nested, dict) else [nested]
    for candidate in candidates:
        text = _validation_text(candidate) if isinstance(candidate, list) else _prose(candidate)
        if text:
            return text
    return ""


def is_cloudflares(message: Mapping[str, Any]) -> bool:
    """Whether an error is the JSON form of a page of Cloudflare, the CDN in front of BFL, instead of an API's error."""
    kind = message.get("type")
    return "ray_id" in message or (isinstance(kind, str) and kind.startswith("https://developers.cloudflare.com/"))


def link_expiry(url: str) -> datetime | None:
    """Read the expiry of a signed link in UTC: its `se=`, as in Azure shared access signatures; None without one."""
    value = f"&{url.partition('#')[0].partition('?')[2]}".partition("&se=")[2].partition("&")[0]
    if not value:
        return None
    try:
        if "[" in url:
            urlsplit(url)  # raises ValueError for an invalid host; slow, so skipped without brackets
        expiry = datetime.fromisoformat(unquote_plus(value.replace("%3A", ":")))
        return expiry.astimezone(UTC) if expiry.tzinfo else expiry.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # not a time, or one out of range in UTC
        return None


def _id_in(message: Mapping[str, Any]) -> str | None:
    return _text(message.get("id")) or _text(message.get("task_id"))


def _with_cost(report: Report, message: Mapping[str, Any]) -> Report:
    """Add the cost that the message states. An invalid one is ignored, and noted unless a detail says why it failed."""
    stated = message.get("cost")
    if stated is None:
        return report
    cost = _number(stated)
    if cost is None or cost < 0:
        return report if report.detail or report.said is Said.FAILED else report._replace(detail=_INVALID_COST)
    return report._replace(cost=cost or 0.0)  # `-0.0` is falsy


def _ready(message: Mapping[str, Any], provider_id: str | None) -> Report:
    result = message.get("result")
    if isinstance(result, str):  # seen in practice: the result as a JSON string
        result = parse(result.encode(errors="replace"))
    result = result if isinstance(result, dict) else {}
    sample = _text(result.get("sample"), _MAX_URL)
    if sample is None:
        return Report(Said.UNCLEAR, provider_id=provider_id, detail="ready, without a result")
    seed = result.get("seed")
    return Report(
        Said.READY,
        provider_id=provider_id,
        sample_url=sample,
        sample_expires_at=link_expiry(sample),
        seed=seed if isinstance(seed, int) and not isinstance(seed, bool) else None,
    )


def read_reasons(body: bytes) -> Reasons | None:
    """Read why a task was moderated, as the provider gave it: a list or a text; None without any reason."""
    return _reasons(parse(body) or {})


def _reasons(message: Mapping[str, Any]) -> Reasons | None:
    details, result = message.get("details"), message.get("result")
    for place in (details, result, message):
        named = place.items() if isinstance(place, Mapping) else ()
        for name, value in named:
            if name.lower().replace("_", " ") not in _REASONS:
                continue
            found = (
                [text for each in value if (text := _prose(_word(each)))] if isinstance(value, list) else _prose(value)
            )
            if found:
                return found
    return None


def _failed(message: Mapping[str, Any], provider_id: str | None, failure: Failure) -> Report:
    details = message.get("details")
    details = details if isinstance(details, dict) else {}
    reasons = _reasons(message)
    if reasons is not None:
        detail = reasons if isinstance(reasons, str) else _prose(", ".join(reasons))
    else:
        detail = _prose(details.get("error")) or _error_text(message)
    if message.get("error") == "content_policy_violation":
        # The webhook guide has one code for both kinds of moderation; the text may name the kind.
        of_request = _error_text({**message, "error": None}).lower() == "request moderated"
        failure = Failure.REQUEST_MODERATED if of_request else Failure.CONTENT_MODERATED
    return Report(Said.FAILED, provider_id=provider_id, failure=failure, detail=detail or None)


def _validation_text(items: list[Any]) -> str:
    """Join FastAPI's list of `loc`, `msg` and `type`, without the input that some versions repeat."""
    lines = []
    for item in items[:10]:
        if isinstance(item, dict):
            loc = item.get("loc")
            location = ".".join(_word(part) for part in loc) if isinstance(loc, list) else _word(loc)
            lines.append(f"{location}: {_word(item.get('msg'))}")
        else:
            lines.append(_word(item))
    return _prose("; ".join(lines))


def _text(value: Any, limit: int = _MAX_ID) -> str | None:
    """Return an id or URL, never shortened; None if it is empty, not text or longer than `limit`."""
    if not isinstance(value, str) or not value or len(value) > limit:
        return None
    return _storable(value) or None


def _word(value: Any) -> str:
    return str(value) if isinstance(value, str | int | float) else ""


def _prose(value: Any) -> str:
    return _storable(value[:_MAX_PROSE]) if isinstance(value, str) else ""


def _storable(text: str) -> str:
    """Remove what cannot be stored: PostgreSQL text allows no NUL, and UTF-8 no lone surrogate."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "").encode(errors="replace").decode()


def _number(value: Any) -> float | None:
    """Return an amount of credits; None if it is not a number or too large to be summed."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Compared before the conversion: an integer can exceed every float. NaN fails the comparison.
    return float(value) if -_MAX_AMOUNT <= value <= _MAX_AMOUNT else None
