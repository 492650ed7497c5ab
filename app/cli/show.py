"""`show`: everything that is known about one task."""

from rich.console import Console
from rich.markup import escape

from app import clock
from app.cli import task_text
from app.cli.answers import TaskAnswer, TimelineAnswer, read
from app.cli.api import ask_json, connect, task_path
from app.cli.options import AsJson, Key, TaskId, Url
from app.cli.output import print_json
from app.settings import from_environment

_STYLES = {"stored": "green", "failed": "red", "cancelled": "red"}


def show(task_id: TaskId, *, as_json: AsJson = False, url: Url = None, key: Key = None) -> None:
    """Show a task: what it is, what happened to it, and what happens next and when."""
    path = task_path(task_id)
    with connect(from_environment(), url, key) as client:
        answers = ask_json(client, "GET", path), ask_json(client, "GET", f"{path}/timeline")
        if as_json:
            print_json(dict(zip(("task", "timeline"), answers, strict=True)))
            return
        base = str(client.base_url)
        _print(read(TaskAnswer, answers[0], base), read(TimelineAnswer, answers[1], base))


def _print(task: TaskAnswer, timeline: TimelineAnswer) -> None:
    now = clock.utc_now()
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{task.id}[/]  [{_STYLES.get(task.status, 'yellow')}]{task.status}[/]")
    rows = list(task_text.facts(task, now))
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        console.print(f"  [dim]{escape(label):{width}}[/]  {escape(text)}")
    console.print("[bold]What happened[/] [dim](seconds since it was recorded)[/]")
    for at, text in task_text.happened(timeline.entries):
        console.print(f"  [dim]{(at - task.created_at).total_seconds():10.2f}[/]  {escape(text)}")
    console.print("[bold]What happens next[/]")
    for text in task_text.following(task, timeline, now):
        console.print(f"  {escape(text)}")
