"""Telling what happens to tasks, a line for each entry of their timelines as it appears."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx
from rich.console import Console
from rich.markup import escape

from app.cli.api import ask

_LOOK_EVERY_S = 0.15
_FINAL = frozenset({"stored", "failed", "cancelled"})
_VERDICTS = {
    "signed": "its signature is right",
    "shared_secret": "it knows the secret",
    "unproven": "nothing proves it: the provider is asked",
    "forged": "its signature is wrong: refused",
}


@dataclass(slots=True)
class _Story:
    task: dict[str, Any]
    told: set[str] = field(default_factory=set)

    @property
    def over(self) -> bool:
        return self.task["status"] in _FINAL

    def news(self, client: httpx.Client) -> list[dict[str, Any]]:
        """The entries that were not told yet. The task is read first: what follows its end is in its timeline."""
        path = f"/v1/tasks/{self.task['id']}"
        self.task = ask(client, "GET", path).json()
        entries = ask(client, "GET", f"{path}/timeline").json()["entries"]
        new = [entry for entry in entries if _name(entry) not in self.told]
        self.told |= {_name(entry) for entry in new}
        return new


def tell(console: Console, client: httpx.Client, tasks: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Print what happens to tasks, given by label, until all are final; return them as they ended."""
    stories = {label: _Story(task) for label, task in tasks.items()}
    began = min(datetime.fromisoformat(task["created_at"]) for task in tasks.values())
    width = max(map(len, stories))
    going_on = dict(stories)
    while going_on:
        for label, story in list(going_on.items()):
            for entry in story.news(client):
                seconds = (datetime.fromisoformat(entry["at"]) - began).total_seconds()
                if text := _words(entry):
                    console.print(f"[dim]{seconds:6.2f} s[/]  [bold]{label:{width}}[/]  {text}", highlight=False)
            if story.over:
                del going_on[label]
        time.sleep(_LOOK_EVERY_S if going_on else 0)
    return {label: story.task for label, story in stories.items()}


def _name(entry: dict[str, Any]) -> str:
    """What tells entries apart; an attempt is told again when its outcome is known."""
    parts = ("event", "at", "status", "submission_id", "outcome", "witness", "verdict", "sha256")
    return "|".join(str(entry.get(part)) for part in parts)


def _words(entry: dict[str, Any]) -> str:
    match entry:
        case {"event": "phase", "status": "queued"}:
            return "recorded, with an attempt and a secret of its own"
        case {"event": "submission", "outcome": "accepted"}:
            return f"submitted: the provider took it as {escape(str(entry['provider_id']))}"
        case {"event": "submission", "outcome": "refused"}:
            return f"the provider refused: {escape(str(entry['detail']))}"
        case {"event": "evidence", "witness": "callback"}:
            return f"a callback arrived, {_VERDICTS.get(entry['verdict'], entry['verdict'])}"
        case {"event": "evidence", "witness": "poll"}:
            return f"asked the provider: {entry['said']}"
        case {"event": "download", "outcome": "failed"}:
            return f"the download failed: {escape(str(entry['detail']))}"
        case {"event": "download", "outcome": "kept_aside"}:
            return f"downloaded and kept on this machine until the store is back: {escape(str(entry['detail']))}"
        case {"event": "phase", "status": "stored"}:
            return "[green]stored[/]: downloaded, decoded, synced to disk"
        case {"event": "phase", "status": "failed" | "cancelled"}:
            return f"[red]{entry['status']}[/]"
    return ""
