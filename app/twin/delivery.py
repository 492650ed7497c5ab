"""The delivery host: images behind links that expire."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.twin.engine import Twin
from app.twin.links import MEDIA_TYPES, refusal_xml
from app.twin.task import Outcome, Task
from app.twin.wire import TruncatedResponse, redirect, slow_response


class Delivery:
    def __init__(self, twin: Twin) -> None:
        self._twin = twin

    def routes(self) -> list[Route]:
        return [Route("/delivery/{file}", self.picture, methods=["GET"])]

    async def picture(self, request: Request) -> Response:
        now, rules = self._twin.now(), self._twin.rules
        redirected = redirect(request, rules.delivery_redirects, rules.redirect_origin)
        if redirected is not None:
            return redirected
        refusal = self._twin.links.refusal(request.url.path, request.query_params, now)
        if refusal is not None:
            return Response(refusal, 403, media_type="application/xml")
        # The task ID stands before the dot. A genuine link names an unknown task only after a reset.
        task = self._twin.tasks.get(request.path_params["file"].partition(".")[0])
        if task is None or task.outcome_at(now) is not Outcome.READY:
            return Response(status_code=404)
        first = task.downloads == 0
        task.downloads += 1
        if first and "refused_link" in task.faults:
            return Response(refusal_xml(now, now), 403, media_type="application/xml")
        return self._body(task, await self._twin.gallery.picture(task), first=first)

    def _body(self, task: Task, data: bytes, *, first: bool) -> Response:
        media_type = MEDIA_TYPES[task.output_format]
        if first and "truncated_body" in task.faults:
            return TruncatedResponse(data[: len(data) // 2], content_length=len(data), media_type=media_type)
        if first and "slow_body" in task.faults:
            return slow_response(data, self._twin.faults.slow_s, media_type)
        return Response(data, media_type=media_type)
