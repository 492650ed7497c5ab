"""The control routes at /twin, which no real provider has: ledger, faults, rules, image and reset."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.twin.engine import Twin
from app.twin.faults import Faults
from app.twin.submit_request import validation_detail

Model = TypeVar("Model", bound=BaseModel)


class Controls:
    def __init__(self, twin: Twin) -> None:
        self._twin = twin

    def routes(self) -> list[Route]:
        return [
            Route("/twin/ledger", self.ledger, methods=["GET"]),
            Route("/twin/faults", self.faults, methods=["GET"]),
            Route("/twin/faults", self.set_faults, methods=["PUT"]),
            Route("/twin/rules", self.rules, methods=["GET"]),
            Route("/twin/rules", self.set_rules, methods=["PUT"]),
            Route("/twin/image", self.set_image, methods=["PUT"]),
            Route("/twin/image", self.unset_image, methods=["DELETE"]),
            Route("/twin/reset", self.reset, methods=["POST"]),
            Route("/healthz", self.healthz, methods=["GET"]),
        ]

    async def ledger(self, _: Request) -> Response:
        return JSONResponse(self._twin.ledger())

    async def faults(self, _: Request) -> Response:
        return JSONResponse(self._twin.faults.as_json())

    async def set_faults(self, request: Request) -> Response:
        """Replace all faults. A fault that the request does not name is off."""
        faults = await _read(request, Faults.model_validate)
        if isinstance(faults, Response):
            return faults
        self._twin.faults = faults
        return JSONResponse(faults.as_json())

    async def rules(self, _: Request) -> Response:
        return JSONResponse(self._twin.rules.as_json())

    async def set_rules(self, request: Request) -> Response:
        """Change only the rules that the request names."""
        rules = await _read(request, self._twin.rules.changed)
        if isinstance(rules, Response):
            return rules
        self._twin.rules = rules
        return JSONResponse(rules.as_json())

    async def set_image(self, request: Request) -> Response:
        """Deliver the body of this request in the place of every image."""
        self._twin.gallery.file = await request.body()
        return Response(status_code=204)

    async def unset_image(self, _: Request) -> Response:
        """Deliver rendered images again."""
        self._twin.gallery.file = None
        return Response(status_code=204)

    async def reset(self, _: Request) -> Response:
        self._twin.reset()
        return Response(status_code=204)

    async def healthz(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})


async def _read(request: Request, read: Callable[[dict[str, Any]], Model]) -> Model | Response:
    """Return the JSON object of the request as a model, or a 422 response that names the errors."""
    try:
        body = json.loads(await request.body())
    except ValueError:
        body = None
    if not isinstance(body, dict):
        return JSONResponse({"detail": "a JSON object is expected"}, 422)
    try:
        return read(body)
    except ValidationError as problem:
        return JSONResponse({"detail": validation_detail(problem)}, 422)
