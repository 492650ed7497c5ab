"""Values that a shell completes.

A shell shows no errors, so an unusable configuration yields the shipped models, and a service that does not answer
yields no tasks.
"""

import io
import threading
from contextlib import redirect_stderr, suppress
from typing import Any

import typer

from app import ids
from app.errors import ConfigurationError
from app.rules.task import Status

_LONGEST_S = 2.0  # that a shell waits for a completion
_TASKS = 100


def models(incomplete: str) -> list[str]:
    """Return the ids of the image models that begin with this text."""
    from app.catalog import shipped_catalog  # noqa: PLC0415 - the catalog is read only if a model is completed
    from app.settings import from_environment  # noqa: PLC0415
    from app.wiring import load_catalog  # noqa: PLC0415

    catalog = shipped_catalog()
    with suppress(ConfigurationError):
        catalog = load_catalog(from_environment())
    return [model_id for model_id in catalog.served if model_id.startswith(incomplete)]


def states(incomplete: str) -> list[str]:
    """Return the states of tasks that begin with this text."""
    return [status.value for status in Status if status.startswith(incomplete)]


def task_ids(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return the ids of the newest tasks that begin with this text, each with its state.

    Anything else that the service answers is left out: shells evaluate completions, and a prompt could hold commands.
    """
    found: list[tuple[str, str]] = []

    def ask() -> None:
        with suppress(Exception, SystemExit):
            found.extend(_newest_tasks(ctx.params))

    asking = threading.Thread(target=ask, daemon=True)  # a name lookup has no timeout of its own
    with redirect_stderr(io.StringIO()):
        asking.start()
        asking.join(_LONGEST_S)
    return [(task_id, status) for task_id, status in list(found) if task_id.startswith(incomplete)]


def _newest_tasks(options: dict[str, Any]) -> list[tuple[str, str]]:
    from app.cli.api import ask_for_page, connect  # noqa: PLC0415 - a client is needed only if a task is completed
    from app.settings import from_environment  # noqa: PLC0415

    with connect(from_environment(), options.get("url"), options.get("key")) as client:
        client.timeout = _LONGEST_S
        tasks = ask_for_page(client, "/v1/tasks", {"limit": _TASKS}, "tasks")["tasks"]
    return [(task["id"], Status(task["status"]).value) for task in tasks if ids.is_id("task", task["id"])]
