"""Reading what providers say, in every form that was documented or seen: never raises, never guesses.

Two payload forms of callbacks are read (`id`/`Ready` and `task_id`/`SUCCESS`), the status answers of BFL, the
camelCase times of GPTProto, and four shapes of error text.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_plus, urlsplit

from app.rules.task import Failure, Report, Said

_MAX_ID = 200
_MAX_URL = 4096
_MAX_PROSE = 2000
_MAX_AMOUNT = 10**12

# Lower-case words for every status that a source names. Unknown ones are never terminal.
_PENDING = frozenset({"pending", "queued", "processing", "reasoning", "generating", "in progress", "submitted"})
_READY = frozenset({"ready", "success", "completed", "succeeded"})
_FAILURES = {
    "error": Failure.PROVIDER_ERROR,
    "failed": Failure.PROVIDER_ERROR,
    "request moderated": Failure.REQUEST_MODERATED,
    "content moderated": Failure.CONTENT_MODERATED,
    "generated content moderated": Failure.CONTENT_MODERATED,
}
_IDS = ("id", "task_id")
_NO_MESSAGE = Report(Said.UNCLEAR, detail="not a JSON object")


def parse(body: bytes) -> Mapping[str, Any] | None:
    """The JSON object in these bytes; None when they hold none. Deep nesting is no object either."""
    try:
        # Told what it is, the library need not find out; a second byte of NUL would be UTF-16.
        value = json.loads(body.decode() if body[:1] == b"{" and body[1:2] != b"\0" else body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_status(body: bytes) -> Report:
    """What a status answer says. We asked about one task: what it calls that is told, and not judged."""
    message = parse(body)
    return _NO_MESSAGE if message is None else _status(message)


def read_callback(body: bytes) -> Report:
    """What a callback says. One that gives no id is known by its address; an unusable id, or two, make it unclear."""
    message = parse(body)
    if message is None:
        return _NO_MESSAGE
    named = {_text(given) for given in map(message.get, _IDS) if given not in (None, "")}
    if None in named or len(named) > 1:
        return Report(Said.UNCLEAR, detail="not the id of one task")
    return _status(message)


def _status(message: Mapping[str, Any]) -> Report:
    provider_id = _id_in(message)
    status = (_text(message.get("status")) or "").lower().replace("_", " ").strip()
    if status in _PENDING:
        return Report(Said.PENDING, provider_id=provider_id)
    if status in _READY:
        return _ready(message, provider_id)
    if status in _FAILURES:
        return _failed(message, provider_id, _FAILURES[status])
    if status == "task not found":
        return Report(Said.NOT_FOUND, detail="Task not found")
    return Report(Said.UNCLEAR, provider_id=provider_id, detail="a status that is not known")


def read_acceptance(body: bytes) -> Report:
    """What a 2xx answer to a submit says: the task's id, and `polling_url` and `cost` where they are given."""
    message = parse(body) or {}
    provider_id = _id_in(message)
    if provider_id is None:
        return Report(Said.UNCLEAR, detail="an acceptance without an id")
    return Report(
        Said.PENDING,
        provider_id=provider_id,
        polling_url=_text(message.get("polling_url"), _MAX_URL),
        cost=_number(message.get("cost")),
    )


def read_credits(body: bytes) -> float | None:
    """The balance in the answer to `GET /v1/credits`, in credits; None when it holds none."""
    return _number((parse(body) or {}).get("credits"))


def read_error(body: bytes) -> str:
    """The text of an error answer: `detail` (text or list), `message`, `error` (text or object); else nothing."""
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


def link_expiry(url: str) -> datetime | None:
    """When a signed link dies: its own `se=`, the expiry of an Azure shared access signature, in UTC."""
    found = f"&{url.partition('#')[0].partition('?')[2]}".partition("&se=")[2].partition("&")[0]
    if not found:
        return None
    try:
        if "[" in url:
            urlsplit(url)  # which knows what is no address; it takes long, and no provider's link has brackets
        expiry = datetime.fromisoformat(unquote_plus(found.replace("%3A", ":")))
        return expiry.astimezone(UTC) if expiry.tzinfo else expiry.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # no instant, or one that UTC pushes out of the calendar
        return None


def _id_in(message: Mapping[str, Any]) -> str | None:
    return _text(message.get("id")) or _text(message.get("task_id"))


def _ready(message: Mapping[str, Any], provider_id: str | None) -> Report:
    result = message.get("result")
    if isinstance(result, str):  # seen: the result as a JSON string
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
        cost=_number(message.get("cost")),
    )


def _failed(message: Mapping[str, Any], provider_id: str | None, failure: Failure) -> Report:
    details = message.get("details")
    details = details if isinstance(details, dict) else {}
    reasons = details.get("Moderation Reasons")
    if isinstance(reasons, list):
        detail = _prose(", ".join(_word(reason) for reason in reasons))
    else:
        detail = _prose(details.get("error")) or _error_text(message)
    if message.get("error") == "content_policy_violation":
        # The webhook guide has one code for both kinds of moderation; the text may tell which.
        asked = detail.lower() == "request moderated"
        failure = Failure.REQUEST_MODERATED if asked else Failure.CONTENT_MODERATED
    return Report(Said.FAILED, provider_id=provider_id, failure=failure, detail=detail or None)


def _validation_text(items: list[Any]) -> str:
    """FastAPI's list of `loc`, `msg`, `type`, without the input that some versions repeat."""
    lines = []
    for item in items[:10]:
        if isinstance(item, dict):
            loc = item.get("loc")
            place = ".".join(_word(part) for part in loc) if isinstance(loc, list) else _word(loc)
            lines.append(f"{place}: {_word(item.get('msg'))}")
        else:
            lines.append(_word(item))
    return _prose("; ".join(lines))


def _text(value: Any, limit: int = _MAX_ID) -> str | None:
    """A name or an address, whole; None when it is none or is longer than any real one."""
    if not isinstance(value, str) or not value or len(value) > limit:
        return None
    return _storable(value) or None


def _word(value: Any) -> str:
    return str(value) if isinstance(value, str | int | float) else ""


def _prose(value: Any) -> str:
    return _storable(value[:_MAX_PROSE]) if isinstance(value, str) else ""


def _storable(text: str) -> str:
    """PostgreSQL text holds no NUL, and UTF-8 no lone surrogate."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "").encode(errors="replace").decode()


def _number(value: Any) -> float | None:
    """An amount of credits; None for what is none, or too much to be added up with others."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # A whole number can be larger than any float, and is compared all the same; NaN is not in between.
    return float(value) if -_MAX_AMOUNT <= value <= _MAX_AMOUNT else None
