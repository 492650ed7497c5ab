"""Finished images, rendered on their first download.

Only the latest are cached. An older image is rendered again, to the same bytes. A file that a test provides takes the
place of every image, for results that no renderer makes: damaged metadata, a missing end, an error page.
"""

import asyncio
import hashlib
from collections import OrderedDict, deque
from datetime import datetime

from app.twin import pictures
from app.twin.task import Task

KEPT_BYTES = 64 * 2**20


class Gallery:
    def __init__(self) -> None:
        self.file: bytes | None = None  # delivered in the place of every image
        self._rendered: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._with_inputs: deque[Task] = deque()

    def add(self, task: Task, now: datetime) -> None:
        """Add a new task, and free the inputs of tasks whose links have expired: they cannot be downloaded any more."""
        self._with_inputs.append(task)
        while self._with_inputs and (self._with_inputs[0].link_ends_at or now) < now:
            self._with_inputs.popleft().sources = ()

    async def picture(self, task: Task) -> bytes:
        """Return the encoded image, and record its digest in the task."""
        if self.file is not None:
            task.sha256 = hashlib.sha256(self.file).hexdigest()
            return self.file
        data = self._rendered.get(task.id)
        if data is None:
            inputs = [source.data for source in task.sources]
            picture = (task.prompt, task.seed, inputs, task.size, task.output_format)
            data = await asyncio.to_thread(pictures.render, *picture)
            self._keep(task, data)
        return data

    def _keep(self, task: Task, data: bytes) -> None:
        task.sha256 = hashlib.sha256(data).hexdigest()
        # Two simultaneous downloads render the same bytes twice; they count once.
        self._bytes += len(data) - len(self._rendered.get(task.id, b""))
        self._rendered[task.id] = data
        while self._bytes > KEPT_BYTES and len(self._rendered) > 1:
            self._bytes -= len(self._rendered.popitem(last=False)[1])
