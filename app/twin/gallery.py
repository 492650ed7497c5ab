"""Finished pictures, rendered when they are asked for: what nobody downloads costs nothing.

Only the latest are kept. An older one is rendered again, to the same bytes.
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
        self._rendered: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._hanging: deque[Task] = deque()

    def hang(self, task: Task, now: datetime) -> None:
        """Note a new task, and let go of inputs whose link is over: they can be asked for no more."""
        self._hanging.append(task)
        while self._hanging and (self._hanging[0].link_ends_at or now) < now:
            self._hanging.popleft().sources = ()

    async def picture(self, task: Task) -> bytes:
        """The encoded picture; its digest goes on the task's record."""
        data = self._rendered.get(task.id)
        if data is None:
            inputs = [source.data for source in task.sources]
            picture = (task.prompt, task.seed, inputs, task.size, task.output_format)
            data = await asyncio.to_thread(pictures.render, *picture)
            self._keep(task, data)
        return data

    def _keep(self, task: Task, data: bytes) -> None:
        task.sha256 = hashlib.sha256(data).hexdigest()
        # Two downloads at once render the same bytes twice; they count once.
        self._bytes += len(data) - len(self._rendered.get(task.id, b""))
        self._rendered[task.id] = data
        while self._bytes > KEPT_BYTES and len(self._rendered) > 1:
            self._bytes -= len(self._rendered.popitem(last=False)[1])
