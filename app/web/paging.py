"""Pages of a list in the order of its ids, newest first."""

from collections.abc import Sequence
from typing import Protocol, TypeVar


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


MAX_ROWS = 1000  # of lists that had no pages in earlier versions: clients of those read only one
Row = TypeVar("Row", bound=_HasId)


def page_of(rows: Sequence[Row], limit: int) -> tuple[Sequence[Row], str | None]:
    """Return the first `limit` rows, and the cursor of the next page: the id of the last of them.

    The caller reads `limit + 1` rows; the cursor is None if there is no further row.
    """
    page = rows[:limit]
    return page, page[-1].id if len(rows) > limit else None
