"""The pages `/audit` and `/settings`, for keys with the scope `admin`."""

import asyncio
from datetime import timedelta
from typing import Annotated, Literal, NamedTuple

from fastapi import APIRouter, Depends, Query, Request, Response

from app import __version__
from app.provider import Account
from app.resources import Resources
from app.rules.retention import DataClass
from app.web.auth import ResourcesDep
from app.web.findings import Examiner
from app.web.pages import words
from app.web.pages.access import AdminVisitorDep
from app.web.pages.render import PageRoute, render
from app.web.routes.audit import list_audit
from app.web.routes.health import read_readiness

_SHOWN = 50
_MAX_SEQUENCE = 2**63 - 1

router = APIRouter(route_class=PageRoute)


async def _examiner(request: Request) -> Examiner:
    examiner: Examiner = request.app.state.examiner
    return examiner


ExaminerDep = Annotated[Examiner, Depends(_examiner)]


@router.get("/audit")
async def show_audit(
    use: ResourcesDep, visitor: AdminVisitorDep, before: Annotated[int | None, Query(ge=1, le=_MAX_SEQUENCE)] = None
) -> Response:
    page = await list_audit(use, visitor.caller, None, before, _SHOWN)
    return render("audit.html", visitor=visitor, section="/audit", page=page, before=before)


@router.get("/settings")
async def show_settings(
    use: ResourcesDep, visitor: AdminVisitorDep, examiner: ExaminerDep, checks: Literal["", "all"] = ""
) -> Response:
    """Show how this process is configured, and what `/readyz` finds; with `checks=all` also what `doctor` finds."""
    findings = await examiner.findings() if checks else ()
    readiness, free = await asyncio.gather(read_readiness(use), use.disk.volumes())
    return render(
        "settings.html",
        visitor=visitor,
        section="/settings",
        readiness=readiness,
        findings=findings,
        may_check=examiner.is_available,
        values=_values(use),
        volumes=[volume for volume in free if volume.note],
        version=__version__,
    )


_RETENTIONS = {
    DataClass.IMAGES: ("Images are kept", "FLUXHOOK_IMAGE_DAYS"),
    DataClass.INPUTS: ("Input images are kept", "FLUXHOOK_INPUT_DAYS"),
    DataClass.EVIDENCE: ("Evidence and deliveries are kept", "FLUXHOOK_EVIDENCE_DAYS"),
    DataClass.TASKS: ("Tasks are kept", "FLUXHOOK_TASK_DAYS"),
}


class Value(NamedTuple):
    name: str
    value: str
    setting: str


def _account(account: Account) -> Value:
    state = account.spec.name if account.provider is not None else "no key is configured"
    if account.former_id is None:
        return Value("Provider", state, "FLUXHOOK_PROVIDER")
    return Value(f"Account {account.name}", state, "FLUXHOOK_CONFIG")


def _retention(data: DataClass, kept: timedelta | None) -> Value:
    name, setting = _RETENTIONS[data]
    return Value(name, "without limit" if kept is None else words.span(kept), setting)


def _values(use: Resources) -> list[Value]:
    """Return the policy of this process. No value is a secret."""
    return [
        *(_account(account) for account in use.accounts),
        Value("Public address", use.public_url or "none: the provider is polled", "FLUXHOOK_PUBLIC_URL"),
        *(_retention(data, use.retention.of(data)) for data in DataClass),
        Value("Links to results last", words.span(use.link_life), "FLUXHOOK_LINK_DAYS"),
        Value("A shared secret proves a callback", "yes" if use.trust_shared_secret else "no", ""),
        Value("Webhooks carry the application's secret", "yes" if use.send_webhook_secret else "no", ""),
        Value("Hosts of results", ", ".join(use.result_hosts) or "any public host", "FLUXHOOK_RESULT_HOSTS"),
        Value("Private networks for webhooks and inputs", ", ".join(map(str, use.egress_allow)) or "none", ""),
        Value("Models", str(sum(1 for model in use.catalog if model.kind == "image")), "FLUXHOOK_MODELS_FILE"),
    ]
