"""Runs a batch: some rows at a time are sent, waited for and downloaded, each step remembered in the journal."""

import asyncio
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError

from app import clock
from app.cli.answers import TaskAnswer
from app.cli.api import as_text, task_path
from app.cli.batch.calls import BatchStopped, Calls, RowFailed
from app.cli.batch.journal import Journal, Known
from app.cli.batch.rows import Request

_FINAL = frozenset({"stored", "failed", "cancelled"})
_ENDINGS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
_WAIT_S = 30  # for a task to become final, before the service is asked again
_MIN_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a row. `problem`: why it has no image, or None."""

    request: Request
    task_id: str | None = None
    file: str | None = None
    cost: float | None = None
    problem: str | None = None
    was_known: bool = False  # it was complete before


@dataclass(slots=True)
class Batch:
    """A batch in progress. `on_done` is called for each row that ends."""

    calls: Calls
    journal: Journal
    out: Path | None
    on_done: Callable[[Done], None]
    digits: int = _MIN_DIGITS
    retry_failed: bool = False
    resend_lost: bool = False
    done: list[Done] = field(default_factory=list)

    async def run(self, requests: Sequence[Request], concurrency: int) -> None:
        """Do all rows, `concurrency` at a time. Raises BatchStopped."""
        self.digits = max(_MIN_DIGITS, len(str(max(request.row.number for request in requests))))
        waiting = iter(requests)

        async def work() -> None:
            for request in waiting:
                done = await self._row(request)
                self.done.append(done)
                self.on_done(done)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, len(requests))):
                    group.create_task(work())
        except* BatchStopped as stopped:
            raise stopped.exceptions[0] from None  # the same reason for all rows

    async def _row(self, request: Request) -> Done:
        known = self.journal.of(request.key)
        try:
            if self._is_complete(known):
                return Done(request, known.task_id, known.file, known.cost, was_known=True)
            task_id = await self._sent(request, known)
            task = await self._final(request, known, task_id)
            if task.failure is not None or task.image is None:
                why = task.status if task.failure is None else f"{task.failure.code}: {task.failure.detail or ''}"
                return Done(request, task_id, cost=task.cost, problem=why.removesuffix(": "))
            file = None if self.out is None else await self._downloaded(request, task)
        except RowFailed as error:
            return Done(request, known.task_id, cost=known.cost, problem=str(error))
        except OSError as error:
            return Done(request, known.task_id, cost=known.cost, problem=f"{error.filename}: {error.strerror}")
        return Done(request, task_id, file, task.cost)

    def _is_complete(self, known: Known) -> bool:
        if known.status != "stored":
            return False
        return self.out is None or (known.file is not None and _digest(self.out / known.file) == known.sha256)

    async def _sent(self, request: Request, known: Known) -> str:
        """Return the task of a row, which is made unless it is known. Raises RowFailed."""
        if known.task_id is not None:
            if self.retry_failed and known.status == "failed":
                await self._resubmit(known.task_id)
            return known.task_id
        if known.may_be_lost(clock.utc_now()) and not self.resend_lost:
            raise RowFailed(
                "was sent more than 23 hours ago and its answer was not seen: look for its task with `fluxhook tasks`; "
                "--resend-lost sends it again, which may make a second task"
            )
        self.journal.add(request.key, row=request.row.number, sending_at=clock.utc_now())
        answer = await self.calls(
            "POST", "/v1/tasks", headers={"idempotency-key": request.key}, **await asyncio.to_thread(_body, request)
        )
        task = _task(answer)
        self.journal.add(request.key, task_id=task.id)
        return task.id

    async def _resubmit(self, task_id: str) -> None:
        """Make a new attempt, unless a stopped command has made one already."""
        if _task(await self.calls("GET", task_path(task_id))).status == "failed":
            await self.calls("POST", f"{task_path(task_id)}/resubmit")

    async def _final(self, request: Request, known: Known, task_id: str) -> TaskAnswer:
        """Return the task as soon as it is final, and remember its end. Raises RowFailed."""
        while True:
            answer = await self.calls("GET", task_path(task_id), headers={"prefer": f"wait={_WAIT_S}"})
            task = _task(answer)
            if task.status in _FINAL:
                break
            await asyncio.sleep(0.2)  # the service may be stopping, and answers at once then
        code = None if task.failure is None else task.failure.code
        if (known.status, known.code, known.cost) != (task.status, code, task.cost):
            self.journal.add(request.key, status=task.status, code=code, cost=task.cost)
        return task

    async def _downloaded(self, request: Request, task: TaskAnswer) -> str:
        """Write the image of a task, unless its file is complete, and return the file's name.

        Raises RowFailed and OSError.
        """
        if self.out is None or task.image is None:
            raise AssertionError("unreachable: there is an image, and a folder for it")
        name = f"{request.row.number:0{self.digits}}.{_ENDINGS.get(task.image.media_type, 'bin')}"
        if _digest(self.out / name) != task.image.sha256:
            content = (await self.calls("GET", task.image.url)).content
            if hashlib.sha256(content).hexdigest() != task.image.sha256:
                raise RowFailed("the image did not arrive complete: repeat the command")
            await asyncio.to_thread(_write, self.out / name, content)
        self.journal.add(request.key, file=name, sha256=task.image.sha256)
        return name


def _task(answer: httpx.Response) -> TaskAnswer:
    try:
        return TaskAnswer.model_validate(answer.json())
    except (ValueError, ValidationError) as error:
        raise BatchStopped("the answer is not one of Fluxhook, or of another version: check --url") from error


def _body(request: Request) -> dict[str, Any]:
    """Return the body of a request: JSON, or a form if there are files or all values are texts."""
    if not request.row.is_text and not request.files:
        return {"json": dict(request.fields)}
    parts: list[tuple[str, Any]] = [
        (name, (None, as_text(one)))
        for name, value in request.fields.items()
        for one in (value if isinstance(value, list) else [value])
    ]
    parts += [(name, (path.name, path.read_bytes())) for name, path in request.files]
    return {"files": parts}


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _write(path: Path, content: bytes) -> None:
    """Write a file at once: under another name first, so that a file of this name is always complete."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
