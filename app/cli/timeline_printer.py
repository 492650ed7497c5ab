"""Prints the timelines of running tasks, one line per entry as it appears."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx
import typer
from rich.console import Console
from rich.markup import escape

from app.cli.api import ask_for_page, ask_json, task_path
from app.cli.output import one_line

_POLL_EVERY_S = 0.15
_FINAL = frozenset({"stored", "failed", "cancelled"})
_VERDICTS = {
    "signed": "its signature is valid",
    "shared_secret": "it has the shared secret",
    "unproven": "without a proof: the provider is polled",
    "forged": "its proof is wrong: rejected",
}
_DOWNLOADS = {
    "failed": "the download failed",
    "kept_aside": "downloaded into the spool until the store is available",
    "stored": "downloaded as it is",
}


@dataclass(slots=True)
class _TaskTimeline:
    task: dict[str, Any]
    printed: set[str] = field(default_factory=set)

    @property
    def is_final(self) -> bool:
        return self.task["status"] in _FINAL

    def take_new_entries(self, client: httpx.Client) -> list[dict[str, Any]]:
        """Return the entries that have appeared since the last call.

        The task is read before its timeline, so the timeline of a final task is complete.
        """
        path = task_path(self.task["id"])
        self.task = ask_json(client, "GET", path)
        entries = ask_for_page(client, f"{path}/timeline", {}, "entries")["entries"]
        new = [entry for entry in entries if _identity(entry) not in self.printed]
        self.printed |= {_identity(entry) for entry in new}
        return new


def print_timelines(
    console: Console, client: httpx.Client, tasks: Mapping[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Print the timelines of the tasks until all are final. Takes tasks by label, returns the final tasks by label."""
    timelines = {label: _TaskTimeline(task) for label, task in tasks.items()}
    began = min(datetime.fromisoformat(task["created_at"]) for task in tasks.values())
    width = max(map(len, timelines))
    unfinished = dict(timelines)
    while unfinished:
        for label, timeline in list(unfinished.items()):
            for entry in timeline.take_new_entries(client):
                seconds = (datetime.fromisoformat(entry["at"]) - began).total_seconds()
                if text := _text(entry):
                    console.print(f"[dim]{seconds:6.2f} s[/]  [bold]{label:{width}}[/]  {text}", highlight=False)
            if timeline.is_final:
                del unfinished[label]
        time.sleep(_POLL_EVERY_S if unfinished else 0)
    return {label: timeline.task for label, timeline in timelines.items()}


def _identity(entry: dict[str, Any]) -> str:
    """Return a key that identifies an entry. An attempt gets a new key, and a new line, when its outcome is known."""
    parts = ("event", "at", "status", "submission_id", "outcome", "witness", "verdict", "sha256")
    return "|".join(str(entry.get(part)) for part in parts)


def _text(entry: dict[str, Any]) -> str:
    match entry:
        case {"event": "phase", "status": "queued"}:
            return "recorded, with an attempt and its own callback secret"
        case {"event": "phase", "status": "submitting"}:
            return "started: the request is sent to the provider"
        case {"event": "submission", "outcome": "accepted"}:
            return f"submitted: the provider accepted it as {escape(one_line(str(entry['provider_id'])))}"
        case {"event": "submission", "outcome": "refused"}:
            return f"the provider refused it: {escape(one_line(str(entry['detail'])))}"
        case {"event": "evidence", "witness": "callback"}:
            return f"a callback arrived, {_VERDICTS.get(entry['verdict'], entry['verdict'])}"
        case {"event": "evidence", "witness": "poll"}:
            return f"polled the provider: {entry['said']}"
        case {"event": "download", "outcome": outcome, "detail": str(detail)}:
            return f"{_DOWNLOADS[outcome]}: {escape(one_line(detail))}"
        case {"event": "phase", "status": "stored"}:
            return "[green]stored[/]: downloaded and synced"
        case {"event": "phase", "status": "failed" | "cancelled"}:
            return f"[red]{entry['status']}[/]"
    return ""


def follow(console: Console, client: httpx.Client, task: dict[str, Any]) -> dict[str, Any]:
    """Print the timeline of one task until it is final, and return it. Ctrl-C says how to follow it again."""
    try:
        return print_timelines(console, client, {"task": task})["task"]
    except KeyboardInterrupt:
        typer.echo(f"the task goes on: `fluxhook watch {task['id']}` follows it again", err=True)
        raise


def require_stored(task: dict[str, Any]) -> None:
    """End the command with exit code 1, and the reason, unless the image of the task is stored."""
    if task["failure"] is not None:
        failure = task["failure"]
        typer.echo(f"{failure['code']}: {failure['detail']} (money spent: {failure['money_spent']})", err=True)
    if task["status"] != "stored":
        raise typer.Exit(1)
