"""Who is told of a task, where and how: what its submitter asked for, kept beside it with the secret sealed."""

from typing import Any

from app import ids
from app.db import Connection
from app.db.tables import api_keys
from app.db.tables.api_keys import Key
from app.errors import InvalidRequest
from app.params import Webhook
from app.resources import Resources
from app.security.keyring import KeyRing

_IN_THE_CLEAR = "must be https: the operator of this service allows no other network"


def check(use: Resources, wanted: Webhook) -> None:
    """Raise InvalidRequest for plain http where the operator allows no network of their own.

    Whether an address lies in such a network shows when it is connected to; here every name is treated alike.
    """
    url = wanted.webhook_url or ""
    if url[:5].lower() == "http:" and not use.egress_allow:
        raise InvalidRequest(f"webhook_url: {_IN_THE_CLEAR}", {"webhook_url": _IN_THE_CLEAR})


def columns(
    connection: Connection, ring: KeyRing, task_id: str, key_id: str, wanted: Webhook, origin: str | None
) -> dict[str, Any]:
    """What a task's row keeps of this; what was not given is as the API key has it. `origin`: see `submit`."""
    key = api_keys.get(connection, key_id)
    url = wanted.webhook_url or (key and key.webhook_url)
    if url is None:
        return {}
    usual_form, usual_events = (key.webhook_form, key.webhook_events) if key else (None, None)
    events = usual_events if wanted.webhook_events is None else wanted.webhook_events
    return {
        "webhook_url": url,
        "webhook_secret": secret_of(ring, task_id, wanted, key),
        "webhook_form": wanted.webhook_form or usual_form or "provider",
        "webhook_events": list(events or ()),
        "webhook_origin": origin,
    }


def defaults(ring: KeyRing, key_id: str, wanted: Webhook) -> dict[str, Any]:
    """What a key's row keeps of those fields that were given; a field given as null is forgotten."""
    values = {
        "webhook_url": wanted.webhook_url,
        "webhook_secret": seal(ring, key_id, wanted),
        "webhook_form": wanted.webhook_form,
        "webhook_events": wanted.webhook_events,
    }
    return {
        name: value for name, value in values.items() if name.replace("notify", "webhook") in wanted.model_fields_set
    }


def seal(ring: KeyRing, owner_id: str, wanted: Webhook) -> str | None:
    """The secret as it is kept: readable with the key ring, and for the task or key that it was given with."""
    secret = wanted.webhook_secret
    return None if secret is None else _sealed(ring, owner_id, secret.get_secret_value())


def unseal(ring: KeyRing, owner_id: str, sealed: str) -> str | None:
    """The secret in plain; None when the key it was sealed with left the ring."""
    plain = ring.unseal(sealed, _purpose(owner_id))
    return None if plain is None else plain.decode()


def secret_of(ring: KeyRing, owner_id: str, wanted: Webhook, key: Key | None) -> str | None:
    """The secret that was given, else the API key's own, sealed for whoever is told."""
    given = seal(ring, owner_id, wanted)
    if given is not None or key is None or key.webhook_secret is None:
        return given
    plain = unseal(ring, key.id, key.webhook_secret)
    # One that cannot be read is handed on as it is, so that the deliveries say so.
    return key.webhook_secret if plain is None else _sealed(ring, owner_id, plain)


def _sealed(ring: KeyRing, owner_id: str, plain: str) -> str:
    return ring.seal(plain.encode(), _purpose(owner_id), ids.nonce())


def _purpose(owner_id: str) -> str:
    return f"webhook-secret:{owner_id}"
