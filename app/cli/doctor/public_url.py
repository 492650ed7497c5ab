"""Whether the public URL leads to this installation."""

import os
from http import HTTPStatus

import httpx

from app import ids
from app.security import http_clients
from app.security.arrival import Arrival
from app.security.outbound import Outbound
from app.security.sign import bfl_signature
from app.settings import Settings
from app.web.findings import Finding
from app.web.routes.health import IDENTITY
from app.wiring import key_ring

# Insignificant spaces, an escape, a trailing zero and a line end: what is lost if JSON is parsed and written again.
_BODY = b'{ "id": "%b",\t"prompt": "caf\\u00e9 \xc3\xa9", "cost": 4.0, "seed": 18446744073709551615 }\n'


async def check(settings: Settings, outbound: Outbound) -> Finding:
    name = "public URL"
    if settings.public_url is None:
        return Finding(name, "not set: no callbacks arrive, results are polled")
    challenge = ids.new_key()
    try:
        async with http_clients.own_url_client(outbound) as http:
            answer = await http.get(f"{settings.public_url}/healthz", params={"challenge": challenge})
            problem = _not_this_fluxhook(settings, answer, challenge) or await _changed_on_the_way(settings, http)
    except httpx.HTTPError as error:
        text = f"{settings.public_url}/healthz cannot be reached from this machine: {type(error).__name__}"
        return Finding(name, f"{text}. Check that the service and its proxy are running", unhealthy=True)
    if problem is not None:
        return Finding(name, f"{settings.public_url} {problem}", unhealthy=True)
    return Finding(name, f"{settings.public_url} leads to Fluxhook, and callbacks arrive there unchanged")


def _not_this_fluxhook(settings: Settings, answer: httpx.Response, challenge: str) -> str | None:
    """Return why the answer of `/healthz` does not come from this installation; None if it does.

    Another server may answer `/healthz` too, but only an installation with the same secret keys can answer the
    challenge.
    """
    reason = _other_server(settings, answer, challenge)
    return None if reason is None else f"does not lead to this Fluxhook: {reason}"


def _other_server(settings: Settings, answer: httpx.Response, challenge: str) -> str | None:
    try:
        liveness = answer.json()
    except ValueError:
        liveness = None
    if answer.status_code != HTTPStatus.OK or not isinstance(liveness, dict) or liveness.get("status") != "ok":
        return f"another server answers /healthz there with HTTP {answer.status_code}"
    if "proof" not in liveness:
        return "another server answers /healthz there, or a Fluxhook before version 0.3"
    if not _has_secret_keys(settings):
        return "this installation has no secret keys yet; `fluxhook serve` creates them"
    if not key_ring(settings).proves(challenge.encode(), IDENTITY, str(liveness["proof"])):
        return "the Fluxhook there has other FLUXHOOK_SECRET_KEYS, so it would refuse the callbacks of this one"
    return None


async def _changed_on_the_way(settings: Settings, http: httpx.AsyncClient) -> str | None:
    """Send what looks like a callback through the front door. Return what a proxy does to it; None for nothing."""
    token, secret = ids.new_key(), ids.new_key()
    body = _BODY % token.encode()
    headers = {"X-Webhook-Secret": secret, "X-BFL-Signature": bfl_signature(secret, body)}
    sent = Arrival.of(token, body, {name: [value] for name, value in headers.items()})
    answer = await http.post(
        f"{settings.public_url}/callbacks/reachability/check/{token}",
        content=body,
        headers={**headers, "content-type": "application/json"},
    )
    try:
        found = answer.json()
        arrived = Arrival(found["path"], found["body"], found["headers"])
        is_proven = arrived.is_proven(key_ring(settings), found["proof"])
    except (ValueError, TypeError, KeyError):
        return f"does not let callbacks through: POST /callbacks/... is answered with HTTP {answer.status_code}"
    if not is_proven:
        return "does not lead to this Fluxhook for POST /callbacks/..."
    changes = sent.changes(arrived)
    return f"leads to Fluxhook, but on the way something {' and '.join(changes)}" if changes else None


def _has_secret_keys(settings: Settings) -> bool:
    return bool(settings.secret_keys) or os.access(settings.data_dir / "secret_keys", os.F_OK)
