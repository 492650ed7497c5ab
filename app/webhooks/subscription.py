"""Webhook subscriptions: the URL, form, events and encrypted secret that a task or an API key stores."""

from app import ids
from app.db import Connection
from app.db.tables import api_keys
from app.db.tables.api_keys import UNCHANGED, Key, WebhookDefaults
from app.db.tables.tasks import Subscription
from app.errors import InvalidRequest
from app.params import Webhook
from app.resources import Resources
from app.security.keyring import KeyRing

_HTTPS_REQUIRED = "must be https: the operator of this service has not allowed plain http to any network"


def check(use: Resources, webhook: Webhook) -> None:
    """Raise InvalidRequest for plain http, unless the operator allows a network (FLUXHOOK_EGRESS_ALLOW).

    Whether the host is in an allowed network is checked when the webhook is sent, not here.
    """
    url = webhook.webhook_url or ""
    if url[:5].lower() == "http:" and not use.egress_allow:
        raise InvalidRequest(f"webhook_url: {_HTTPS_REQUIRED}", {"webhook_url": _HTTPS_REQUIRED})


def of_task(
    connection: Connection, ring: KeyRing, task_id: str, key_id: str, webhook: Webhook, origin: str | None
) -> Subscription | None:
    """Return the webhook of a new task; the API key's defaults replace missing fields. None without a URL.

    `origin`: the origin at which the submitter reached the service, for links.
    """
    key = api_keys.get(connection, key_id)
    url = webhook.webhook_url or (key.webhook_url if key else None)
    if url is None:
        return None
    default_form, default_events = (key.webhook_form, key.webhook_events) if key else (None, None)
    events = default_events if webhook.webhook_events is None else webhook.webhook_events
    return Subscription(
        url=url,
        secret=secret_of(ring, task_id, webhook, key),
        form=webhook.webhook_form or default_form or "provider",
        events=list(events or ()),
        origin=origin,
    )


def defaults(ring: KeyRing, key_id: str, webhook: Webhook) -> WebhookDefaults:
    """Return the webhook settings of an API key for the fields in the request; null clears a default."""
    given = webhook.model_fields_set
    return WebhookDefaults(
        url=webhook.webhook_url if "webhook_url" in given else UNCHANGED,
        secret=seal(ring, key_id, webhook) if "webhook_secret" in given else UNCHANGED,
        form=webhook.webhook_form if "webhook_form" in given else UNCHANGED,
        events=webhook.webhook_events if "webhook_events" in given else UNCHANGED,
    )


def seal(ring: KeyRing, owner_id: str, webhook: Webhook) -> str | None:
    """Encrypt the secret with the keyring, bound to the task or key that owns it; None without a secret."""
    secret = webhook.webhook_secret
    return None if secret is None else _sealed(ring, owner_id, secret.get_secret_value())


def unseal(ring: KeyRing, owner_id: str, sealed: str) -> str | None:
    """Decrypt a secret; None if its key has left the ring."""
    plain = ring.unseal(sealed, _purpose(owner_id))
    return None if plain is None else plain.decode()


def secret_of(ring: KeyRing, owner_id: str, webhook: Webhook, key: Key | None) -> str | None:
    """Return the secret of the request, else that of the API key, encrypted for `owner_id`; None without either."""
    own = seal(ring, owner_id, webhook)
    if own is not None or key is None or key.webhook_secret is None:
        return own
    plain = unseal(ring, key.id, key.webhook_secret)
    # A secret that cannot be decrypted is copied as it is, so that each delivery fails with that reason.
    return key.webhook_secret if plain is None else _sealed(ring, owner_id, plain)


def _sealed(ring: KeyRing, owner_id: str, plain: str) -> str:
    return ring.seal(plain.encode(), _purpose(owner_id), ids.nonce())


def _purpose(owner_id: str) -> str:
    return f"webhook-secret:{owner_id}"
