"""The composition root: builds the ASGI application from resources, routes and the worker."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI

from app import __version__
from app.catalog import Catalog, shipped_catalog
from app.db.engine.fair_queue import service_task
from app.resources import Resources
from app.web import pages, problems
from app.web.answers import Answers, AnswerTracking
from app.web.credits import Balances
from app.web.feed import Feed
from app.web.findings import Examine, Examiner
from app.web.key_use import KeyUse
from app.web.model_schemas import add_models
from app.web.openai import errors as openai_errors
from app.web.pages.access import answer_browser
from app.web.pages.render import static
from app.web.request_log import RequestLog
from app.web.routes import (
    accounts,
    applications,
    audit,
    callback_receiver,
    deliveries,
    endpoints,
    erasures,
    events,
    health,
    image,
    jobs,
    keys,
    limits,
    models,
    openai,
    provider_api,
    reachability,
    results,
    task_actions,
    task_costs,
    tasks,
    usage,
)
from app.web.routes import callbacks as callback_list
from app.web.safe_headers import SafeHeaders
from app.web.schemas import webhooks
from app.web.schemas.problems import Problem
from app.web.wrong_keys import WrongKeys
from app.worker import loop

# Shared by all applications of the process. FastAPI would build each route of an included router a second time, at the
# first request, and look for a route in two passes at each one.
_ROUTES = [
    route
    for module in (
        task_actions,
        task_costs,
        tasks,
        events,
        image,
        provider_api,
        results,
        deliveries,
        endpoints,
        keys,
        applications,
        usage,
        accounts,
        models,
        openai,
        callback_list,
        callback_receiver,
        reachability,
        jobs,
        limits,
        audit,
        erasures,
        health,
        pages,
    )
    for route in module.router.routes
]


def create_app(
    resources: AbstractAsyncContextManager[Resources],
    catalog: Catalog | None = None,
    *,
    with_worker: bool = True,
    examine: Examine | None = None,
) -> FastAPI:
    """Build the service. `resources` are entered at startup and exited at shutdown.

    `catalog`: the models of the resources; by default those that ship. `with_worker`: the process also runs jobs.
    `examine`: the checks of `doctor`, for the page of the settings.
    """
    catalog = catalog or shipped_catalog()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with (
            resources as use,
            Feed(use.db, use.stopping, now=use.now) as feed,
            Answers(use.db, use.worker_id, use.now) as answers,
            AsyncExitStack() as stack,
        ):
            app.state.use, app.state.feed, app.state.answers = use, feed, answers
            writing = service_task(app.state.key_use.write(use.db))
            stack.callback(writing.cancel)
            if not with_worker:
                yield
                return
            async with asyncio.TaskGroup() as group:
                group.create_task(loop.run(use))
                yield
                use.stopping.set()

    app = FastAPI(
        title="Fluxhook",
        version=__version__,
        summary="A job gateway for FLUX image tasks.",
        servers=[{"url": "/", "description": "The service that this document comes from."}],
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # Behind a proxy, a redirect would contain the internal host and scheme.
        redirect_slashes=False,
        # FastAPI's spans contain whole paths, and callback paths contain a token. `request_log` creates spans instead.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.scrapers = set()
    app.state.key_use, app.state.wrong_keys = KeyUse(), WrongKeys()
    app.state.catalog = catalog
    app.router.routes.extend([*_ROUTES, *provider_api.model_routes(catalog)])
    app.webhooks.include_router(webhooks.webhooks)
    app.mount("/static", static)
    problems.install(app, {openai.PREFIX: openai_errors.answer}, answer_browser)
    app.add_middleware(AnswerTracking)
    app.add_middleware(RequestLog)
    app.add_middleware(SafeHeaders)  # outermost: errors have the headers too
    app.state.balances = Balances()
    app.state.examiner = Examiner(examine)
    _describe(app, catalog)
    return app


def _describe(app: FastAPI, catalog: Catalog) -> None:
    """Add to the OpenAPI document what no route declares: problems, security schemes and the requests of the models."""
    generate = app.openapi

    def openapi() -> dict[str, object]:
        document = generate()
        components = document.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schemas["Problem"].pop("$defs", {})
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "x-key": {"type": "apiKey", "in": "header", "name": "x-key"},
        }
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        add_models(document, catalog)
        for path, operations in document["paths"].items():
            for operation in operations.values():
                if path.startswith(("/v1/", "/flux/v1/", f"{openai.PREFIX}/", "/metrics")):
                    operation["security"] = [{"bearer": []}, {"x-key": []}]
        for operation in _operations(document["paths"] | document["webhooks"]):
            _drop_default_422(operation["responses"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _operations(paths: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield all operations of these paths, including those of their callbacks."""
    for operations in paths.values():
        for operation in operations.values():
            yield operation
            for callback_paths in operation.get("callbacks", {}).values():
                yield from _operations(callback_paths)


def _drop_default_422(responses: dict[str, Any]) -> None:
    """Remove the 422 response that FastAPI adds to routes with parameters: the service has responses of its own."""
    schema = responses.get("422", {}).get("content", {}).get("application/json", {}).get("schema", {})
    if schema.get("$ref", "").endswith("/HTTPValidationError"):
        del responses["422"]
