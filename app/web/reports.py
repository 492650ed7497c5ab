"""Statistics: few are read at once, and the short units of work do not wait for them."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from app.db.engine.long_work import long_work
from app.resources import Resources


@asynccontextmanager
async def report(use: Resources) -> AsyncGenerator[None]:
    """Read statistics in the block. Raises DatabaseUnavailable if others are read for too long."""
    async with use.reporting.taken():
        with long_work():
            yield
