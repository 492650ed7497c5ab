"""What `doctor` finds, for a page: its checks need the settings, which only the composition root knows."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

_LONGEST_S = 30.0
_CACHED_FOR_S = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. An unhealthy finding makes the exit code 1, a warning does not."""

    name: str
    text: str
    unhealthy: bool = False
    warning: bool = False  # something will need an operator soon
    readable: bool = False  # of the database: its schema can be read by this version


# Runs the checks, which take seconds if something does not answer.
Examine: TypeAlias = Callable[[], Awaitable[Sequence[Finding]]]


class Examiner:
    """Runs the checks for pages: once at a time, and not again for ten seconds, however many ask."""

    def __init__(self, examine: Examine | None) -> None:
        self._examine = examine
        self._lock = asyncio.Lock()
        self._found: Sequence[Finding] = ()
        self._found_at = -_CACHED_FOR_S

    @property
    def is_available(self) -> bool:
        return self._examine is not None

    async def findings(self) -> Sequence[Finding]:
        """Return what the checks find; none if they are not available."""
        if self._examine is None:
            return ()
        async with self._lock:
            if time.monotonic() - self._found_at >= _CACHED_FOR_S:
                try:
                    async with asyncio.timeout(_LONGEST_S):
                        self._found = await self._examine()
                except TimeoutError:
                    self._found = [Finding("checks", f"they have not ended in {_LONGEST_S:.0f} s", unhealthy=True)]
                self._found_at = time.monotonic()
            return self._found
