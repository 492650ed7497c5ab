"""The page `/callbacks`: stored callbacks with verdict and effect, rejected ones too."""

from typing import Annotated, cast, get_args

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from app import ids
from app.security.verify import Verdict
from app.web.auth import ResourcesDep
from app.web.pages.access import VisitorDep
from app.web.pages.render import PageRoute, render
from app.web.routes.callbacks import OfCallback, list_callbacks

_SHOWN = 40

router = APIRouter(prefix="/callbacks", route_class=PageRoute)


class Filters(BaseModel):
    model_config = ConfigDict(extra="ignore")

    verdict: Annotated[str, Field(pattern=rf"^({'|'.join(get_args(OfCallback))}|)$")] = ""
    before: Annotated[str, Field(pattern=rf"^$|{ids.pattern('ev')}")] = ""


@router.get("")
async def show_callbacks(use: ResourcesDep, visitor: VisitorDep, filters: Annotated[Filters, Query()]) -> Response:
    verdict = cast("OfCallback", Verdict(filters.verdict)) if filters.verdict else None
    page = await list_callbacks(use, visitor.caller, None, verdict, filters.before or None, _SHOWN)
    return render(
        "callbacks.html",
        visitor=visitor,
        section="/callbacks",
        filters=filters,
        verdicts=list(get_args(OfCallback)),
        page=page,
    )
