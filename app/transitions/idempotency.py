"""`Idempotency-Key`: one request, however often it is sent (the IETF's HTTP API draft of that name).

The same key and body replays the first answer, another body is refused, and while the first is being worked on
the others are told so. Keys are scoped to the API key and remembered for a day.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import IO, Any

from app.db import Connection
from app.db.tables import idempotency_keys
from app.db.tables.idempotency_keys import Remembered
from app.errors import InvalidRequest, KeyReused, RequestInFlight
from app.params import TaskParams
from app.resources import Resources
from app.store import sha256_of

REMEMBERED = timedelta(hours=24)
# A request that was begun and not answered for longer died with its process, or with its database, and the next one
# takes over. Should it live, it finds that out when it answers, and records nothing.
_LONGEST, _LONGEST_FOR_AN_IMAGE = timedelta(seconds=30), timedelta(seconds=80)
_MAX_KEY = 255


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to answer for an Idempotency-Key."""

    key_id: str
    idempotency_key: str
    began_at: datetime

    def answer(self, connection: Connection, given: dict[str, Any]) -> None:
        """Remember the answer, in the transaction that does what was asked. Raises RequestInFlight if it was lost."""
        if not idempotency_keys.answer(connection, self.key_id, self.idempotency_key, self.began_at, given):
            raise RequestInFlight("another request with this Idempotency-Key has taken over")


async def claim(
    use: Resources, key_id: str, header: str, digest: str, images: int = 0, *, or_digest: str | None = None
) -> Claim | dict[str, Any]:
    """The right to answer, or the first answer; with so many images to fetch and keep, answering may take long.

    What is remembered under `or_digest` is the same request too. Raises KeyReused, RequestInFlight or InvalidRequest.
    """
    wanted, longest = Claim(key_id, _read(header), use.now()), _LONGEST + images * _LONGEST_FOR_AN_IMAGE
    known = await use.db.write(lambda connection: _begin(connection, wanted, digest, longest))
    if known is None:
        return wanted
    if known.digest not in {digest, or_digest}:
        raise KeyReused("this Idempotency-Key was sent with another body before")
    if known.answer is None:
        raise RequestInFlight("the first request with this Idempotency-Key has no answer yet")
    return known.answer


async def let_go(use: Resources, held: Claim) -> None:
    """Forget a request that was refused or failed: it may be sent again with the same key, mended or as it was.

    One that failed after its answer was kept did what it asked for, and stays.
    """
    await use.db.write(
        lambda connection: idempotency_keys.release(connection, held.key_id, held.idempotency_key, held.began_at)
    )


def digest_of(params: TaskParams, files: Mapping[str, IO[bytes]]) -> str:
    """What makes two requests the same: their parameters, and the bytes of images that came as files or are as large.

    The order of fields, a default that is spelled out and the boundary of a form are not of it. How an image is given
    is: a small one as base64, as a `data:` URL and as a file makes three requests, because a text is not decoded here.

    That a webhook has a secret counts, which one does not: a digest that can be tried out would give it away.
    """
    uploaded = {field: sha256_of(file) for field, file in sorted(files.items())}
    asked = json.dumps([params.asked(), uploaded], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()


def _begin(connection: Connection, wanted: Claim, digest: str, longest: timedelta) -> Remembered | None:
    """None when the key is ours now, else what it stands for already."""
    key = (wanted.key_id, wanted.idempotency_key)
    if idempotency_keys.begin(connection, *key, digest, wanted.began_at):
        return None
    known = idempotency_keys.get(connection, *key)
    if known is not None and not _is_over(known, wanted.began_at, longest):
        return known
    if known is not None:
        # What had no answer when it was looked at may have one by now: that stands.
        forget = idempotency_keys.release if known.answer is None else idempotency_keys.forget
        forget(connection, *key, known.began_at)
    if idempotency_keys.begin(connection, *key, digest, wanted.began_at):
        return None
    return idempotency_keys.get(connection, *key)


def _is_over(known: Remembered, now: datetime, longest: timedelta) -> bool:
    age = now - known.began_at
    return age > (longest if known.answer is None else REMEMBERED)


def _read(header: str) -> str:
    """The key; the draft writes it in quotes, most clients do not."""
    key = header.strip()
    quoted = len(key) > 1 and key.startswith('"') and key.endswith('"')
    key = key[1:-1] if quoted else key
    if not key or len(key) > _MAX_KEY or not key.isprintable() or not key.isascii():
        reason = f"must be 1 to {_MAX_KEY} printable ASCII characters"
        raise InvalidRequest(f"Idempotency-Key: {reason}", {"Idempotency-Key": reason})
    return key
