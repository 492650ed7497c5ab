"""Response models of erasures: receipts that are signed with the keyring."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.db.tables.erasures import ErasedItem, Erasure, ErasureKind
from app.security.keyring import KeyRing

PURPOSE = "erasure-receipt"
_REMAINS = {
    "fluxhook": "the id, model, state, times and cost of each task for the usage, its attempts, and events without "
    "contents for up to seven days; logs name ids only",
    "provider": "the provider received the prompt, the input images and the result under its own terms; ask it to "
    "delete them",
    "backups": "copies of the database and of the image store that were made before are not changed",
}


class RemovedTask(BaseModel):
    task_id: str
    sha256: Annotated[list[str], Field(description="Of its images: the input images, then the result.")]
    erased_at: datetime
    images_removed_at: Annotated[datetime | None, Field(description="Null while the store has some of the images.")]


class SignatureView(BaseModel):
    algorithm: Literal["Ed25519"] = "Ed25519"
    key_id: Annotated[str, Field(description="The key of the ring.")]
    public_key: Annotated[str, Field(description="32 bytes in base64url.")]
    value: Annotated[str, Field(description="64 bytes in base64url: the signature of the bytes of `statement`.")]


class Receipt(BaseModel):
    """What was erased, and when. `statement` has the members up to `remains` as JSON text, as it was signed."""

    id: str
    kind: ErasureKind
    application_id: str
    subject: Annotated[str, Field(description="The id of the task, or the digest of the end user.")]
    state: Annotated[
        Literal["running", "finished"], Field(description="`finished`: all tasks and all their images are gone.")
    ]
    requested_at: datetime
    tasks_erased_at: datetime | None
    finished_at: datetime | None
    tasks: Annotated[int, Field(description="The number of tasks erased so far.")]
    images: Annotated[int, Field(description="The number of their images.")]
    digest: Annotated[str, Field(description="SHA-256 in hex over all tasks, in the order of their erasure.")]
    remains: Annotated[dict[str, str], Field(description="What was not erased, by place.")]
    statement: str
    signature: SignatureView
    removed: Annotated[list[RemovedTask], Field(description="The erased tasks, a page of them.")]
    next_cursor: Annotated[str | None, Field(description="Pass it as `cursor` for more of `removed`; null at the end.")]


class ErasureList(BaseModel):
    erasures: list[Receipt]
    next_cursor: Annotated[
        str | None, Field(description="Pass it as `cursor` to get the next page; null on the last page.")
    ]


class PublicKey(BaseModel):
    id: Annotated[str, Field(description="The id of the key of the ring.")]
    public_key: Annotated[str, Field(description="An Ed25519 key: 32 bytes in base64url.")]


class PublicKeys(BaseModel):
    keys: Annotated[list[PublicKey], Field(description="Newest first.")]


def receipt_view(
    ring: KeyRing, erasure: Erasure, items: Sequence[ErasedItem], next_cursor: str | None = None
) -> Receipt:
    """Return the receipt of an erasure as it is now, signed with the newest key of the ring."""
    facts = _facts(erasure)
    statement = json.dumps(facts)
    signature = ring.sign(statement.encode(), PURPOSE)
    removed = [
        RemovedTask(
            task_id=item.task_id,
            sha256=list(item.digests),
            erased_at=item.erased_at,
            images_removed_at=item.images_removed_at,
        )
        for item in items
    ]
    signed = SignatureView(key_id=signature.key_id, public_key=signature.public_key, value=signature.value)
    rest = {"statement": statement, "signature": signed, "removed": removed, "next_cursor": next_cursor}
    return Receipt.model_validate({**facts, **rest})


def _facts(erasure: Erasure) -> dict[str, object]:
    return {
        "id": erasure.id,
        "kind": erasure.kind,
        "application_id": erasure.application_id,
        "subject": erasure.subject,
        "state": "running" if erasure.finished_at is None else "finished",
        "requested_at": erasure.requested_at.isoformat(),
        "tasks_erased_at": erasure.tasks_erased_at and erasure.tasks_erased_at.isoformat(),
        "finished_at": erasure.finished_at and erasure.finished_at.isoformat(),
        "tasks": erasure.tasks,
        "images": erasure.images,
        "digest": erasure.digest,
        "remains": _REMAINS,
    }
