"""What is counted of the tasks of a key. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Used:
    """The tasks of one key and one model. `cost` is in credits, over all attempts; unknown costs are not in it."""

    key_id: str
    key_name: str | None
    model: str
    posted: int
    stored: int
    failed: int
    cancelled: int
    open: int
    cost: float
    cost_unknown: int  # tasks without a known cost, except those that certainly cost nothing
