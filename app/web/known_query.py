"""Query parameters of lists: an unknown name, or a value given twice, is refused. Ignored, it would widen the list."""

from collections.abc import Iterator
from typing import get_args, get_origin

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from app.errors import InvalidRequest
from app.web.auth import CallerDep

_MAX_NAMES = 50  # more than any route has


async def _refuse_unknown(request: Request, _caller: CallerDep) -> None:
    """Raise InvalidRequest for a parameter that the route does not have, or for a second value of one that takes one.

    The caller is checked first.
    """
    route = request.scope["route"]
    takes_list = dict(_parameters(route.dependant)) if isinstance(route, APIRoute) else {}
    reasons: dict[str, str] = {}
    for name in list(request.query_params)[:_MAX_NAMES]:
        if name not in takes_list:
            reasons[name[:100]] = f"unknown parameter: use {', '.join(sorted(takes_list)) or 'none'}"
        elif not takes_list[name] and len(request.query_params.getlist(name)) > 1:
            reasons[name] = "given more than once"
    if reasons:
        raise InvalidRequest("; ".join(f"{name}: {reason}" for name, reason in reasons.items()), reasons)


def _parameters(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    """Yield each query parameter of a route and its dependencies, and whether it takes several values."""
    for field in dependant.query_params:
        annotation = field.field_info.annotation
        yield field.alias, any(get_origin(part) is list for part in (annotation, *get_args(annotation)))
    for dependency in dependant.dependencies:
        yield from _parameters(dependency)


KnownQuery = Depends(_refuse_unknown)
