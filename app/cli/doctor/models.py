"""What `doctor` says about the models: how each is watched and, if asked, whether the provider knows its path."""

from http import HTTPStatus

from app.catalog import Catalog, Model
from app.config_file import AccountSettings
from app.errors import ConfigurationError
from app.provider import Provider, SubmitRequest
from app.provider.accounts import build_provider
from app.security import http_clients
from app.settings import Settings
from app.web.findings import Finding
from app.wiring import build_outbound

_NOT_SENT = "not checked: it requires no parameter, so an empty request could be charged"


def served(settings: Settings, catalog: Catalog) -> Finding:
    """Report how many models are served, and which of them are polled."""
    models = [model for model in catalog if model.kind == "image"]
    polled = [model.id for model in models if settings.public_url is None or not model.webhook]
    if len(polled) == len(models):
        return Finding("models", f"{len(models)} are served, all polled")
    watched = f"polled, as they accept no webhook: {', '.join(polled)}" if polled else "none is polled"
    return Finding("models", f"{len(models)} are served; {watched}")


async def examine(settings: Settings, catalog: Catalog) -> list[Finding]:
    """Send an empty request for each model that requires a parameter, and report what the provider says.

    A known path refuses it with 422, which costs nothing.
    """
    try:
        outbound = build_outbound(settings)
    except ConfigurationError:
        return []  # reported already
    async with http_clients.provider_client(outbound=outbound) as http:
        return [
            await _examine(settings, account, provider, model)
            for account in settings.accounts
            if (provider := build_provider(account, http)) is not None
            for model in catalog
            if model.kind == "image" and (account.models is None or model.id in account.models)
        ]


async def _examine(settings: Settings, account: AccountSettings, provider: Provider, model: Model) -> Finding:
    name = f"model {model.id}" + ("" if settings.environment_alone else f" at {account.name}")
    if not model.required:
        return Finding(name, _NOT_SENT)
    answer = await provider.submit(SubmitRequest(model.path, {}, {}, webhook_url=None, webhook_secret=None))
    match answer.http_status:
        case HTTPStatus.UNPROCESSABLE_ENTITY:
            return Finding(name, "the provider accepts its path and the API key (HTTP 422 for an empty request)")
        case None:
            return Finding(name, answer.report.detail or "no answer", unhealthy=True)
        case HTTPStatus.NOT_FOUND:
            return Finding(name, "the provider does not know its path (HTTP 404)", unhealthy=True)
        case status if status in range(200, 300):
            text = f"the provider accepted an empty request (HTTP {status}), which may have been charged"
            return Finding(name, text, unhealthy=True)
        case status:
            return Finding(name, f"HTTP {status}: {answer.report.detail or 'no reason given'}", unhealthy=True)
