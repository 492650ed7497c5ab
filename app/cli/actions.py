"""`cancel`, `resubmit` and `delete`: changes of one task."""

from typing import Any

import typer

from app.cli.answers import TaskAnswer, get
from app.cli.api import ask, ask_json, connect, json_object, task_path
from app.cli.confirm import Yes, confirm
from app.cli.options import AsJson, Key, TaskId, Url
from app.cli.output import print_json
from app.settings import from_environment

_SPENT = {"no": "cost nothing", "yes": "was charged", "maybe": "may have been charged"}


def cancel(task_id: TaskId, *, as_json: AsJson = False, url: Url = None, key: Key = None) -> None:
    """Cancel a queued task. A task that the provider already has goes on, and its result is kept."""
    with connect(from_environment(), url, key) as client:
        task = ask_json(client, "POST", f"{task_path(task_id)}/cancel")
    if as_json:
        print_json(task)
    elif task.get("unwanted"):
        typer.echo(f"{task_id} is at the provider and cannot be cancelled: its result is kept and marked as unwanted")
    else:
        typer.echo(f"{task_id} is {task.get('status')}")


def resubmit(task_id: TaskId, *, yes: Yes = False, as_json: AsJson = False, url: Url = None, key: Key = None) -> None:
    """Make a new attempt for a failed task, which may cost again."""
    with connect(from_environment(), url, key) as client:
        task = get(client, task_path(task_id), TaskAnswer)
        if task.failure is not None:  # otherwise the service says why it cannot be resubmitted
            price = _price(ask_json(client, "GET", "/v1/models"), task.model)
            before = _SPENT.get(task.failure.money_spent, task.failure.money_spent)
            text = f"{task_id} failed as {task.failure.code} and {before}. A new attempt costs {price}."
            confirm(f"{text} Make it?", yes=yes)
        changed = ask_json(client, "POST", f"{task_path(task_id)}/resubmit")
    if as_json:
        print_json(changed)
    else:
        typer.echo(f"{task_id} is {changed.get('status')}; `fluxhook watch {task_id}` follows it")


def delete(task_id: TaskId, *, yes: Yes = False, as_json: AsJson = False, url: Url = None, key: Key = None) -> None:
    """Erase a final task with its images and all evidence. Its cost stays in the usage."""
    with connect(from_environment(), url, key) as client:
        task = get(client, task_path(task_id), TaskAnswer)
        confirm(f"{task_id} is {task.status}. Erase it with its images and all evidence, for good?", yes=yes)
        answer = ask(client, "DELETE", task_path(task_id), headers={"prefer": "return=representation"})
    if as_json:
        print_json(json_object(answer) if answer.content else None)  # a task of an earlier version has no receipt
    else:
        typer.echo(f"{task_id} is erased")


def _price(models: dict[str, Any], model_id: str) -> str:
    """Return the price of a model as the catalog of the service estimates it."""
    rows = [row for row in models.get("models", []) if row.get("id") == model_id]
    credits_ = rows[0].get("credits") if rows else None
    return "an unknown price" if credits_ is None else f"about {credits_:g} credits (USD {credits_ / 100:.3g})"
