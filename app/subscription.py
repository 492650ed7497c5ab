"""Who is told of a task, where and how: what its submitter asked for, kept beside it with the secret sealed."""

from typing import Any

from app import ids
from app.errors import InvalidRequest
from app.params import Webhook
from app.resources import Resources
from app.secret_keys import KeyRing

_IN_THE_CLEAR = "must be https: the operator of this service allows no other network"


def check(use: Resources, wanted: Webhook) -> None:
    """Raise InvalidRequest for plain http where the operator allows no network of their own.

    Whether an address lies in such a network shows when it is connected to; here every name is treated alike.
    """
    url = wanted.webhook_url or ""
    if url[:5].lower() == "http:" and not use.egress_allow:
        raise InvalidRequest(f"webhook_url: {_IN_THE_CLEAR}", {"webhook_url": _IN_THE_CLEAR})


def columns(use: Resources, task_id: str, wanted: Webhook, origin: str | None) -> dict[str, Any]:
    """What a task's row keeps of this. `origin` is where its submitter reached us."""
    if wanted.webhook_url is None:
        return {}
    return {
        "notify_url": wanted.webhook_url,
        "notify_secret": seal(use.keys, task_id, wanted),
        "notify_form": wanted.webhook_form or "provider",
        "notify_events": wanted.webhook_events or [],
        "notify_origin": origin,
    }


def seal(keys: KeyRing, owner_id: str, wanted: Webhook) -> str | None:
    """The secret as it is kept: readable with the key ring, and for the task or key that it was given with."""
    if wanted.webhook_secret is None:
        return None
    plain = wanted.webhook_secret.get_secret_value().encode()
    return keys.seal(plain, _purpose(owner_id), ids.nonce())


def unseal(keys: KeyRing, owner_id: str, sealed: str) -> str | None:
    """The secret in plain; None when the key it was sealed with left the ring."""
    plain = keys.unseal(sealed, _purpose(owner_id))
    return None if plain is None else plain.decode()


def _purpose(owner_id: str) -> str:
    return f"webhook-secret:{owner_id}"
