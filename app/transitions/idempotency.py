"""`Idempotency-Key`: a request takes effect once, however often it is sent (IETF HTTP API draft of that name).

A repeated key with the same body returns the first answer; with another body, or while the first request is still in
progress, it is refused. Keys are scoped to the application and kept for 24 hours. After the erasure of its task,
a key is answered with 404, whatever the body.
"""

import asyncio
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import IO

from app.db import Connection
from app.db.tables import idempotency_keys, tasks
from app.db.tables.idempotency_keys import Remembered, StoredAnswer
from app.errors import InvalidRequest, KeyReused, RequestInFlight, Unavailable
from app.params import TaskParams
from app.resources import Connections, Resources
from app.store import sha256_of

ANSWER_RETENTION = timedelta(hours=24)
# A request without an answer for longer than this has died with its process or database, and the next one takes over.
# If it is still alive, its `Claim.answer` fails and it records nothing.
_TIMEOUT, _TIMEOUT_PER_IMAGE = timedelta(seconds=30), timedelta(seconds=80)
_RELEASE_S = 2.0  # the request has failed already, and its client waits
_MAX_KEY = 255  # characters


@dataclass(frozen=True, slots=True)
class Claim:
    """The exclusive right of one request to answer for an Idempotency-Key."""

    application_id: str
    idempotency_key: str
    began_at: datetime

    def answer(self, connection: Connection, answer: StoredAnswer) -> None:
        """Store the answer in the transaction of the request's effect. Raises RequestInFlight if the claim is lost.

        The prompt is left out, because the task has it: `claim` puts it back.
        """
        stored = _with_prompt(answer, None)
        if not idempotency_keys.answer(connection, self.application_id, self.idempotency_key, self.began_at, stored):
            raise RequestInFlight("another request with this Idempotency-Key has taken over")


async def claim(
    use: Resources,
    application_id: str,
    header: str,
    digest: str,
    images: int = 0,
    *,
    equivalent_digest: str | None = None,
) -> Claim | StoredAnswer:
    """Claim an Idempotency-Key for this request, or return the answer of the first request with it.

    `header`: the value of the header. `digest`: identifies the request, see `digest_of`; `equivalent_digest` is
    accepted too. `images`: the number of images to fetch and store, which extends the timeout.

    Raises InvalidRequest for a malformed key, KeyReused if the key belongs to another request, and RequestInFlight if
    the first request has no answer yet.
    """
    new_claim, timeout = Claim(application_id, _read(header), use.now()), _TIMEOUT + images * _TIMEOUT_PER_IMAGE
    try:
        first = await use.db.write(_first_answer, new_claim, digest, timeout)
    except Unavailable:
        await _release_uncertain(use, new_claim)
        raise
    if first is None:
        return new_claim
    if not first.is_of({digest, equivalent_digest}):
        raise KeyReused("this Idempotency-Key was sent before with another body")
    if first.answer is None:
        raise RequestInFlight("the first request with this Idempotency-Key has no answer yet")
    return first.answer


async def release(use: Connections, claim: Claim) -> None:
    """Release the key of a request that was refused or failed, so that the client can use it again.

    A request that failed after its answer was stored has taken effect and keeps the key.
    """
    await use.db.write(idempotency_keys.release, claim.application_id, claim.idempotency_key, claim.began_at)


async def _release_uncertain(use: Connections, claim: Claim) -> None:
    """Release a claim that may be stored although the answer to its commit was lost. If that fails, it expires."""
    with suppress(Unavailable, TimeoutError):
        async with asyncio.timeout(_RELEASE_S):
            await release(use, claim)


def digest_of(params: TaskParams, files: Mapping[str, IO[bytes]]) -> str:
    """Return a SHA-256 digest in hex that identifies a request: its parameters, and the bytes of its image files.

    `files`: uploaded images, and images too large to stay in `params`. The order of fields, explicit defaults and the
    form's boundary do not matter. The form of an image does: the same small image as base64, as a `data:` URL and as a
    file makes three different requests, because strings are not decoded here.

    Whether a webhook secret is set matters. Its value does not, because it could be guessed from the digest.
    """
    uploaded = {field: sha256_of(file) for field, file in sorted(files.items())}
    document = json.dumps([params.masked_json(), uploaded], sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()


def _begin(connection: Connection, claim: Claim, digest: str, timeout: timedelta) -> Remembered | None:
    """Record the claim and return None, or return the request that has the key."""
    key = (claim.application_id, claim.idempotency_key)
    if idempotency_keys.begin(connection, *key, digest, claim.began_at):
        return _erased_before(connection, claim, timeout)
    first = idempotency_keys.get(connection, *key)
    if first is not None and not _has_expired(first, claim.began_at, timeout):
        return first
    if first is not None:
        # A request that had no answer when it was read may have one now; `release` then keeps it.
        remove = idempotency_keys.release if first.answer is None else idempotency_keys.remove
        remove(connection, *key, first.began_at)
    if idempotency_keys.begin(connection, *key, digest, claim.began_at):
        return _erased_before(connection, claim, timeout)
    return idempotency_keys.get(connection, *key)


def _erased_before(connection: Connection, claim: Claim, timeout: timedelta) -> Remembered | None:
    """Return the request that had the key and whose task was erased, and withdraw the claim; None without one.

    This is read after the claim is recorded: an erasure at the same moment has then ended, or the claim waits for it.
    """
    key = (claim.application_id, claim.idempotency_key)
    erased = idempotency_keys.get_erased(connection, *key)
    if erased is None or _has_expired(erased, claim.began_at, timeout):
        return None
    idempotency_keys.release(connection, *key, claim.began_at)
    return erased


def _first_answer(connection: Connection, claim: Claim, digest: str, timeout: timedelta) -> Remembered | None:
    """As `_begin`, with the prompt of the task in the answer."""
    request = _begin(connection, claim, digest, timeout)
    if request is None or request.answer is None:
        return request
    task = tasks.get(connection, request.answer.task_id)
    return request if task is None else replace(request, answer=_with_prompt(request.answer, task.request.prompt))


def _with_prompt(answer: StoredAnswer, prompt: str | None) -> StoredAnswer:
    """Return the answer with this prompt. The answer of an erased task has no parameters."""
    params = {} if answer.task is None else answer.task.get("params")
    if answer.task is None or not isinstance(params, Mapping):
        return answer
    return replace(answer, task={**answer.task, "params": {**params, "prompt": prompt}})


def _has_expired(request: Remembered, now: datetime, timeout: timedelta) -> bool:
    age = now - request.began_at
    return age > (timeout if request.answer is None else ANSWER_RETENTION)


def _read(header: str) -> str:
    """Return the key without quotes: the draft requires them, and most clients omit them. Raises InvalidRequest."""
    key = header.strip()
    quoted = len(key) > 1 and key.startswith('"') and key.endswith('"')
    key = key[1:-1] if quoted else key
    if not key or len(key) > _MAX_KEY or not key.isprintable() or not key.isascii():
        reason = f"must be 1 to {_MAX_KEY} printable ASCII characters"
        raise InvalidRequest(f"Idempotency-Key: {reason}", {"Idempotency-Key": reason})
    return key
