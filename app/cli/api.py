"""HTTP calls of the client commands to a running service, through its public API."""

import json
import os
import ssl
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from app.cli.failure import fail
from app.security.outbound import trusted
from app.settings import CLIENT_KEY, CLIENT_KEY_FILE, CLIENT_URL, Settings

_ALL_INTERFACES = frozenset({"0.0.0.0", "::"})  # noqa: S104 - recognised, not listened on
_WHICH = f"name the URL of the service with --url or {CLIENT_URL}"
_TIMEOUT_S = 90  # more than the longest `Prefer: wait`


@contextmanager
def connect(settings: Settings, url: str | None, key: str | None) -> Generator[httpx.Client]:
    """Yield a client for `url`, by default the configured host and port, with `key`, by default the admin key.

    A URL or a key that cannot be used ends the command.
    """
    with httpx.Client(**client_options(settings, url, key)) as client:
        yield client


def client_options(settings: Settings, url: str | None, key: str | None) -> dict[str, Any]:
    """Return what a client of httpx needs to reach the service. Ends the command if the URL or key cannot be used."""
    base_url = _checked(url or local_url(settings))
    # A context without authorities for plain http: loading them takes time. Redirects are not followed.
    is_tls = base_url.lower().startswith("https:")
    tls = trusted(settings.ca_file) if is_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return {
        "base_url": base_url,
        "headers": {"authorization": f"Bearer {_key(settings, key)}"},
        "timeout": _TIMEOUT_S,
        "trust_env": False,
        "verify": tls,
    }


def local_url(settings: Settings) -> str:
    host = "127.0.0.1" if settings.host in _ALL_INTERFACES else settings.host
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def task_path(task_id: str) -> str:
    """Return the path of a task. An ID is quoted, so that a mistyped one is not taken for another path."""
    return f"/v1/tasks/{quote(task_id, safe='')}"


def ask(client: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
    """Send one request. A failure prints one sentence and ends the command with exit code 1."""
    try:
        response = client.request(method, path, **options)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        fail(unreachable(str(client.base_url), error), error)
    if not response.is_success:
        fail(refusal(response))
    return response


def ask_json(client: httpx.Client, method: str, path: str, **options: Any) -> dict[str, Any]:
    """Send one request and return the JSON object of the answer. Anything else ends the command."""
    return json_object(ask(client, method, path, **options))


def json_object(response: httpx.Response) -> dict[str, Any]:
    """Return the JSON object of an answer. Anything else ends the command: it is not an answer of Fluxhook."""
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        kind = response.headers.get("content-type", "no content type")
        fail(
            f"the answer of {_origin(response)} is not one of Fluxhook (HTTP {response.status_code}, {kind}): {_WHICH}"
        )
    return answer


def ask_for_page(client: httpx.Client, path: str, query: Mapping[str, object], rows: str) -> dict[str, Any]:
    """Return one page of a list, whose member `rows` has the rows. Filters that are None are left out."""
    params = {name: _texts(value) for name, value in query.items() if value is not None}
    page = ask_json(client, "GET", path, params=params)
    if not isinstance(page.get(rows), list):
        fail(f"the answer of {client.base_url} has no list of {rows}, as those of Fluxhook have: {_WHICH}")
    return page


def ask_for_all(client: httpx.Client, path: str, rows: str) -> list[dict[str, Any]]:
    """Return the rows of all pages of a list. A service of an earlier version answers with all of them at once."""
    found: list[dict[str, Any]] = []
    cursor: object = None
    while True:
        page = ask_for_page(client, path, {"cursor": cursor}, rows)
        found += page[rows]
        cursor = page.get("next_cursor")
        if cursor is None:
            return found


def post_task(
    client: httpx.Client, fields: Mapping[str, Any], files: Sequence[tuple[str, Path]] = ()
) -> dict[str, Any]:
    """Submit a task with images from files, each with the name of its field, and return it."""
    if not files:
        return ask_json(client, "POST", "/v1/tasks", json=dict(fields))
    with ExitStack() as stack:
        parts: list[tuple[str, Any]] = [(name, (None, as_text(value))) for name, value in fields.items()]
        try:
            parts += [(field, (path.name, stack.enter_context(path.open("rb")))) for field, path in files]
        except OSError as error:
            fail(f"{error.filename} cannot be read: {error.strerror}", error)
        return ask_json(client, "POST", "/v1/tasks", files=parts)


def as_text(value: Any) -> str:
    """Return a parameter as the text of a field of a form."""
    return value if isinstance(value, str) else json.dumps(value)


def unreachable(url: str, error: Exception) -> str:
    """Return what kept a request from being answered, and what to do about it."""
    text = str(error)
    match error:
        case httpx.ConnectError() if "CERTIFICATE_VERIFY_FAILED" in text:
            reason = text.partition("CERTIFICATE_VERIFY_FAILED] ")[2].partition(" (_ssl")[0]
            return f"{url} is not trusted: {reason}; name the file of its authority in FLUXHOOK_CA_FILE"
        case httpx.ConnectError() if "[SSL" in text:
            return f"{url} does not answer with TLS: check the URL, which may have to begin with http://"
        case httpx.ConnectError() | httpx.ConnectTimeout():
            return f"no response from {url}: start the service with `fluxhook serve`, or {_WHICH}"
        case httpx.TimeoutException():
            return f"no response from {url} in {_TIMEOUT_S} s: `fluxhook doctor` says what the service waits for"
        case httpx.RemoteProtocolError():
            return f"no response from {url} in HTTP: check the URL, which may have to begin with https://"
    return f"no response from {url}: {type(error).__name__}; repeat the command"


def refusal(response: httpx.Response) -> str:
    """Return why the service refused a request, and what to do about it."""
    status = response.status_code
    if response.is_redirect:
        return f"{_origin(response)} redirects to {_target(response)}: {_WHICH}"
    try:
        detail = str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"{_origin(response)} answers with HTTP {status} and not as Fluxhook does: {_WHICH}"
    match status:
        case HTTPStatus.UNAUTHORIZED:
            advice = f": give a valid one with --key or {CLIENT_KEY}"
        case HTTPStatus.FORBIDDEN:
            advice = f": give a key that may do this with --key or {CLIENT_KEY}"
        case HTTPStatus.TOO_MANY_REQUESTS | HTTPStatus.SERVICE_UNAVAILABLE:
            wait = response.headers.get("retry-after", "")
            advice = f": repeat the command in {wait} s" if wait.isdecimal() else ": repeat the command later"
        case HTTPStatus.INTERNAL_SERVER_ERROR:
            advice = ": the log of the service says more"
        case _:
            advice = ""
    return f"{detail} (HTTP {status}){advice}"


def _origin(response: httpx.Response) -> str:
    url = response.request.url
    return f"{url.scheme}://{url.netloc.decode('ascii', 'replace')}"


def _target(response: httpx.Response) -> str:
    """Return the origin that a redirect leads to, without the path and query, which may hold a token."""
    if response.next_request is None:
        return "another address"
    url = response.next_request.url
    return f"{url.scheme}://{url.netloc.decode('ascii', 'replace')}"


def _texts(value: object) -> str | list[str]:
    return list(map(str, value)) if isinstance(value, list) else str(value)


def _checked(url: str) -> str:
    """Return a base URL that requests can be sent to. Ends the command otherwise."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and "@" not in url
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        usable = False
    if not usable or "?" in url or "#" in url:
        shown = "the URL" if "@" in url else url  # it may hold a password
        fail(f"{shown} is not the URL of a service, such as https://fluxhook.example.com: {_WHICH}")
    return url.rstrip("/")


def _key(settings: Settings, key: str | None) -> str:
    key = key or _from_file() or _own_key(settings)
    if not key.isascii() or not key.isprintable() or key != key.strip():
        fail(f"the API key must be printable ASCII without spaces around it: check --key and {CLIENT_KEY}")
    return key


def _from_file() -> str | None:
    path = os.environ.get(CLIENT_KEY_FILE)
    if not path:
        return None
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        fail(f"{CLIENT_KEY_FILE}: {path} cannot be read: {why}", error)


def _own_key(settings: Settings) -> str:
    if settings.admin_key is not None:
        return settings.admin_key.get_secret_value()
    try:
        return (settings.data_dir / "admin_key").read_text().strip()
    except (OSError, UnicodeDecodeError):  # missing, not readable, or not a generated key
        names = f"{CLIENT_KEY}, FLUXHOOK_ADMIN_KEY or FLUXHOOK_DATA_DIR"
        fail(f"no API key found: give --key, or set {names}")
