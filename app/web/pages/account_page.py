"""The page `/accounts`: provider accounts with their slots, pauses and balances, for keys with the scope `admin`."""

from fastapi import APIRouter, Request, Response

from app.web.auth import ResourcesDep
from app.web.pages.access import AdminVisitorDep
from app.web.pages.render import PageRoute, render
from app.web.routes.accounts import list_accounts

router = APIRouter(route_class=PageRoute)


@router.get("/accounts")
async def show_accounts(request: Request, use: ResourcesDep, visitor: AdminVisitorDep) -> Response:
    found = await list_accounts(request, use, visitor.caller)
    return render("accounts.html", visitor=visitor, section="/accounts", accounts=found.accounts, now=use.now())
