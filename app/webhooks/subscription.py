"""Webhook subscriptions: the URL, form, events and encrypted secret that a task or an API key stores."""

import httpx

from app import ids
from app.db.tables.api_keys import Key
from app.db.tables.tasks import Subscription
from app.db.tables.webhook_defaults import UNCHANGED, WebhookDefaults
from app.errors import InvalidRequest
from app.params import Webhook
from app.resources import Policy
from app.security import ssrf
from app.security.keyring import KeyRing

_HTTP_PORT = 80

_HTTPS_REQUIRED = "must be https: the operator of this service has not allowed plain http to any network"
_NOT_ALLOWED = "must be https: plain http is sent only to hosts in networks that the operator of this service allows"
_PRIVATE = "must be a public address, or one in a network that the operator of this service allows"


async def check(use: Policy, webhook: Webhook) -> None:
    """Raise InvalidRequest for a URL to which nothing can ever be delivered.

    That is an address in a network that the operator does not allow (FLUXHOOK_EGRESS_ALLOW), and plain http to a host
    outside of the allowed ones. A name with https is not looked up: its addresses are checked when a webhook is sent.
    """
    if webhook.webhook_url is None:
        return
    reason = await _reason_to_refuse(use, httpx.URL(webhook.webhook_url))
    if reason is not None:
        raise InvalidRequest(f"webhook_url: {reason}", {"webhook_url": reason})


async def _reason_to_refuse(use: Policy, url: httpx.URL) -> str | None:
    is_plain, address = url.scheme == "http", ssrf.literal_address(url.host)
    if is_plain and not use.egress_allow:
        return _HTTPS_REQUIRED
    if address is not None and not ssrf.is_permitted(address, use.egress_allow):
        return _NOT_ALLOWED if is_plain else _PRIVATE
    host = url.raw_host.decode("ascii")
    if is_plain and not await ssrf.takes_plain_http(host, url.port or _HTTP_PORT, use.egress_allow, use.resolve):
        return _NOT_ALLOWED
    return None


def of_task(ring: KeyRing, task_id: str, key: Key | None, webhook: Webhook, origin: str | None) -> Subscription | None:
    """Return the webhook of a new task; defaults of the API key, then of its application, replace missing fields.

    None without a URL. `origin`: the origin at which the submitter reached the service, for links.
    """
    known = None if key is None else key.webhook
    url = webhook.webhook_url or (None if known is None else known.url)
    if url is None:
        return None
    events = webhook.webhook_events if webhook.webhook_events is not None or known is None else known.events
    return Subscription(
        url=url,
        secret=secret_of(ring, task_id, webhook, key),
        form=webhook.webhook_form or (known and known.form) or "provider",
        events=list(events or ()),
        origin=origin,
    )


def defaults(ring: KeyRing, owner_id: str, webhook: Webhook) -> WebhookDefaults:
    """Return the webhook settings of an API key or application for the fields in the request; null clears one."""
    given = webhook.model_fields_set
    return WebhookDefaults(
        url=webhook.webhook_url if "webhook_url" in given else UNCHANGED,
        secret=seal(ring, owner_id, webhook) if "webhook_secret" in given else UNCHANGED,
        form=webhook.webhook_form if "webhook_form" in given else UNCHANGED,
        events=webhook.webhook_events if "webhook_events" in given else UNCHANGED,
    )


def seal(ring: KeyRing, owner_id: str, webhook: Webhook) -> str | None:
    """Encrypt the secret with the keyring, bound to the task, key or application that owns it. None without one."""
    secret = webhook.webhook_secret
    return None if secret is None else _sealed(ring, owner_id, secret.get_secret_value())


def unseal(ring: KeyRing, owner_id: str, sealed: str) -> str | None:
    """Decrypt a secret; None if its key has left the ring."""
    plain = ring.unseal(sealed, _purpose(owner_id))
    return None if plain is None else plain.decode()


def secret_of(ring: KeyRing, owner_id: str, webhook: Webhook, key: Key | None) -> str | None:
    """Return the secret of the request, else the default of the key, encrypted for `owner_id`; None without either."""
    own = seal(ring, owner_id, webhook)
    known = None if key is None else key.webhook
    if own is not None or known is None or known.secret is None:
        return own
    plain = unseal(ring, known.secret_owner, known.secret)
    # A secret that cannot be decrypted is copied as it is, so that each delivery fails with that reason.
    return known.secret if plain is None else _sealed(ring, owner_id, plain)


def _sealed(ring: KeyRing, owner_id: str, plain: str) -> str:
    return ring.seal(plain.encode(), _purpose(owner_id), ids.nonce())


def _purpose(owner_id: str) -> str:
    return f"webhook-secret:{owner_id}"
